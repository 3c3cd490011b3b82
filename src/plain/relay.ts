// One plain request to its backend and the answer back, through node's HTTP client with a pool of kept-alive
// connections. Bodies stream both ways at the pace of the slower side; trailers and interim answers are passed on.

import type { ClientRequest, IncomingMessage, ServerResponse } from 'node:http'
import { Agent, request as httpRequest } from 'node:http'
import type { Duplex } from 'node:stream'
import type { Backend } from '../dial/backend.ts'
import { hangUp } from '../dial/backend.ts'
import { dial } from '../dial/connect.ts'
import type { Choice } from '../dial/director.ts'
import type { TellFailure } from '../dial/reach.ts'
import { inTurn } from '../dial/reach.ts'
import { asHeadraceError, HeadraceError } from '../errors.ts'
import { withSetCookie } from '../head/cookies.ts'
import type { RequestHead } from '../head/head.ts'
import { endToEnd, field, fieldsOf, firstValue, flatFields } from '../head/head.ts'

/** How long a connection to an origin is kept without a request, in ms; less than common origins keep theirs. */
const POOL_TIMEOUT_MS = 4_000
/** RFC 9110 section 9.2.2; the request must not have a body either. */
export const REPEATABLE = new Set(['GET', 'HEAD', 'OPTIONS'])

const pools = new WeakMap<Backend, Agent>()

/** Node's pool, with our dial: the same addresses, limits and verification as for tunnels. */
class BackendPool extends Agent {
  readonly backend: Backend

  constructor(backend: Backend) {
    super({ keepAlive: true, timeout: POOL_TIMEOUT_MS })
    this.backend = backend
  }

  override createConnection(_: unknown, callback?: (error: Error | null, stream: Duplex) => void): undefined {
    void this.#connect(callback)
    return undefined
  }

  async #connect(callback?: (error: Error | null, stream: Duplex) => void): Promise<void> {
    try {
      const { transport } = await dial(this.backend, new AbortController().signal)
      const { socket } = transport.release()
      socket.on('close', () => hangUp(this.backend))
      // An origin's FIN ends a pooled connection.
      socket.allowHalfOpen = false
      socket.resume()
      callback?.(null, socket)
    } catch (error) {
      ;(callback as ((error: unknown) => void) | undefined)?.(error)
    }
  }
}

/** One request of a client, and its answer. */
export interface Exchange {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly signal: AbortSignal
  /** The head that the origin gets if it is this one. */
  headFor(backend: Backend): RequestHead
}

/**
 * Sends a request and its body to a backend of the choice and answers with what comes back. Another backend is tried only if
 * nothing of the request has been sent. Resolves when the answer is complete, or the client has gone. Throws what `dial`
 * throws, and answer-timeout, answer-closed, answer-reset, answer-malformed, answer-too-large.
 */
export async function relayRequest(exchange: Exchange, choice: Choice, tell: TellFailure): Promise<void> {
  let isSent = false
  const attempt = async (backend: Backend, timeoutMs: number) => {
    const head = exchange.headFor(backend)
    const setCookie = choice.sticky?.setCookieFor(backend) ?? null
    const started = () => {
      isSent = true
    }
    const once = { ...exchange, backend, head, setCookie, timeoutMs, started }
    // The origin closed a pooled connection in the moment in which it was used again: as if it had not been sent. One that has
    // died has closed all of them, and the next one to be used is as stale.
    while ((await relayOnce(once)) === 'stale') isSent = false
  }
  await inTurn(choice, attempt, () => !isSent && !exchange.signal.aborted, tell)
}

interface Attempt extends Exchange {
  readonly backend: Backend
  readonly head: RequestHead
  readonly setCookie: string | null
  /** What is left for the dial, in ms. */
  readonly timeoutMs: number
  /** There is a connection, and the request is being sent. */
  started(): void
}

function relayOnce(attempt: Attempt): Promise<'done' | 'stale'> {
  const { request, response, backend, head, signal } = attempt
  const { method, target: path } = head
  return new Promise((resolve, reject) => {
    if (signal.aborted) return resolve('done')
    const headers = requestFields(head)
    const toOrigin = httpRequest({ agent: poolOf(backend), method, path, headers, setHost: false })
    let isAnswered = false
    const timer = setTimeout(() => {
      toOrigin.destroy(new HeadraceError('answer-timeout', `${backend.options.firstByteTimeoutMs} ms`))
    }, backend.options.firstByteTimeoutMs)
    const leave = () => toOrigin.destroy()
    signal.addEventListener('abort', leave)

    limitDial(attempt, toOrigin, reject)
    toOrigin.on('socket', () => {
      attempt.started()
      sendBody(request, toOrigin, () => {
        if (!isAnswered) timer.refresh()
      })
    })
    toOrigin.on('continue', () => response.writeContinue())
    toOrigin.on('information', ({ statusCode, headers }) => {
      if (statusCode === 103) passHints(headers.link, response)
    })
    toOrigin.on('upgrade', (_, socket) => {
      socket.destroy()
      reject(blamed(backend, new HeadraceError('answer-wrong', 'a 101 that nobody asked for')))
    })
    toOrigin.on('response', (answer) => {
      const { statusCode = 0 } = answer
      if (statusCode < 200) {
        reject(blamed(backend, new HeadraceError('answer-malformed', `the status ${statusCode}`)))
        toOrigin.destroy()
        return
      }
      isAnswered = true
      clearTimeout(timer)
      backend.health.answered()
      relayBack(answer, attempt, () => resolve('done'))
    })
    toOrigin.on('error', (error: NodeJS.ErrnoException) => {
      clearTimeout(timer)
      const isStale = toOrigin.reusedSocket && error.code === 'ECONNRESET' && REPEATABLE.has(method)
      if (signal.aborted || isAnswered) resolve('done')
      else if (isStale && !hasBody(head)) resolve('stale')
      else reject(toOrigin.socket === null ? troubleOf(error) : blamed(backend, troubleOf(error)))
    })
    toOrigin.on('close', () => {
      clearTimeout(timer)
      signal.removeEventListener('abort', leave)
    })
  })
}

