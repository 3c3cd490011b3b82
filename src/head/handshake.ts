// The rules of the WebSocket handshake (RFC 6455 section 4), for the request before it goes to an origin and for the
// origin's answer before a byte is tunnelled.

import { hash } from 'node:crypto'
import { HeadraceError } from '../errors.ts'
import type { Field, RequestHead, ResponseHead } from './head.ts'
import { endToEnd, field, firstValue, tokensOf, valuesOf } from './head.ts'

/** RFC 6455 section 1.3. */
const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'
/** 16 bytes in base64 (RFC 6455 section 4.1, item 7). */
const KEY = /^[A-Za-z0-9+/]{22}==$/

/** True if the request wants to become a WebSocket, rightly or not. `Upgrade: h2c` and others do not count. */
export function asksForUpgrade(head: RequestHead): boolean {
  return tokensOf(head.fields, 'upgrade').includes('websocket')
}

/** Throws upgrade-invalid or websocket-version if the request is no valid handshake (RFC 6455 section 4.2.1). */
export function checkUpgrade(head: RequestHead): void {
  const { fields } = head
  if (head.method !== 'GET')
    throw new HeadraceError('upgrade-invalid', `the method is ${head.method}, not GET`)
  if (head.version !== '1.1')
    throw new HeadraceError('upgrade-invalid', `HTTP/${head.version} knows no upgrade`)
  checkConnection(fields)
  const version = onlyValue(fields, 'Sec-WebSocket-Version')
  if (version !== '13') throw new HeadraceError('websocket-version', version)
  const key = onlyValue(fields, 'Sec-WebSocket-Key')
  if (!KEY.test(key))
    throw new HeadraceError('upgrade-invalid', 'Sec-WebSocket-Key is not 16 bytes in base64')
  // A body before the switch of protocols is where requests are smuggled (RFC 9931).
  const length = firstValue(fields, 'content-length')
  if (
    firstValue(fields, 'transfer-encoding') !== undefined ||
    (length !== undefined && Number(length) !== 0)
  ) {
    throw new HeadraceError('upgrade-invalid', 'an upgrade with a body')
  }
  if (firstValue(fields, 'expect') !== undefined)
    throw new HeadraceError('upgrade-invalid', 'Expect on an upgrade')
}

function checkConnection(fields: readonly Field[]): void {
  const tokens = tokensOf(fields, 'connection')
  if (!tokens.includes('upgrade'))
    throw new HeadraceError('upgrade-invalid', 'Connection has no token upgrade')
  const needed = tokens.find((token) => token === 'host' || token.startsWith('sec-websocket-'))
  if (needed !== undefined) throw new HeadraceError('upgrade-invalid', `Connection names ${needed}`)
}

function onlyValue(fields: readonly Field[], name: string): string {
  const values = valuesOf(fields, name.toLowerCase())
  const [value] = values
  if (value === undefined || values.length > 1) {
    throw new HeadraceError('upgrade-invalid', `${values.length} ${name} fields`)
  }
  return value
}

/**
 * The fields of a checked upgrade request as the origin gets them: the hop-by-hop ones are dropped but for `Connection`
 * and `Upgrade`, which offer nothing beside the WebSocket. Order and letter case stay.
 */
export function upgradeFields(fields: readonly Field[]): Field[] {
  const kept: Field[] = []
  let hasConnection = false
  let hasUpgrade = false
  for (const one of endToEnd(fields, ['connection', 'upgrade'])) {
    if (one.key === 'connection') {
      if (!hasConnection) kept.push(only(one, 'Upgrade'))
      hasConnection = true
    } else if (one.key === 'upgrade') {
      if (!hasUpgrade) kept.push(only(one, 'websocket'))
      hasUpgrade = true
    } else kept.push(one)
  }
  return kept
}

function only(one: Field, token: string): Field {
  return one.value.toLowerCase() === token.toLowerCase() ? one : field(one.name, token)
}

/** The value of Sec-WebSocket-Accept that belongs to a key (RFC 6455 section 4.2.2, item 5). */
export function acceptOf(key: string): string {
  return hash('sha1', key + GUID, 'base64')
}

/** Throws answer-wrong unless the 101 is the right answer to `request` (RFC 6455 section 4.1, "validate the server's"). */
export function checkAnswer(request: RequestHead, answer: ResponseHead): void {
  const { fields } = answer
  if (answer.version !== '1.1') throw wrong(`HTTP/${answer.version}`)
  const upgrade = valuesOf(fields, 'upgrade')
  if (upgrade.length !== 1 || upgrade[0]?.toLowerCase() !== 'websocket')
    throw wrong('no `Upgrade: websocket`')
  if (!tokensOf(fields, 'connection').includes('upgrade')) throw wrong('Connection has no token upgrade')
  const accepts = valuesOf(fields, 'sec-websocket-accept')
  const key = firstValue(request.fields, 'sec-websocket-key') ?? ''
  if (accepts.length !== 1 || accepts[0] !== acceptOf(key))
    throw wrong('Sec-WebSocket-Accept is not that of the key')
  if (firstValue(fields, 'content-length') !== undefined) throw wrong('a 101 with Content-Length')
  if (firstValue(fields, 'transfer-encoding') !== undefined) throw wrong('a 101 with Transfer-Encoding')
  checkSubprotocol(request, fields)
}

function checkSubprotocol(request: RequestHead, fields: readonly Field[]): void {
  const chosen = valuesOf(fields, 'sec-websocket-protocol')
  const [protocol] = chosen
  if (protocol === undefined) return
  // Subprotocols are compared with their letter case (RFC 6455 section 11.5).
  const offered = valuesOf(request.fields, 'sec-websocket-protocol').flatMap((value) => value.split(','))
  const isOffered = offered.some((one) => one.trim() === protocol)
  if (chosen.length > 1 || !isOffered) throw wrong(`the subprotocol ${chosen.join(', ')} was not offered`)
}

function wrong(detail: string): HeadraceError {
  return new HeadraceError('answer-wrong', detail)
}
