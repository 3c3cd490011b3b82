// The branch: ordinary HTTP, through node's own server on the accepted connection. It never listens; connections come
// from the spine, with the head that was read already put back in front. A later upgrade on the same connection goes
// back to the spine.

import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex, Readable } from 'node:stream'
import type { Client } from '../accept/client.ts'
import type { Backend } from '../dial/backend.ts'
import type { Choice } from '../dial/director.ts'
import type { ErrorCode } from '../errors.ts'
import { asHeadraceError, HeadraceError } from '../errors.ts'
import { asksForUpgrade } from '../head/handshake.ts'
import type { RequestHead } from '../head/head.ts'
import { field, fieldsOf, flatFields, requestBytes, tokensOf } from '../head/head.ts'
import type { HeadLimits } from '../head/llhttp.ts'
import type { LocalAnswer, StreamedAnswer } from '../head/refusal.ts'
import { closingBytes, reasonPhrase, refusalFor } from '../head/refusal.ts'
import type { Checked } from '../head/request.ts'
import { checkRequest } from '../head/request.ts'
import type { Released } from '../transport/transport.ts'
import { relayRequest } from './relay.ts'

export type PlainDecision =
  | {
      readonly kind: 'send'
      readonly service: string
      readonly choice: Choice
      /** The head that the origin gets if it is this one. */
      requestFor(backend: Backend): RequestHead
    }
  | { readonly kind: 'respond'; readonly service: string; readonly answer: LocalAnswer }
  | { readonly kind: 'stream'; readonly service: string; readonly answer: StreamedAnswer }

/** What this room needs of the spine. */
export interface PlainWay {
  newId(): string
  /** Decides about each checked request of a connection. Throws what the client is refused with. */
  decide(client: Client, checked: Checked, signal: AbortSignal, body: () => Readable): Promise<PlainDecision>
  /** Takes a connection back: its next request asks to become a WebSocket. The transport is retaken and paused. */
  upgrade(client: Client, head: RequestHead, rest: Buffer | null): void
  /** A backend could not be reached, and another one is tried. */
  passedOver(client: Client, head: RequestHead, failure: PassedOver): void
  /** One request is over. `error` is null when it was answered. */
  answered(client: Client, head: RequestHead | null, outcome: PlainOutcome): void
}

export interface PassedOver {
  readonly id: string
  readonly service: string
  readonly backend: Backend
  readonly error: HeadraceError
}

export interface PlainOutcome {
  readonly id: string
  /** How far the request came. */
  readonly phase: 'head' | 'decide' | 'answer'
  readonly status: number
  readonly service: string | null
  /** The last one that it was given to. */
  readonly backend: Backend | null
  readonly durationMs: number
  readonly error: HeadraceError | null
}

export interface PlainServer {
  /**
   * Serves this request and those that follow on the connection, and closes it in the end. `decision`: for this
   * request it was decided already.
   */
  serve(client: Client, head: RequestHead, rest: Buffer | null, decision: PlainDecision | null): void
  /** Other limits, for the requests that come. */
  limit(limits: PlainLimits): void
  /** How many requests are not answered completely. */
  readonly open: number
  /** Ends connections that wait for a request, and all others with their answer; or all at once. */
  close(atOnce: boolean): void
}

export interface PlainLimits extends HeadLimits {
  readonly headTimeoutMs: number
}

/** How long a connection may wait for its next request, in ms. */
const KEEP_ALIVE_TIMEOUT_MS = 60_000

interface Connection {
  readonly client: Client
  readonly released: Released
  decision: PlainDecision | null
  /** Requests whose answer is not complete. */
  open: number
  /** The newest of them: refuses it, if its body is what turned out to be malformed. */
  current: { readonly request: IncomingMessage; refuse(error: HeadraceError): void } | null
  /** What waits for them: an upgrade that was sent without waiting for the answers before it. */
  whenAnswered: (() => void) | null
}

