// What can be decided about a request, and the words to say it with.

import type { Readable } from 'node:stream'
import { HeadraceError } from '../errors.ts'
import type { Served } from '../local/endpoint.ts'
import type { Session } from '../local/rooms.ts'
import { LocalSocket } from '../local/socket.ts'
import { RequestView } from './request-view.ts'

export type Decision =
  /** Give the WebSocket upgrade to a backend. */
  | { readonly kind: 'handoff'; readonly backend: string }
  /** Pass the request on as plain HTTP. */
  | { readonly kind: 'send'; readonly backend: string }
  /** Answer it here. */
  | {
      readonly kind: 'respond'
      readonly status: number
      readonly headers: readonly (readonly [name: string, value: string])[]
      /** A text has its length added to the fields; a stream is closed by whoever gives the answer. */
      readonly body: string | Readable
      /** The reason phrase, if it is another than the usual one. */
      readonly reason?: string
    }
  /** Be the endpoint of the WebSocket. */
  | { readonly kind: 'serve'; readonly served: Served }
  /** Give the upgrade to the object of this name, which lives in another process. */
  | { readonly kind: 'pass'; readonly session: string }

/** Gives an upgrade request, with all that was changed on it, to the backend of this name. Throws argument-invalid. */
export function handoff(request: RequestView, backend: string): Decision {
  return { kind: 'handoff', backend: checkArguments('handoff', request, backend) }
}

/** Passes the request on to the backend of this name as plain HTTP. Throws argument-invalid. */
export function send(request: RequestView, backend: string): Decision {
  return { kind: 'send', backend: checkArguments('send', request, backend) }
}

/**
 * Answers the request here. `status` 200 to 599; the body is text, as UTF-8 unless a Content-Type in `headers` says
 * otherwise; its length and the end of the connection are taken care of. Throws argument-invalid.
 */
export function respond(status: number, body = '', headers: Readonly<Record<string, string>> = {}): Decision {
  if (!Number.isInteger(status) || status < 200 || status > 599) {
    throw new HeadraceError('argument-invalid', `respond: the status ${status} is not one from 200 to 599`)
  }
  return { kind: 'respond', status, headers: Object.entries(headers), body: String(body) }
}

export interface ServeOptions {
  /** The subprotocol that is chosen: one of those that the client offered. */
  readonly protocol?: string
}

/**
 * Ends the WebSocket here: `opened` gets it when it is open. What `opened` and the listeners throw is logged, and ends this
 * socket alone. Throws argument-invalid, also for a request that is no upgrade.
 */
export function serve(
  request: RequestView,
  opened: (socket: LocalSocket) => unknown,
  options: ServeOptions = {},
): Decision {
  return servedAs('serve', null, request, opened, options)
}

export interface SessionHandle {
  readonly name: string
  /**
   * As `serve`, in the session of this name: `opened` runs in the one process where that lives, which may be another
   * worker. There the handler is asked once more, and has to join the same session.
   */
  join(
    request: RequestView,
    opened: (socket: LocalSocket, session: Session) => unknown,
    options?: ServeOptions,
  ): Decision
}

/** The longest name of a session, in bytes. */
const LONGEST_SESSION_NAME = 512

/** Sessions that several connections share, by name; each service has its own. */
export const sessions = {
  /** Throws argument-invalid unless the name is a text of 1 to 512 bytes. */
  get(name: string): SessionHandle {
    if (typeof name !== 'string' || name === '' || Buffer.byteLength(name) > LONGEST_SESSION_NAME) {
      throw new HeadraceError(
        'argument-invalid',
        `sessions.get: a name is a text of 1 to ${LONGEST_SESSION_NAME} bytes`,
      )
    }
    return { name, join: (request, opened, options = {}) => servedAs('join', name, request, opened, options) }
  },
}

function servedAs(
  call: string,
  session: string | null,
  request: RequestView,
  opened: (socket: LocalSocket, session: Session) => unknown,
  { protocol }: ServeOptions,
): Decision {
  checkRequest(call, request)
  if (!request.isUpgrade)
    throw new HeadraceError('argument-invalid', `${call}: the request is no WebSocket upgrade`)
  if (typeof opened !== 'function') {
    throw new HeadraceError(
      'argument-invalid',
      `${call}: the second argument is no function that gets the socket`,
    )
  }
  if (protocol !== undefined && !request.protocols.includes(protocol)) {
    throw new HeadraceError(
      'argument-invalid',
      `${call}: the client did not offer the subprotocol ${protocol}`,
    )
  }
  const served = { socket: new LocalSocket(), session, protocol, fields: [], begin: opened }
  return { kind: 'serve', served }
}

function checkRequest(call: string, request: unknown): void {
  if (request instanceof RequestView) return
  throw new HeadraceError(
    'argument-invalid',
    `${call}: the first argument is not the request that is being handled`,
  )
}

function checkArguments(call: string, request: unknown, backend: unknown): string {
  checkRequest(call, request)
  if (typeof backend !== 'string' || backend === '') {
    throw new HeadraceError('argument-invalid', `${call}: the second argument is not the name of a backend`)
  }
  return backend
}

/** The longest name that Fastly's call takes. */
const LONGEST_BACKEND_NAME = 254

/**
 * The backend's name in the arguments of Fastly's `createWebsocketHandoff`. Throws its errors. `isRequest`: what the first
 * argument must be; `isOpen`: whether that request is still being handled.
 */
export function handoffBackend<Asked>(
  given: readonly unknown[],
  isRequest: (value: unknown) => value is Asked,
  isOpen: (request: Asked) => boolean,
): string {
  const [request, name] = given
  if (given.length < 2) {
    throw new TypeError(
      `createWebsocketHandoff: At least 2 arguments required, but only ${given.length} passed`,
    )
  }
  if (!isRequest(request)) {
    throw new Error('createWebsocketHandoff: request parameter must be an instance of Request')
  }
  const backend = String(name)
  if (backend === '') throw new Error('createWebsocketHandoff: Backend parameter can not be an empty string')
  if (backend.length > LONGEST_BACKEND_NAME) {
    throw new Error('createWebsocketHandoff: name can not be more than 254 characters')
  }
  if (!isOpen(request)) {
    throw new Error('createWebsocketHandoff: a handoff is only possible while the request is being handled')
  }
  return backend
}

/**
 * The handoff in the words of Fastly's JavaScript, with its errors. A method, since methods can't be used with `new`.
 */
export const { createWebsocketHandoff } = {
  createWebsocketHandoff(...given: [request: RequestView, backend: string]): Decision {
    const isView = (value: unknown) => value instanceof RequestView
    return { kind: 'handoff', backend: handoffBackend(given, isView, (view) => !view.isDecided) }
  },
}
Object.defineProperty(createWebsocketHandoff, 'length', { value: 2 })
