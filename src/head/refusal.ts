// The answers that are given here and not by an origin: the short refusals, and what a route or handler responds.

import { STATUS_CODES } from 'node:http'
import type { Readable } from 'node:stream'
import type { ErrorCode, HeadraceError } from '../errors.ts'
import { entry } from '../errors.ts'
import type { Field } from './head.ts'
import { field, responseBytes } from './head.ts'

export interface LocalAnswer {
  readonly status: number
  /** With Content-Length; without what belongs to the connection. */
  readonly fields: readonly Field[]
  readonly body: string
}

/** An answer whose body comes bit by bit. */
export interface StreamedAnswer {
  readonly status: number
  /** Undefined or '': the usual one. */
  readonly reason: string | undefined
  /** With Content-Length if that is known. */
  readonly fields: readonly Field[]
  /** Whoever gives the answer closes it. */
  readonly body: Readable
}

export function localAnswer(status: number, fields: readonly Field[], body: string): LocalAnswer {
  // RFC 9110 section 8.6.
  if (status === 204 || status === 304) return { status, fields, body: '' }
  return { status, fields: [...fields, field('Content-Length', String(Buffer.byteLength(body)))], body }
}

/** Of these the client is told the detail, too: it is for whoever owns the service, and names no origin. */
const TOLD: readonly ErrorCode[] = ['websockets-off']

/**
 * The answer to a request `id` that was refused, or null if the error has none. The body is one line for people; in general
 * it has not the detail, which may name an origin.
 */
export function refusalFor(error: HeadraceError, id: string): LocalAnswer | null {
  const { status, sentence } = entry(error.code)
  if (status === null) return null
  const fields = [
    field('Content-Type', 'text/plain; charset=utf-8'),
    field('Cache-Control', 'no-store'),
    field('X-Request-Id', id),
  ]
  // RFC 6455 section 4.4, RFC 9110 section 15.5.22.
  if (error.code === 'websocket-version') fields.push(field('Sec-WebSocket-Version', '13'))
  if (status === 426) fields.push(field('Upgrade', 'websocket'))
  if (error.retryAfterMs !== null) fields.push(field('Retry-After', secondsOf(error.retryAfterMs)))
  const told = TOLD.includes(error.code) ? `: ${error.detail}` : ''
  const text = `${status} ${reasonPhrase(status)}: ${sentence}${told} (request ${id})\n`
  return localAnswer(status, fields, text)
}

/** Whole ones, at least 1 (RFC 9110 section 10.2.3). */
function secondsOf(ms: number): string {
  return String(Math.max(1, Math.ceil(ms / 1_000)))
}

/** The whole answer, after which the connection is closed. */
export function closingBytes({ status, fields, body }: LocalAnswer): Buffer {
  const head = { status, reason: reasonPhrase(status), fields: [...fields, field('Connection', 'close')] }
  return Buffer.concat([Buffer.from(responseBytes(head), 'latin1'), Buffer.from(body)])
}

export function reasonPhrase(status: number): string {
  return STATUS_CODES[status] ?? 'Unknown'
}