export function createPlainServer(way: PlainWay, initial: PlainLimits): PlainServer {
  const connections = new WeakMap<Duplex, Connection>()
  let limits = initial
  let isClosing = false
  let open = 0

  const server = createServer({
    maxHeaderSize: limits.headSize,
    headersTimeout: limits.headTimeoutMs,
    // A body may take as long as it takes.
    requestTimeout: 0,
    keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
    connectionsCheckingInterval: Math.min(1_000, limits.headTimeoutMs),
    insecureHTTPParser: false,
    // Checked by our own rules, with our own answer.
    requireHostHeader: false,
  })
  server.on('request', answer)
  server.on('checkContinue', answer)
  server.on('upgrade', takeBack)
  server.on('clientError', refuseMalformed)
  // The server checks its time limits from the moment on when it listens, which it never does itself.
  server.emit('listening')

  function serve(
    client: Client,
    head: RequestHead,
    rest: Buffer | null,
    decision: PlainDecision | null,
  ): void {
    const released = client.transport.release()
    const { socket } = released
    connections.set(socket, { client, released, decision, open: 0, current: null, whenAnswered: null })
    // The socket is node's from here on: nobody else reads it, so that what was read may be put back.
    if (rest !== null) socket.unshift(rest)
    socket.unshift(Buffer.from(requestBytes(head), 'latin1'))
    server.emit('connection', socket)
    socket.resume()
  }

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const connection = connections.get(request.socket)
    if (connection === undefined) return void request.destroy()
    const { client } = connection
    const head = headOf(request)
    const id = way.newId()
    const startedAt = performance.now()
    const gone = new AbortController()
    let { decision } = connection
    let phase: PlainOutcome['phase'] = 'head'
    let backend: Backend | null = null
    let error: HeadraceError | null = null
    connection.decision = null
    connection.open += 1
    open += 1
    connection.current = {
      request,
      refuse(refused) {
        error = refused
        refuse(response, refused, id)
        gone.abort(refused)
      },
    }
    response.on('error', () => {})
    response.on('close', () => {
      connection.open -= 1
      open -= 1
      if (!response.writableFinished) gone.abort(new HeadraceError('client-closed'))
      const durationMs = performance.now() - startedAt
      const { statusCode: status } = response
      const service = decision?.service ?? null
      way.answered(client, head, { id, phase, status, service, backend, durationMs, error })
      if (connection.open === 0) connection.whenAnswered?.()
    })
    response.sendDate = false
    if (isClosing) response.shouldKeepAlive = false
    try {
      checkCount(head, limits.headFields)
      const checked = checkRequest(head)
      const body = () => {
        // A client that expects a 100 sends nothing before it (RFC 9110 section 10.1.1).
        if (request.headers.expect?.toLowerCase() === '100-continue') response.writeContinue()
        return request
      }
      if (tokensOf(head.fields, 'connection').includes('host')) {
        throw new HeadraceError('host-invalid', 'Connection names Host')
      }
      phase = 'decide'
      decision ??= await way.decide(client, checked, gone.signal, body)
      phase = 'answer'
      if (decision.kind === 'respond') return give(response, decision.answer)
      if (decision.kind === 'stream') return stream(response, decision.answer)
      const { service, choice, requestFor } = decision
      const headFor = (tried: Backend) => {
        backend = tried
        return requestFor(tried)
      }
      const exchange = { request, response, headFor, signal: gone.signal }
      await relayRequest(exchange, choice, (failed, why, isLast) => {
        if (!isLast) way.passedOver(client, head, { id, service, backend: failed, error: why })
      })
    } catch (thrown) {
      error = asHeadraceError(thrown)
      refuse(response, error, id)
    }
  }

  function takeBack(request: IncomingMessage, socket: Duplex, rest: Buffer): void {
    const connection = connections.get(socket)
    if (connection === undefined) return void socket.destroy()
    const head = headOf(request)
    const remaining = rest.length > 0 ? rest : null
    // Node has let go of the socket. From here on it must be watched and not flow.
    const client = { ...connection.client, transport: connection.released.retake() }
    connection.whenAnswered = () => {
      connections.delete(socket)
      // The answer before it ended the connection: what follows a `Connection: close` is not looked at.
      if (!socket.writable) return // The one of the kept-alive connection.
      ;(socket as Socket).setTimeout(0)
      if (asksForUpgrade(head)) way.upgrade(client, head, remaining)
      else serve(client, withoutUpgrade(head), remaining, null)
    }
    if (connection.open === 0) connection.whenAnswered()
  }

  /** What node's parser refuses; said behind the answers that are still on their way. */
  function refuseMalformed(error: NodeJS.ErrnoException, socket: Duplex): void {
    const connection = connections.get(socket)
    const refused = new HeadraceError(codeOf(error), error.message, error)
    const id = way.newId()
    const refusal = refusalFor(refused, id)
    if (connection === undefined || refusal === null || !socket.writable) {
      socket.destroy()
      return
    }
    if (connection.current !== null && connection.open > 0 && !connection.current.request.complete) {
      connection.current.refuse(refused)
      return
    }
    connection.whenAnswered = () => {
      const outcome = {
        id,
        phase: 'head',
        status: refusal.status,
        service: null,
        backend: null,
        durationMs: 0,
        error: refused,
      } as const
      way.answered(connection.client, null, outcome)
      socket.end(closingBytes(refusal))
    }
    if (connection.open === 0) connection.whenAnswered()
  }

  /** What node reads of its server for each connection, and by what its timer goes, are plain properties of it. */
  function limit(next: PlainLimits): void {
    const { headSize: maxHeaderSize, headTimeoutMs: headersTimeout } = next
    const hasChanged = headersTimeout !== limits.headTimeoutMs
    const connectionsCheckingInterval = Math.min(1_000, headersTimeout)
    limits = next
    Object.assign(server, { maxHeaderSize, headersTimeout, connectionsCheckingInterval })
    // The timer begins anew, with its new interval.
    if (hasChanged && !isClosing) server.emit('listening')
  }

  function close(atOnce: boolean): void {
    isClosing = true
    if (atOnce) server.closeAllConnections()
    else server.closeIdleConnections()
    // Also stops the timer of the time limits; that it does not listen is no error to anybody.
    server.close(() => {})
  }

  return {
    serve,
    limit,
    close,
    get open() {
      return open
    },
  }
}

