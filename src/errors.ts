// The one error class and its one table. Rooms throw codes; only the spine turns a code into an answer.
// `code` is API. The sentences are for people and may change.

import type { How, Who } from './end.ts'
import { operatorErrors } from './operator-errors.ts'

interface Entry {
  /** What the client gets; null: no answer, the connection is closed. */
  readonly status: number | null
  readonly who: Who
  readonly how: How
  /** One sentence that is safe to show to a stranger. */
  readonly sentence: string
  /** What whoever can mend it should do. */
  readonly remedy: string
}

const table = {
  // accept, tls
  'proxy-header-invalid': [
    null,
    'client',
    'error',
    'the PROXY protocol header is not valid',
    'send a PROXY v1 or v2 header first, or take proxyProtocol off the listener',
  ],
  'proxy-header-untrusted': [
    null,
    'client',
    'refused',
    'the sender is not trusted to send a PROXY header',
    "add the sender's address to proxyProtocol.from",
  ],
  'tls-handshake-failed': [
    null,
    'client',
    'error',
    'the TLS handshake failed',
    'use TLS 1.2 or later and a name that a certificate of the listener covers',
  ],
  // head
  'head-timeout': [
    408,
    'client',
    'timeout',
    'the request head did not arrive in time',
    'send the head within limits.headTimeout',
  ],
  'head-malformed': [
    400,
    'client',
    'error',
    'the request head is malformed',
    'send an HTTP/1.1 request as RFC 9112 has it',
  ],
  'head-too-large': [
    431,
    'client',
    'error',
    'the request head is too large',
    'send a smaller head, or raise limits.headSize',
  ],
  'head-too-many-fields': [
    431,
    'client',
    'error',
    'the request head has too many fields',
    'send fewer fields, or raise limits.headFields',
  ],
  'version-unsupported': [400, 'client', 'error', 'the HTTP version is not supported', 'send HTTP/1.1'],
  'host-invalid': [400, 'client', 'error', 'the request needs exactly one valid Host', 'send one Host field'],
  'target-invalid': [
    400,
    'client',
    'error',
    'the request target is not accepted',
    'send a path, or an absolute URI with the host of the Host field',
  ],
  'framing-invalid': [
    400,
    'client',
    'error',
    'the length of the request body is not clear',
    'send one Content-Length, or Transfer-Encoding: chunked alone',
  ],
  'upgrade-invalid': [
    400,
    'client',
    'error',
    'the WebSocket upgrade request is not valid',
    'send the fields that RFC 6455 section 4.1 asks for',
  ],
  'websocket-version': [
    426,
    'client',
    'error',
    'the WebSocket version is not supported',
    'send Sec-WebSocket-Version: 13',
  ],
  'client-closed': [null, 'client', 'fin', 'the client closed the connection', 'nothing to mend here'],
  'client-reset': [null, 'client', 'reset', 'the client reset the connection', 'nothing to mend here'],
  'service-unknown': [
    421,
    'edge',
    'refused',
    'no service has this host',
    'add the host to the domains of a service',
  ],
  // gate
  'websockets-off': [
    403,
    'edge',
    'refused',
    'WebSockets are switched off for this service',
    'switch them on: `headrace websockets on SERVICE`, the admin API, or `websockets: on` in the config',
  ],
  'rule-denied': [
    403,
    'edge',
    'refused',
    'a rule of this service does not allow this request',
    'see which rule it was, and change gate.rules of the service',
  ],
  'cross-origin': [
    403,
    'edge',
    'refused',
    'this service may not be used from this Origin',
    "add the page's origin to gate.origins of the service",
  ],
  'rate-limited': [
    429,
    'edge',
    'refused',
    'too many requests',
    'wait for Retry-After, or raise the limit in gate.rates of the service',
  ],
  'service-full': [
    503,
    'edge',
    'refused',
    'this service has all the connections that it may have',
    'try again later, or raise gate.maxConnections of the service',
  ],
  'client-full': [
    503,
    'edge',
    'refused',
    'this client has all the connections that it may have',
    'close one, or raise gate.maxConnectionsPerClient of the service',
  ],
  draining: [503, 'operator', 'refused', 'this edge is shutting down', 'try again, another edge will answer'],
  // decide
  'route-missing': [
    404,
    'edge',
    'refused',
    'no route takes this request',
    'add a route that matches it, or a handler',
  ],
  'upgrade-required': [
    426,
    'edge',
    'refused',
    'only WebSocket upgrades are served here',
    'send a WebSocket upgrade, or add a route with `send`',
  ],
  'handler-failed': [500, 'edge', 'error', 'the handler of this service failed', 'see the cause in the log'],
  'handler-timeout': [
    500,
    'edge',
    'timeout',
    'the handler of this service took too long',
    'make it decide sooner, or raise handlerTimeout',
  ],
  'backend-unknown': [
    500,
    'edge',
    'error',
    'the decision names a backend that this service does not have',
    'add the backend to the service',
  ],
  // dial
  'backend-full': [
    503,
    'edge',
    'refused',
    'the origin has all the connections that it may have',
    'try again later, or raise maxConnections',
  ],
  'name-unresolved': [
    502,
    'origin',
    'error',
    "the origin's name could not be resolved",
    "mend the backend's address, or the DNS",
  ],
  'address-forbidden': [
    502,
    'edge',
    'refused',
    "the origin's address is link-local",
    'set allowLinkLocal on the backend if that is meant',
  ],
  'dial-refused': [
    502,
    'origin',
    'refused',
    'the origin refused the connection',
    'start the origin, or mend its address',
  ],
  'dial-failed': [502, 'origin', 'error', 'the origin could not be reached', 'see the cause in the log'],
  'dial-reset': [502, 'origin', 'reset', 'the origin reset the connection', 'see what the origin logged'],
  'dial-timeout': [
    504,
    'origin',
    'timeout',
    'the origin did not accept the connection in time',
    'mend the way to the origin, or raise connectTimeout',
  ],
  'ports-exhausted': [
    503,
    'edge',
    'error',
    'no local port or descriptor is free for the origin',
    'add addresses to localAddress, or raise the limit of open files',
  ],
  'origin-tls-failed': [
    502,
    'origin',
    'error',
    'the TLS handshake with the origin failed',
    'see the cause in the log',
  ],
  'certificate-rejected': [
    502,
    'origin',
    'error',
    "the origin's certificate was not accepted",
    'give the origin a certificate of a public CA for its name',
  ],
  // answer
  'answer-timeout': [
    504,
    'origin',
    'timeout',
    'the origin did not answer in time',
    'mend the origin, or raise firstByteTimeout',
  ],
  'answer-malformed': [502, 'origin', 'error', 'the answer of the origin is malformed', 'mend the origin'],
  'answer-too-large': [
    502,
    'origin',
    'error',
    'the head of the answer is too large',
    'mend the origin, or raise the limits',
  ],
  'answer-closed': [
    502,
    'origin',
    'fin',
    'the origin closed the connection before its answer was complete',
    'see what the origin logged',
  ],
  'answer-reset': [
    502,
    'origin',
    'reset',
    'the origin reset the connection before its answer was complete',
    'see what the origin logged',
  ],
  'answer-wrong': [
    502,
    'origin',
    'error',
    'the origin answered with a wrong WebSocket handshake',
    'mend the origin: see RFC 6455 section 4.2.2',
  ],
  'answer-refused': [
    null,
    'origin',
    'refused',
    'the origin did not switch protocols',
    'see what the origin answered',
  ],
  'answer-stalled': [null, 'client', 'timeout', 'the answer was not taken in time', 'read the answer'],
  ...operatorErrors,
  internal: [500, 'edge', 'error', 'something went wrong inside the edge', 'report this with the log line'],
} as const satisfies Record<string, readonly [number | null, Who, How, string, string]>

