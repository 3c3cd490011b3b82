// The parser and the rules on hostile bytes: never a crash, and nothing passes that an independent reading of the
// grammar does not let pass.

import fc from 'fast-check'
import t from 'tap'
import { HeadraceError } from '../src/errors.ts'
import { asksForUpgrade, checkUpgrade } from '../src/head/handshake.ts'
import type { RequestHead } from '../src/head/head.ts'
import { MessageParser } from '../src/head/llhttp.ts'
import { checkRequest } from '../src/head/request.ts'
import { startOrigin, switching, upgradeRequest } from './support/origin.ts'
import { connectTo } from './support/peer.ts'
import { startTunnel } from './support/tunnel.ts'

const LIMITS = { headSize: 16_384, headFields: 100 }
const VALID = upgradeRequest({
  'User-Agent': 'Mozilla/5.0',
  Cookie: 'a=b; c=d',
  'Sec-WebSocket-Extensions': 'permessage-deflate',
})

/** Feeds the pieces as they would arrive. */
function parse(pieces: readonly Uint8Array[]): { head: RequestHead; taken: number } | string | null {
  const parser = new MessageParser('request', LIMITS)
  try {
    let taken = 0
    for (const piece of pieces) {
      taken += parser.feed(piece)
      if (parser.fault !== null) return parser.fault.kind
      if (parser.isHeadComplete) return { head: parser.requestHead(), taken }
    }
    return null
  } finally {
    parser.free()
  }
}

/** Whether these bytes would be handed to an origin as an upgrade. */
function wouldHandOff(bytes: Buffer): boolean {
  const parsed = parse([bytes])
  if (parsed === null || typeof parsed === 'string') return false
  try {
    if (!asksForUpgrade(parsed.head)) return false
    checkUpgrade(checkRequest(parsed.head).head)
    return true
  } catch (error) {
    if (error instanceof HeadraceError) return false
    throw error
  }
}

/**
 * An independent and stricter reading of RFC 9112 and RFC 6455, by lines and regular expressions and with nothing of the
 * product: what this refuses must never pass. (The product may refuse more; several spaces between its words are as good as
 * one, RFC 9112 section 3.)
 */
function mayPass(bytes: Buffer): boolean {
  const text = bytes.toString('latin1').replace(/^(\r\n){0,4}/, '')
  const end = text.indexOf('\r\n\r\n')
  if (end === -1) return false
  const [start = '', ...lines] = text.slice(0, end).split('\r\n')
  if (
    !/^GET +(?:[hw][\x21-\x7e\x80-\xff]+:\/\/[\x21-\x7e\x80-\xff]*|\/[\x21-\x7e\x80-\xff]*) +HTTP\/1\.1$/i.test(
      start,
    )
  )
    return false
  const fields = new Map<string, string[]>()
  for (const line of lines) {
    const [, name, value = ''] =
      /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)$/.exec(line) ?? []
    if (name === undefined) return false
    fields.set(name.toLowerCase(), [...(fields.get(name.toLowerCase()) ?? []), value.replace(/[ \t]+$/, '')])
  }
  const tokens = (name: string) =>
    (fields.get(name) ?? [])
      .join(',')
      .toLowerCase()
      .split(',')
      .map((one) => one.trim())
  const only = (name: string) => (fields.get(name)?.length === 1 ? fields.get(name)?.[0] : undefined)
  return (
    /^[^\s/@?#]+$/.test(only('host') ?? '') &&
    tokens('upgrade').includes('websocket') &&
    tokens('connection').includes('upgrade') &&
    !tokens('connection').some((one) => one === 'host' || one.startsWith('sec-websocket-')) &&
    /^[A-Za-z0-9+/]{22}==$/.test(only('sec-websocket-key') ?? '') &&
    only('sec-websocket-version') === '13' &&
    !fields.has('transfer-encoding') &&
    !fields.has('expect') &&
    /^0*$/.test((fields.get('content-length') ?? ['0']).join('x'))
  )
}

