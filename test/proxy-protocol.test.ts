// The parser of the PROXY protocol alone: bytes in, an address or a refusal out. On sockets it is in accept.test.ts.

import { isIP, SocketAddress } from 'node:net'
import * as fc from 'fast-check'
import t from 'tap'
import type { ProxyHeader } from '../src/accept/proxy-protocol.ts'
import { crc32c, parseProxyHeader } from '../src/accept/proxy-protocol.ts'
import { HeadraceError } from '../src/errors.ts'
import { V2_SIGNATURE, v2Header, withChecksum } from './support/proxy-header.ts'

const RUNS = { numRuns: 5_000 }

const port = fc.nat({ max: 65_535 })
const tlv = fc.record({ type: fc.integer({ min: 0x05, max: 0xff }), value: fc.uint8Array({ maxLength: 60 }) })
const rest = fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes))

/** A valid header and the source that it names. */
interface Valid {
  readonly bytes: Buffer
  readonly source: ProxyHeader['source']
}

const v1Addresses = fc.oneof(
  fc.tuple(fc.constant('TCP4'), fc.ipV4(), fc.ipV4()),
  fc.tuple(fc.constant('TCP6'), fc.ipV6(), fc.ipV6()),
)
const v1: fc.Arbitrary<Valid> = fc
  .tuple(v1Addresses, port, port)
  .map(([[protocol, from, to], source, target]) => ({
    bytes: Buffer.from(`PROXY ${protocol} ${from} ${to} ${source} ${target}\r\n`),
    source: { address: from, port: source },
  }))
const v1Unknown: fc.Arbitrary<Valid> = fc
  .string({ maxLength: 90, unit: fc.constantFrom(...'abc:. 0123\n\t') })
  .map((more) => ({ bytes: Buffer.from(`PROXY UNKNOWN ${more}\r\n`), source: null }))
const v2: fc.Arbitrary<Valid> = fc
  .record({
    isV6: fc.boolean(),
    addresses: fc.uint8Array({ minLength: 32, maxLength: 32 }),
    ports: fc.tuple(port, port),
    tlvs: fc.array(tlv, { maxLength: 4 }),
    hasChecksum: fc.boolean(),
  })
  .map(({ isV6, addresses, ports: [source, target], tlvs, hasChecksum }) => {
    const size = isV6 ? 16 : 4
    const ports = Buffer.alloc(4)
    ports.writeUInt16BE(source, 0)
    ports.writeUInt16BE(target, 2)
    const block = Buffer.concat([addresses.subarray(0, 2 * size), ports])
    const bytes = hasChecksum
      ? withChecksum(0x21, isV6 ? 0x21 : 0x11, block, tlvs)
      : v2Header(0x21, isV6 ? 0x21 : 0x11, block, tlvs)
    return { bytes, source: { address: textOf(block.subarray(0, size)), port: source } }
  })
const v2Local: fc.Arbitrary<Valid> = fc
  .tuple(fc.integer({ min: 0, max: 255 }), fc.uint8Array({ maxLength: 300 }))
  .map(([family, block]) => ({ bytes: v2Header(0x20, family, Buffer.from(block)), source: null }))
const valid = fc.oneof(v1, v1Unknown, v2, v2Local)

t.test('however a valid header is split, it says the same and leaves exactly the rest', async (t) => {
  const property = fc.property(valid, rest, ({ bytes, source }, rest) => {
    for (let length = 0; length < bytes.length; length += 1) {
      if (parseProxyHeader(bytes.subarray(0, length)) !== null) return false
    }
    for (const all of [bytes, Buffer.concat([bytes, rest])]) {
      const header = parseProxyHeader(all)
      if (header?.length !== bytes.length || !isSame(header.source, source)) return false
    }
    return true
  })
  fc.assert(property, { numRuns: 500 })
  t.pass('500 headers, split at every byte')
})

t.test('bytes that are no header never name an address', async (t) => {
  const start = fc.constantFrom(
    Buffer.alloc(0),
    Buffer.from('PROXY '),
    Buffer.from('PROXY TCP4 '),
    V2_SIGNATURE,
  )
  const noise = fc.tuple(start, rest).map((parts) => Buffer.concat(parts))
  fc.assert(fc.property(noise, isHonest), RUNS)
  const text = fc.string({ unit: fc.constantFrom(...'TCP46 01:.\r\n'), maxLength: 80 })
  const words = text.map((line) => Buffer.from(`PROXY TCP4 ${line}\r\n`))
  fc.assert(fc.property(words, isHonest), RUNS)
  t.pass('10,000 of them')
})