/** Node tells of the end of a request without a connection only when it has got one: nobody waits for that here. */
function limitDial(
  { backend, timeoutMs }: Attempt,
  toOrigin: ClientRequest,
  fail: (why: Error) => void,
): void {
  if (timeoutMs >= backend.options.connectTimeoutMs) return
  const timer = setTimeout(() => {
    fail(new HeadraceError('dial-timeout', `${backend.options.name}, ${Math.round(timeoutMs)} ms were left`))
    toOrigin.destroy()
  }, timeoutMs)
  for (const event of ['socket', 'close']) toOrigin.on(event, () => clearTimeout(timer))
}

/** What failed with a connection is the answer; failures of the dial have been told by the dial. */
export function blamed(backend: Backend, error: HeadraceError): HeadraceError {
  backend.health.failed(error)
  return error
}

/** Hints are for speed only: those of a form that node does not write are left out. */
function passHints(link: string | string[] | undefined, response: ServerResponse): void {
  try {
    if (link !== undefined) response.writeEarlyHints({ link })
  } catch {
    // ERR_INVALID_ARG_VALUE
  }
}

/** Streams the body; `progressed` is called whenever a piece of it has arrived. */
function sendBody(request: IncomingMessage, toOrigin: ClientRequest, progressed: () => void): void {
  if (request.complete && request.readableEnded) return void toOrigin.end()
  toOrigin.flushHeaders()
  request.pipe(toOrigin, { end: false })
  request.on('data', progressed)
  request.on('error', () => toOrigin.destroy())
  request.on('end', () => {
    if (request.rawTrailers.length > 0) toOrigin.addTrailers(pairsOf(request.rawTrailers))
    toOrigin.end()
  })
}

function relayBack(
  answer: IncomingMessage,
  { request, response, setCookie }: Attempt,
  done: () => void,
): void {
  const fields = fieldsOf(answer.rawHeaders)
  // HTTP/1.0 knows neither chunks nor trailers: there the end of the body is the end of the connection.
  const coding = firstValue(fields, 'transfer-encoding')
  const isChunked = request.httpVersion === '1.1' && coding !== undefined
  // Any other coding ends with the connection (RFC 9112 section 6.3).
  if (coding !== undefined && coding.toLowerCase() !== 'chunked') response.shouldKeepAlive = false
  const kept = withSetCookie(endToEnd(fields, isChunked ? ['transfer-encoding', 'trailer'] : []), setCookie)
  response.writeHead(answer.statusCode ?? 502, answer.statusMessage ?? '', flatFields(kept))
  // It is worth something by itself, however late its body may come; what has come with it goes out with it.
  const early = setImmediate(() => response.flushHeaders())
  answer.once('data', () => clearImmediate(early))
  answer.pipe(response, { end: false })
  answer.on('end', () => {
    clearImmediate(early)
    if (isChunked && answer.rawTrailers.length > 0) response.addTrailers(pairsOf(answer.rawTrailers))
    response.end()
    done()
  })
  // Cut short: the client must not take it for complete.
  answer.on('error', () => {
    response.destroy()
    done()
  })
}

export function poolOf(backend: Backend): Agent {
  const known = pools.get(backend)
  if (known !== undefined) return known
  const pool = new BackendPool(backend)
  pools.set(backend, pool)
  return pool
}

function hasBody({ fields }: RequestHead): boolean {
  const length = firstValue(fields, 'content-length')
  return (
    firstValue(fields, 'transfer-encoding') !== undefined || (length !== undefined && Number(length) !== 0)
  )
}

/** Node's client would frame the missing body of a POST as chunks; a length of 0 is what it was (RFC 9110 section 8.6). */
export function requestFields(head: RequestHead): string[] {
  const isFramed = ['transfer-encoding', 'content-length'].some(
    (key) => firstValue(head.fields, key) !== undefined,
  )
  const hasNone = isFramed || ['GET', 'HEAD', 'DELETE', 'OPTIONS', 'TRACE'].includes(head.method)
  return flatFields(hasNone ? head.fields : [...head.fields, field('Content-Length', '0')])
}

function pairsOf(flat: readonly string[]): [string, string][] {
  return fieldsOf(flat).map(({ name, value }) => [name, value])
}

export function troubleOf(error: NodeJS.ErrnoException): HeadraceError {
  if (error instanceof HeadraceError) return error
  if (error.code === 'HPE_HEADER_OVERFLOW') return new HeadraceError('answer-too-large', error.message, error)
  if (error.code?.startsWith('HPE_')) return new HeadraceError('answer-malformed', error.message, error)
  if (error.message === 'socket hang up') return new HeadraceError('answer-closed', '', error)
  if (error.code === 'ECONNRESET') return new HeadraceError('answer-reset', error.code, error)
  return asHeadraceError(error, 'dial-failed')
}
