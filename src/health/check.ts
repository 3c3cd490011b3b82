// One check of a backend: is it there, and is it who it should be? By the same dial as for clients, so that the same names,
// addresses and certificates are refused; on a connection of its own, that counts in no limit.

import type { Backend } from '../dial/backend.ts'
import { addressText } from '../dial/backend.ts'
import { dial } from '../dial/connect.ts'
import type { CheckOptions } from '../dial/health.ts'
import { Health } from '../dial/health.ts'
import { asHeadraceError, HeadraceError } from '../errors.ts'
import type { RequestHead } from '../head/head.ts'
import { field, requestBytes } from '../head/head.ts'
import { readResponseHead } from '../head/read.ts'
import type { Signal } from '../signal.ts'
import { SetUpSignal } from '../signal.ts'
import type { Transport } from '../transport/transport.ts'

/** An answer to a check has a head like any other's. */
const ANSWER_LIMITS = { headSize: 16_384, headFields: 100 }
/** How many 1xx answers may come before the real one. */
const INTERIM_LIMIT = 16

/**
 * Resolves with what is wrong, in words; null: nothing. Never rejects. `stopped`: nobody wants to know any more.
 */
export async function checkBackend(
  backend: Backend,
  check: CheckOptions,
  stopped: AbortSignal,
): Promise<string | null> {
  const signal = new SetUpSignal()
  const stop = () => signal.abort(stopped.reason)
  stopped.addEventListener('abort', stop)
  const startedAt = performance.now()
  let timer: NodeJS.Timeout | undefined
  try {
    const { transport } = await dial(probeOf(backend, check), signal)
    const late = new HeadraceError('answer-timeout', `${check.timeoutMs} ms`)
    timer = setTimeout(() => signal.abort(late), check.timeoutMs - (performance.now() - startedAt))
    try {
      return check.kind === 'http' ? await askFor(check, backend, transport, signal) : null
    } finally {
      transport.destroy()
    }
  } catch (error) {
    return asHeadraceError(error).message
  } finally {
    clearTimeout(timer)
    stopped.removeEventListener('abort', stop)
  }
}

/** The same origin, with limits and counters of its own; `tcp` stops before TLS. */
function probeOf(backend: Backend, { kind, timeoutMs }: CheckOptions): Backend {
  return {
    ...backend,
    options: { ...backend.options, connectTimeoutMs: timeoutMs },
    permits: null,
    held: [],
    secureContext: kind === 'tcp' ? null : backend.secureContext,
    health: new Health(null, null),
    connections: 0,
    heir: null,
  }
}

/** Throws what reading an answer throws. */
async function askFor(
  { path, statuses }: CheckOptions,
  backend: Backend,
  transport: Transport,
  signal: Signal,
): Promise<string | null> {
  transport.write(requestBytes(requestFor(path, backend)))
  let first: Buffer | null = null
  for (let count = 0; count <= INTERIM_LIMIT; count += 1) {
    const { head, rest, parser } = await readResponseHead(transport, first, ANSWER_LIMITS, signal)
    parser.free()
    const { status } = head
    if (statuses.includes(status)) return null
    if (status >= 200 || status < 100 || status === 101) return `${path} answers with ${status}`
    first = rest
  }
  throw new HeadraceError('answer-malformed', `over ${INTERIM_LIMIT} interim answers`)
}

function requestFor(path: string, { options: { address, overrideHost } }: Backend): RequestHead {
  const fields = [
    field('Host', overrideHost ?? ('path' in address ? 'localhost' : addressText(address))),
    field('User-Agent', 'Headrace-Check'),
    field('Connection', 'close'),
  ]
  return { method: 'GET', target: path, version: '1.1', fields }
}
