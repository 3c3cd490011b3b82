// Which options are taken. What http-proxy looks at for a WebSocket means the same here or is refused; what it does not look at
// is not looked at here either; and nothing else is taken, so that nobody relies on what has no effect.

import { isAddress } from '../accept/addresses.ts'
import type { Complain, Problem } from '../config/problems.ts'
import { configError, problem, suggestion } from '../config/problems.ts'
import type { HeadraceError } from '../errors.ts'
import { HeaderView } from '../handoff/request-view.ts'
import type { ServerOptions } from './options.ts'
import type { Target } from './target.ts'
import { targetOf } from './target.ts'

type Check = (value: unknown) => readonly [reason: string, remedy: string] | null

/** As in http-proxy, what is truthy is on. */
const taken: Check = () => null

function refused(reason: string, remedy: string): Check {
  return (value) => (value === undefined || value === null || value === false ? null : [reason, remedy])
}

const ofPlainHttp = refused(
  'it is about answers to plain HTTP',
  'leave it out here, and keep http-proxy for web()',
)

const OPTIONS: ReadonlyMap<string, Check> = new Map(
  Object.entries<Check>({
    target: taken,
    ws: taken,
    ssl: (value) => (!value || typeof value === 'object' ? null : ['it is no object', 'write { key, cert }']),
    changeOrigin: taken,
    headers: checkHeaders,
    xfwd: taken,
    auth: (value) =>
      !value || typeof value === 'string' ? null : ['it is no text', "write 'user:password'"],
    toProxy: taken,
    prependPath: taken,
    ignorePath: taken,
    localAddress: (value) =>
      !value || isAddress(String(value)) ? null : [`${value} is no IP address`, 'write such as 10.0.0.5'],
    secure: taken,
    proxyTimeout: (value) =>
      !value || (typeof value === 'number' && value > 0) ? null : [`${value} is no time`, 'write ms'],
    preserveHeaderKeyCase: taken,
    method: (value) =>
      !value || value === 'GET' ? null : ['a WebSocket upgrade is always GET', 'leave it out'],
    timeout: taken,
    forward: taken,
    followRedirects: taken,
    selfHandleResponse: taken,
    buffer: taken,
    fetch: taken,
    fetchOptions: taken,
    agent: refused(
      'each WebSocket has a connection of its own, which no agent makes or keeps',
      'leave it out; there is localAddress for another source address',
    ),
    ca: refused(
      'certificates of targets are verified with the authorities that node trusts',
      'leave it out, and start node with NODE_EXTRA_CA_CERTS=ca.pem',
    ),
    hostRewrite: ofPlainHttp,
    autoRewrite: ofPlainHttp,
    protocolRewrite: ofPlainHttp,
    cookieDomainRewrite: ofPlainHttp,
    cookiePathRewrite: ofPlainHttp,
  }),
)

function checkHeaders(headers: unknown): ReturnType<Check> {
  if (headers === undefined || headers === null) return null
  if (typeof headers !== 'object') return ['it is no object', "write { 'X-Name': 'value' }"]
  const trial = new HeaderView([])
  for (const [name, value] of Object.entries(headers)) {
    try {
      for (const one of [value].flat()) trial.set(name, isText(one) ? String(one) : NO_VALUE)
    } catch (error) {
      return [(error as HeadraceError).detail.replace(/^headers: /, ''), 'mend it, or leave it out']
    }
  }
  return null
}

function isText(value: unknown): boolean {
  return typeof value === 'string' || typeof value === 'number'
}

/** What no field may have. */
const NO_VALUE = '\0'

/**
 * The target that they name; null if none is named. `options` is not trusted to be what its type says. Throws config-invalid
 * with all that is wrong.
 */
export function checkOptions(options: ServerOptions): Target | null {
  const problems = problemsOf(options)
  const complain: Complain = (path, reason, remedy) => void problems.push(problem(path, reason, remedy))
  const target = options.target ? targetOf(options.target, options.secure, complain) : null
  if (problems.length > 0) throw configError(problems)
  return target
}

/** The same of one call, which needs a target. */
export function checkedTarget(options: ServerOptions): Target {
  const target = checkOptions(options)
  if (target !== null) return target
  throw configError([
    problem(['target'], 'is missing', 'set it in the options of the proxy, or of this call'),
  ])
}

function problemsOf(options: ServerOptions): Problem[] {
  const problems: Problem[] = []
  const known = [...OPTIONS.keys()]
  for (const [name, value] of Object.entries(options)) {
    const check = OPTIONS.get(name)
    const fault =
      check === undefined ? [`unknown option${suggestion(name, known)}`, 'leave it out'] : check(value)
    if (fault !== null) problems.push(problem([name], fault[0] ?? '', fault[1] ?? ''))
  }
  return problems
}
