// The short answers: what a client gets when its request goes no further.

import { STATUS_CODES } from 'node:http'
import type { HeadraceError } from '../errors.ts'
import { entry } from '../errors.ts'
import type { Field } from './head.ts'
import { field } from './head.ts'

export interface Refusal {
  readonly status: number
  readonly fields: readonly Field[]
  readonly body: string
}

/**
 * The answer to a connection whose request `id` was refused, or null if the error has none. The body is one line for
 * people; it never has the detail, which may name an origin. `Connection: close` is the caller's to add or to know.
 */
export function refusalFor(error: HeadraceError, id: string): Refusal | null {
  const { status, sentence } = entry(error.code)
  if (status === null) return null
  const body = `${status} ${reasonPhrase(status)}: ${sentence} (request ${id})\n`
  const fields = [
    field('Content-Type', 'text/plain; charset=utf-8'),
    field('Content-Length', String(body.length)),
    field('Cache-Control', 'no-store'),
    field('X-Request-Id', id),
  ]
  // RFC 6455 section 4.4 and RFC 9110 section 15.5.22.
  if (error.code === 'websocket-version') fields.push(field('Sec-WebSocket-Version', '13'))
  if (status === 426) fields.push(field('Upgrade', 'websocket'))
  return { status, fields, body }
}

export function reasonPhrase(status: number): string {
  return STATUS_CODES[status] ?? 'Unknown'
}