/** The request as plain HTTP: `Upgrade` is dropped with the token that announces it (RFC 9110 section 7.8). */
export function withoutUpgrade(head: RequestHead): RequestHead {
  const fields = head.fields.flatMap((one) => {
    if (one.key === 'upgrade') return []
    if (one.key !== 'connection') return one
    const tokens = one.value.split(',').filter((token) => token.trim().toLowerCase() !== 'upgrade')
    return tokens.length === 0 ? [] : field(one.name, tokens.join(',').trim())
  })
  return { ...head, fields }
}

function headOf(request: IncomingMessage): RequestHead {
  const { method = '', url = '', httpVersion, rawHeaders } = request
  return { method, target: url, version: httpVersion, fields: fieldsOf(rawHeaders) }
}

function checkCount(head: RequestHead, headFields: number): void {
  if (head.fields.length > headFields)
    throw new HeadraceError('head-too-many-fields', `over ${headFields} fields`)
}

function codeOf(error: NodeJS.ErrnoException): ErrorCode {
  if (error.code === 'ERR_HTTP_REQUEST_TIMEOUT') return 'head-timeout'
  if (error.code === 'HPE_HEADER_OVERFLOW') return 'head-too-large'
  return error.code === 'ECONNRESET' ? 'client-reset' : 'head-malformed'
}

/** After the head of an answer has gone out there is no other word than to cut it short. */
function refuse(response: ServerResponse, error: HeadraceError, id: string): void {
  const refusal = refusalFor(error, id)
  response.shouldKeepAlive = false
  if (response.headersSent || refusal === null) response.destroy()
  else give(response, refusal)
}

function give(response: ServerResponse, { status, fields, body }: LocalAnswer): void {
  response.writeHead(status, reasonPhrase(status), flatFields(fields))
  response.end(body)
}

/** What cuts the body short cuts the answer short: the client must not take it for complete. */
function stream(response: ServerResponse, { status, reason, fields, body }: StreamedAnswer): void {
  response.on('close', () => body.destroy())
  body.on('error', () => response.destroy())
  response.writeHead(status, reason || reasonPhrase(status), flatFields(fields))
  // The head is worth something by itself, however late the first byte of a body may come.
  response.flushHeaders()
  body.pipe(response)
}