/** One to four changes: bytes replaced, inserted, removed, doubled, cut; interesting ones more often than others. */
const INTERESTING = [
  '\r',
  '\n',
  '\r\n',
  '\r\n\r\n',
  '\0',
  ' ',
  '\t',
  ':',
  ',',
  '\x7f',
  '\x80',
  '\xff',
  'HTTP/1.0',
  'Host: b\r\n',
  'Content-Length: 5\r\n',
  'Transfer-Encoding: chunked\r\n',
  'Expect: 100-continue\r\n',
  'Upgrade: h2c\r\n',
  'Connection: Host\r\n',
  ' \r\n',
  'x',
]
const change = fc.record({
  at: fc.double({ min: 0, max: 1, noNaN: true }),
  kind: fc.constantFrom('replace', 'insert', 'remove', 'double', 'line', 'cut'),
  piece: fc.oneof(
    fc.constantFrom(...INTERESTING),
    fc.integer({ min: 0, max: 255 }).map((byte) => String.fromCharCode(byte)),
  ),
  length: fc.integer({ min: 1, max: 12 }),
})
type Change = typeof change extends fc.Arbitrary<infer Value> ? Value : never

function changed(text: string, { at, kind, piece, length }: Change): string {
  const from = Math.floor(at * text.length)
  switch (kind) {
    case 'replace':
      return text.slice(0, from) + piece + text.slice(from + piece.length)
    case 'insert':
      return text.slice(0, from) + piece + text.slice(from)
    case 'remove':
      return text.slice(0, from) + text.slice(from + length)
    case 'double':
      return text.slice(0, from) + text.slice(from, from + length * 5) + text.slice(from)
    case 'line': {
      const line = text.lastIndexOf('\r\n', from) + 2
      return text.slice(0, Math.max(line, 2)) + piece + text.slice(Math.max(line, 2))
    }
    default:
      return text.slice(0, from)
  }
}

const mutation = fc
  .array(change, { minLength: 1, maxLength: 4 })
  .map((changes) => Buffer.from(changes.reduce(changed, VALID), 'latin1'))

t.test('100,000 mutations of a valid head: nothing crashes, nothing passes that should not', (t) => {
  let passed = 0
  const property = fc.property(mutation, (bytes) => {
    const would = wouldHandOff(bytes)
    if (would) passed += 1
    return !would || mayPass(bytes)
  })
  fc.assert(property, { numRuns: 100_000 })
  t.ok(wouldHandOff(Buffer.from(VALID, 'latin1')), 'the head itself passes')
  t.ok(passed > 100, `${passed} harmless mutations passed`)
  t.end()
})

t.test('random bytes never crash the parser', (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
      parse([bytes])
      const response = new MessageParser('response', LIMITS)
      response.feed(bytes)
      response.finish()
      response.free()
    }),
    { numRuns: 20_000 },
  )
  t.pass('it lives')
  t.end()
})

t.test('a head gives the same result in whatever pieces it arrives, and what follows it is left', (t) => {
  const whole = Buffer.from(`${VALID}what follows`, 'latin1')
  const expected = parse([whole])
  t.match(expected, { taken: VALID.length })
  fc.assert(
    fc.property(fc.array(fc.nat({ max: whole.length }), { maxLength: 12 }), (cuts) => {
      const at = [0, ...cuts.sort((a, b) => a - b), whole.length]
      const pieces = at.slice(1).map((end, index) => whole.subarray(at[index], end))
      return JSON.stringify(parse(pieces)) === JSON.stringify(expected)
    }),
    { numRuns: 3_000 },
  )
  t.end()
})

t.test(
  '3,000 mutations over real sockets: the origin receives a byte only if the head was valid',
  async (t) => {
    let received = 0
    const origin = await startOrigin(t, {
      async answer(peer) {
        received += 1
        const head = await peer.until('\r\n\r\n').catch(() => null)
        if (head !== null) peer.end(switching(head))
      },
    })
    const { tunnel, address } = await startTunnel(t, origin.address, {
      options: { limits: { headTimeout: 30_000 } },
    })
    const samples = fc.sample(mutation, 3_000)
    let expected = 0
    let answered = 0
    const sendOne = async (bytes: Buffer) => {
      const client = await connectTo(t, address)
      if (wouldHandOff(bytes)) expected += 1
      client.end(bytes)
      if (/^HTTP\/1\.1 [1-5][0-9][0-9] /.test(await client.all())) answered += 1
      client.socket.destroy()
    }
    for (let at = 0; at < samples.length; at += 50) await Promise.all(samples.slice(at, at + 50).map(sendOne))
    // A client that ends with its head has left before the 101: some of the valid ones never reach the origin, but no others do.
    t.ok(
      received <= expected,
      `${received} of ${expected} valid heads reached the origin, ${answered} of 3000 were answered`,
    )
    t.ok(answered > 1_000)
    const steady = await connectTo(t, address)
    steady.write(VALID)
    t.match(await steady.until('\r\n\r\n'), /^HTTP\/1\.1 101 /)
    t.ok(tunnel.size <= 1)
  },
)
