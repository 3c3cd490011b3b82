// One plain request of ours to a backend, made for code that wants to see the answer: its head is waited for, its body is
// left to whoever asked. The same pools, dials and limits as for requests that are passed on.

import type { IncomingMessage } from 'node:http'
import { request as httpRequest } from 'node:http'
import type { Readable } from 'node:stream'
import type { Backend } from '../dial/backend.ts'
import type { Choice } from '../dial/director.ts'
import { inTurn } from '../dial/reach.ts'
import { HeadraceError } from '../errors.ts'
import { withSetCookie } from '../head/cookies.ts'
import type { RequestHead } from '../head/head.ts'
import { field, fieldsOf, flatFields } from '../head/head.ts'
import { blamed, poolOf, REPEATABLE, requestFields, troubleOf } from './relay.ts'
import { withoutUpgrade } from './serve.ts'

export interface Asking {
  readonly choice: Choice
  readonly signal: AbortSignal
  /** `isOwn`: how it is framed is in the head already. */
  readonly body: { readonly stream: Readable; readonly isOwn: boolean } | null
  /** The head that the origin gets if it is this one. */
  headFor(backend: Backend): RequestHead
}

/**
 * Resolves with the answer, paused; whoever gets it reads or destroys it. Throws what `dial` throws, answer-timeout,
 * answer-closed, answer-reset, answer-malformed, answer-too-large, answer-wrong, or the signal's reason.
 */
export async function askBackend(asking: Asking): Promise<IncomingMessage> {
  const { choice, signal, body } = asking
  let isSent = false
  const attempt = async (backend: Backend) => {
    const head = framed(withoutUpgrade(asking.headFor(backend)), body)
    const started = () => {
      isSent = true
    }
    const once = { backend, head, body, signal, started }
    let answer = await askOnce(once)
    while (answer === null) {
      isSent = false
      answer = await askOnce(once)
    }
    const setCookie = choice.sticky?.setCookieFor(backend) ?? null
    answer.rawHeaders = flatFields(withSetCookie(fieldsOf(answer.rawHeaders), setCookie))
    return answer
  }
  return await inTurn(
    choice,
    attempt,
    () => !isSent && !signal.aborted,
    () => {},
  )
}

interface Attempt {
  readonly backend: Backend
  readonly head: RequestHead
  readonly body: Asking['body']
  readonly signal: AbortSignal
  /** There is a connection, and the request is being sent. */
  started(): void
}

/** Null: the origin closed a pooled connection in the moment in which it was used again. */
function askOnce({ backend, head, body, signal, started }: Attempt): Promise<IncomingMessage | null> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason)
    const { method, target: path } = head
    const { firstByteTimeoutMs } = backend.options
    const asked = httpRequest({
      agent: poolOf(backend),
      method,
      path,
      headers: requestFields(head),
      setHost: false,
    })
    const timer = setTimeout(() => {
      asked.destroy(new HeadraceError('answer-timeout', `${firstByteTimeoutMs} ms`))
    }, firstByteTimeoutMs)
    const leave = () => asked.destroy()
    signal.addEventListener('abort', leave)
    asked.on('socket', started)
    asked.on('response', (answer) => {
      clearTimeout(timer)
      backend.health.answered()
      resolve(answer)
    })
    asked.on('upgrade', (_, socket) => {
      socket.destroy()
      reject(blamed(backend, new HeadraceError('answer-wrong', 'a 101 that nobody asked for')))
    })
    asked.on('error', (error: NodeJS.ErrnoException) => {
      clearTimeout(timer)
      const isStale = asked.reusedSocket && error.code === 'ECONNRESET' && REPEATABLE.has(method)
      if (signal.aborted) reject(signal.reason)
      else if (isStale && body === null) resolve(null)
      else reject(asked.socket === null ? troubleOf(error) : blamed(backend, troubleOf(error)))
    })
    asked.on('close', () => {
      clearTimeout(timer)
      signal.removeEventListener('abort', leave)
    })
    if (body === null) asked.end()
    else body.stream.on('error', leave).pipe(asked)
  })
}

const FRAMING = new Set(['content-length', 'transfer-encoding', 'trailer'])

function framed(head: RequestHead, body: Asking['body']): RequestHead {
  if (body?.isOwn) return head
  const fields = head.fields.filter(({ key }) => !FRAMING.has(key))
  return { ...head, fields: body === null ? fields : [...fields, field('Transfer-Encoding', 'chunked')] }
}
