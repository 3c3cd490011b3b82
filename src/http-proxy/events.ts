// What a proxy tells, in http-proxy's words, and how: a listener that throws is told of as a warning of the process, and no
// connection notices.

import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { ErrorCode, HeadraceError } from '../errors.ts'
import type { ProxyTarget, ServerOptions } from './options.ts'
import type { ProxyRequest } from './proxy-request.ts'
import type { ProxySocket, SwitchingResponse } from './proxy-socket.ts'

export interface ProxyServerEvents {
  /** An upgrade went no further, a tunnel was cut, or `web` was called; `answerer`: the client's socket, or the response of `web`. */
  error: [error: Error, request: IncomingMessage, answerer: Socket | ServerResponse, target?: ProxyTarget]
  /** The request is about to go to the target: what is changed on it is what the target gets. */
  proxyReqWs: [
    proxyRequest: ProxyRequest,
    request: IncomingMessage,
    socket: Socket,
    options: ServerOptions,
    head: Buffer,
  ]
  /** The client has its 101, and no byte has moved yet. */
  open: [proxySocket: ProxySocket]
  /** Once for each `open`, when both connections are over. `head`: what came from the target right behind its 101. */
  close: [response: SwitchingResponse, proxySocket: ProxySocket, head: Buffer]
}

export type ErrorCallback = (...told: ProxyServerEvents['error']) => void

/** Events of http-proxy that are about plain HTTP, or that it has given up. */
const NEVER = ['proxyReq', 'proxyRes', 'start', 'end', 'econnreset', 'proxySocket']

/** Whether nobody would ever be told of it. */
export function isNeverTold(event: string | symbol): boolean {
  return NEVER.includes(String(event))
}

/** Does it, whatever listeners do. */
export function guarded(act: () => void): void {
  try {
    act()
  } catch (error) {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error)
    process.emitWarning(`headrace/http-proxy: a listener threw: ${text}`, 'HeadraceWarning')
  }
}

/** What node calls these; of the others it is known by their cause, or they have no name there. */
const CODES: Partial<Record<ErrorCode, string>> = {
  'client-reset': 'ECONNRESET',
  'dial-reset': 'ECONNRESET',
  'dial-timeout': 'ETIMEDOUT',
  'answer-closed': 'ECONNRESET',
  'answer-reset': 'ECONNRESET',
  'answer-timeout': 'ETIMEDOUT',
}

/**
 * The error as listeners of http-proxy look at it: `code` is node's, such as ECONNREFUSED, and what Headrace says of it the
 * `cause`. What a listener or the options have thrown is told as it is, and what node has no code for as a HeadraceError.
 */
export function errorFor(error: HeadraceError): Error {
  const { cause, code, message } = error
  if (code === 'handler-failed' && cause instanceof Error) return cause
  const nodes = (cause as { readonly code?: unknown } | null | undefined)?.code ?? CODES[code]
  return typeof nodes === 'string'
    ? Object.assign(new Error(message, { cause: error }), { code: nodes })
    : error
}
