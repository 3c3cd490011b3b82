// What the options change of a request before it goes to its target, in http-proxy's order: what is forwarded, the path, the
// headers, who asks, and the host.

import type { RequestView } from '../handoff/request-view.ts'
import type { ServerOptions } from './options.ts'
import type { Target } from './target.ts'

/** `remoteAddress`: of the client, as its socket has it. Throws argument-invalid for a path that can't be sent. */
export function changeRequest(
  view: RequestView,
  options: ServerOptions,
  target: Target,
  remoteAddress: string,
): void {
  const { headers } = view
  if (options.xfwd) addForwarded(view, remoteAddress)
  view.url = pathFor(view.url, options, target)
  for (const [name, value] of Object.entries(options.headers ?? {})) {
    const [first = '', ...more] = [value].flat().map(String)
    headers.set(name, first)
    for (const one of more) headers.append(name, one)
  }
  if (options.auth) headers.set('Authorization', `Basic ${Buffer.from(options.auth).toString('base64')}`)
  if (options.changeOrigin) headers.set('Host', target.host)
}

/** Behind those of the client, which are kept. */
function addForwarded({ headers, tls }: RequestView, remoteAddress: string): void {
  const [, port = tls === null ? '80' : '443'] = /:([0-9]+)/.exec(headers.get('host') ?? '') ?? []
  const added = { For: remoteAddress, Port: port, Proto: tls === null ? 'ws' : 'wss' }
  for (const [name, value] of Object.entries(added)) {
    const before = headers.get(`X-Forwarded-${name}`)
    headers.set(`X-Forwarded-${name}`, before ? `${before},${value}` : value)
  }
}

function pathFor(asked: string, { toProxy, prependPath, ignorePath }: ServerOptions, target: Target): string {
  const own = ignorePath ? '' : toProxy ? asked : normalized(asked)
  return joined(prependPath === false ? '/' : target.path, own)
}

/** Without `.` and `..` in it. */
function normalized(url: string): string {
  // Two slashes would begin a host.
  const { pathname, search } = new URL(
    url.startsWith('//') ? `http://host.invalid${url}` : url,
    'http://host.invalid',
  )
  return pathname + search
}

/** Paths with one slash between them, and both queries. */
function joined(first: string, second: string): string {
  const [path, query] = parted(first)
  const [more, moreQuery] = parted(second)
  const isDouble = path.endsWith('/') && more.startsWith('/')
  const isApart = more === '' || path.endsWith('/') || more.startsWith('/')
  const queries = [query, moreQuery].filter((one) => one !== '').join('&')
  return `${path}${isApart ? '' : '/'}${isDouble ? more.slice(1) : more}${queries === '' ? '' : `?${queries}`}`
}

function parted(url: string): [path: string, query: string] {
  const mark = url.indexOf('?')
  return mark === -1 ? [url, ''] : [url.slice(0, mark), url.slice(mark + 1)]
}
