// What can be decided about a request, and the three words to say it with.

import { HeadraceError } from '../errors.ts'
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
      readonly body: string
    }

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

function checkArguments(call: string, request: unknown, backend: unknown): string {
  if (!(request instanceof RequestView)) {
    throw new HeadraceError(
      'argument-invalid',
      `${call}: the first argument is not the request that is being handled`,
    )
  }
  if (typeof backend !== 'string' || backend === '') {
    throw new HeadraceError('argument-invalid', `${call}: the second argument is not the name of a backend`)
  }
  return backend
}

/** The longest name that Fastly's call takes. */
const LONGEST_BACKEND_NAME = 254

/**
 * The handoff in the words of Fastly's JavaScript, with its errors. A method, since methods can't be used with `new`.
 */
export const { createWebsocketHandoff } = {
  createWebsocketHandoff(...given: [request: RequestView, backend: string]): Decision {
    const [request, name] = given
    if (given.length < 2) {
      throw new TypeError(
        `createWebsocketHandoff: At least 2 arguments required, but only ${given.length} passed`,
      )
    }
    if (!(request instanceof RequestView)) {
      throw new Error('createWebsocketHandoff: request parameter must be an instance of Request')
    }
    const backend = String(name)
    if (backend === '')
      throw new Error('createWebsocketHandoff: Backend parameter can not be an empty string')
    if (backend.length > LONGEST_BACKEND_NAME) {
      throw new Error('createWebsocketHandoff: name can not be more than 254 characters')
    }
    if (request.isDecided) {
      throw new Error('createWebsocketHandoff: a handoff is only possible while the request is being handled')
    }
    return { kind: 'handoff', backend }
  },
}
Object.defineProperty(createWebsocketHandoff, 'length', { value: 2 })