export type ErrorCode = keyof typeof table

export function entry(code: ErrorCode): Entry {
  const [status, who, how, sentence, remedy] = table[code]
  return { status, who, how, sentence, remedy }
}

/** All codes, for documents and tests. */
export const errorCodes = Object.keys(table) as readonly ErrorCode[]

/** What a gate adds. */
interface Refusal {
  readonly rule?: string | null
  readonly retryAfterMs?: number | null
}

/**
 * What Headrace throws and logs. `message` is the sentence of the code plus `detail`: what and where, precisely. The
 * detail is for the operator (it may hold addresses of origins) and never sent to a client.
 */
export class HeadraceError extends Error {
  readonly code: ErrorCode
  readonly detail: string
  /** The rule, rate or limit of a gate that refused it; null if none did. */
  readonly rule: string | null
  /** When another try makes sense; null if nobody knows. */
  readonly retryAfterMs: number | null

  constructor(
    code: ErrorCode,
    detail = '',
    cause?: unknown,
    { rule = null, retryAfterMs = null }: Refusal = {},
  ) {
    const { sentence } = entry(code)
    super(detail === '' ? sentence : `${sentence}: ${detail}`, cause === undefined ? undefined : { cause })
    this.name = 'HeadraceError'
    this.code = code
    this.detail = detail
    this.rule = rule
    this.retryAfterMs = retryAfterMs
  }

  get remedy(): string {
    return entry(this.code).remedy
  }
}

/** Makes a HeadraceError of whatever was thrown; what is not one yet becomes `code` with the other as its cause. */
export function asHeadraceError(thrown: unknown, code: ErrorCode = 'internal'): HeadraceError {
  if (thrown instanceof HeadraceError) return thrown
  return new HeadraceError(code, thrown instanceof Error ? thrown.message : String(thrown), thrown)
}