t.test('a header with some bytes changed is a valid one or names no address', async (t) => {
  const change = fc.record({ at: fc.nat({ max: 600 }), to: fc.integer({ min: 0, max: 255 }) })
  const changed = fc
    .tuple(valid, rest, fc.array(change, { minLength: 1, maxLength: 3 }))
    .map(([{ bytes }, rest, changes]) => {
      const all = Buffer.concat([bytes, rest])
      for (const { at, to } of changes) all.writeUInt8(to, at % bytes.length)
      return all
    })
  fc.assert(fc.property(changed, isHonest), { numRuns: 20_000 })
  t.pass('20,000 of them')
})

t.test('a checksum that does not fit is refused, wherever the wrong bit is', async (t) => {
  const block = Buffer.from('c0000201c6336402d4311770', 'hex')
  const header = withChecksum(0x21, 0x11, block, [{ type: 0x05, value: Buffer.from('unique id') }])
  t.same(parseProxyHeader(header)?.source, { address: '192.0.2.1', port: 0xd431 })
  const checksumAt = header.length - 7
  for (let at = 16; at < header.length; at += 1) {
    // Types and lengths of TLVs decide whether there is a checksum at all.
    if (at === checksumAt || at === 28) continue
    for (let bit = 0; bit < 8; bit += 1) {
      const wrong = Buffer.from(header)
      wrong.writeUInt8(wrong.readUInt8(at) ^ (1 << bit), at)
      if (codeOf(wrong) !== 'proxy-header-invalid') t.fail(`bit ${bit} of byte ${at} may be wrong`)
    }
  }
  t.equal(crc32c(Buffer.from('123456789')), 0xe3069283, 'the check value of CRC-32C')
})

t.test('version 1 is read as strictly as it is written', async (t) => {
  const wrong = [
    'PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n',
    'PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n',
    'PROXY TCP4 192.0.2.1 192.0.2.2 1 -2\r\n',
    'PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n',
    'PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n',
    'PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n',
    'PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n',
    'PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n',
    'PROXY TCP4\t192.0.2.1 192.0.2.2 1 2\r\n',
    'PROXY TCP4 192.0.2.1 192.0.2.2 1 2\nmore\r\n',
    'PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n',
    'PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n',
    'PROXY TCP4 192.0.2.1\0 192.0.2.2 1 2\r\n',
    'PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n',
    'PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n',
    'PROXY TCP6 fe80::1%lo fe80::2 1 2\r\n',
    'PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n',
    'PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n',
    'PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n',
    'PROXY UNKNOWN2\r\n',
    'PROXY \r\n',
    'PROXY\r\n',
    'proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n',
    ' PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n',
    'GET / HTTP/1.1\r\n',
  ]
  for (const line of wrong)
    t.equal(codeOf(Buffer.from(line, 'latin1')), 'proxy-header-invalid', JSON.stringify(line))
  const unknown = `PROXY UNKNOWN ${'x'.repeat(91)}\r\n`
  t.equal(unknown.length, 107)
  t.same(parseProxyHeader(Buffer.from(unknown)), { length: 107, source: null })
  t.same(parseProxyHeader(Buffer.from('PROXY UNKNOWN\r\n')), { length: 15, source: null })
  const longer = Buffer.from(`PROXY UNKNOWN ${'x'.repeat(92)}\r\n`)
  t.equal(parseProxyHeader(longer.subarray(0, 106)), null)
  t.equal(codeOf(longer), 'proxy-header-invalid', 'one byte more than the longest line')
})

