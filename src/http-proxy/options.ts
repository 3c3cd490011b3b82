// The options in http-proxy's words, as far as they are about WebSockets.

import type { ServerOptions as HttpsOptions } from 'node:https'

export interface ProxyTargetDetailed {
  /** `ws:`, `http:`, `wss:` or `https:`; default `ws:`. */
  protocol?: string | null | undefined
  /** Default localhost. */
  host?: string | null | undefined
  /** What is dialled if it is not `host`. */
  hostname?: string | null | undefined
  port?: number | string | null | undefined
  /** Dialled in the place of host and port. */
  socketPath?: string | undefined
  /** Client certificate and key for a target that asks for one, as PEM text. */
  cert?: string | Buffer | undefined
  key?: string | Buffer | undefined
}

export type ProxyTargetUrl = string | URL | Pick<ProxyTargetDetailed, 'protocol' | 'host' | 'port'>
export type ProxyTarget = ProxyTargetUrl | ProxyTargetDetailed

/** What is not in here belongs to plain HTTP, and is refused. */
export interface ServerOptions {
  /** Where upgrades go: `ws://host:port/path`, a URL, or its parts. May also be given with each call. */
  target?: ProxyTarget | undefined
  /** Whether the server that `listen` opens takes upgrades. */
  ws?: boolean | undefined
  /** Certificate, key, … of the server that `listen` opens. */
  ssl?: HttpsOptions | undefined
  /** `Host` becomes that of the target. */
  changeOrigin?: boolean | undefined
  /** Set on the request, over what the client sent. */
  headers?: Readonly<Record<string, string | number | readonly string[]>> | undefined
  /** Adds X-Forwarded-For, -Port and -Proto. */
  xfwd?: boolean | undefined
  /** `user:password` of an Authorization field. */
  auth?: string | undefined
  /** The path is sent as it came, and not normalized. */
  toProxy?: boolean | undefined
  /** Whether the path of the target comes before that of the request; default true. */
  prependPath?: boolean | undefined
  /** Leaves the path of the request out. */
  ignorePath?: boolean | undefined
  /** The source address of connections to the target. */
  localAddress?: string | undefined
  /** Verifies the certificate of the target, which can't be switched off. */
  secure?: boolean | undefined
  /** For the dial, and again for the answer, in ms; default 10 s and 120 s. */
  proxyTimeout?: number | undefined
  /** Letters of fields always stay as they are. */
  preserveHeaderKeyCase?: boolean | undefined
  method?: 'GET' | undefined
  /** These have no effect on WebSockets, here as in http-proxy. */
  timeout?: number | undefined
  forward?: unknown
  followRedirects?: boolean | undefined
  selfHandleResponse?: boolean | undefined
  buffer?: unknown
  fetch?: unknown
  fetchOptions?: unknown
}