t.test('version 2 is read as strictly as it is written', async (t) => {
  const tcp4 = Buffer.from('c0000201c633640200010002', 'hex')
  const wrong: readonly (readonly [string, Buffer])[] = [
    ['version 1', v2Header(0x11, 0x11, tcp4)],
    ['version 3', v2Header(0x31, 0x11, tcp4)],
    ['an unknown command', v2Header(0x22, 0x11, tcp4)],
    ['UDP over IPv4', v2Header(0x21, 0x12, tcp4)],
    ['UDP over IPv6', v2Header(0x21, 0x22, Buffer.alloc(36))],
    ['Unix datagrams', v2Header(0x21, 0x32, Buffer.alloc(216))],
    ['an unknown family', v2Header(0x21, 0x41, Buffer.alloc(216))],
    ['IPv4 too short', v2Header(0x21, 0x11, tcp4.subarray(1))],
    ['IPv6 too short', v2Header(0x21, 0x21, Buffer.alloc(35))],
    ['Unix too short', v2Header(0x21, 0x31, Buffer.alloc(215))],
    ['half a TLV', v2Header(0x21, 0x11, Buffer.concat([tcp4, Buffer.from([5, 0])]))],
    ['a TLV past the end', v2Header(0x21, 0x11, Buffer.concat([tcp4, Buffer.from([5, 0, 2, 1])]))],
    ['a checksum of 3 bytes', v2Header(0x21, 0x11, tcp4, [{ type: 3, value: Buffer.alloc(3) }])],
    ['more than 4 KiB', v2Header(0x20, 0, Buffer.alloc(4_097))],
  ]
  for (const [what, bytes] of wrong) t.equal(codeOf(bytes), 'proxy-header-invalid', what)
  t.equal(
    codeOf(v2Header(0x21, 0x11, Buffer.alloc(65_535)).subarray(0, 16)),
    'proxy-header-invalid',
    'at once',
  )
  t.same(parseProxyHeader(v2Header(0x20, 0, Buffer.alloc(4_096))), { length: 4_112, source: null })
  t.same(parseProxyHeader(v2Header(0x21, 0x31, Buffer.alloc(216))), { length: 232, source: null })
  t.same(parseProxyHeader(v2Header(0x21, 0x00, Buffer.alloc(0))), { length: 16, source: null })
})

/** Says null or throws proxy-header-invalid, unless the bytes are a header by a second, independent reading. */
function isHonest(bytes: Buffer): boolean {
  let header: ProxyHeader | null
  try {
    header = parseProxyHeader(bytes)
  } catch (error) {
    return error instanceof HeadraceError && error.code === 'proxy-header-invalid'
  }
  if (header === null || header.source === null) return true
  const read = bytes.subarray(0, header.length)
  return isSame(header.source, bytes[0] === 0x0d ? secondReadingOfV2(read) : secondReadingOfV1(read))
}

function secondReadingOfV1(bytes: Buffer): ProxyHeader['source'] {
  const line = /^PROXY TCP([46]) ([0-9a-fA-F.:]+) ([0-9a-fA-F.:]+) (0|[1-9]\d*) (0|[1-9]\d*)\r\n$/
  const [, family, from = '', to = '', source, target] = line.exec(bytes.toString('latin1')) ?? []
  const isValid = [from, to].every((one) => String(isIP(one)) === family) && bytes.length <= 107
  return isValid && Number(source) < 65_536 && Number(target) < 65_536
    ? { address: from, port: Number(source) }
    : null
}

function secondReadingOfV2(bytes: Buffer): ProxyHeader['source'] {
  const size = { 17: 4, 33: 16 }[bytes.readUInt8(13)]
  const isWhole = bytes.subarray(0, 12).equals(V2_SIGNATURE) && bytes.readUInt16BE(14) === bytes.length - 16
  if (size === undefined || !isWhole || bytes.readUInt8(12) !== 0x21) return null
  return { address: textOf(bytes.subarray(16, 16 + size)), port: bytes.readUInt16BE(16 + 2 * size) }
}

function textOf(address: Uint8Array): string {
  if (address.length === 4) return Array.from(address).join('.')
  const text = Buffer.from(address)
    .toString('hex')
    .replace(/(.{4})(?!$)/g, '$1:')
  return new SocketAddress({ address: text, family: 'ipv6' }).address
}

function isSame(one: ProxyHeader['source'], other: ProxyHeader['source']): boolean {
  return one?.address === other?.address && one?.port === other?.port
}

function codeOf(bytes: Buffer): string {
  try {
    return JSON.stringify(parseProxyHeader(bytes))
  } catch (error) {
    return error instanceof HeadraceError ? error.code : String(error)
  }
}
