// The PROXY protocol, versions 1 and 2 (HAProxy's doc/proxy-protocol.txt): bytes come in, who the client is goes out.
// A pure function over what has arrived so far; it is asked again when more has.

import { isIP } from 'node:net'
import { HeadraceError } from '../errors.ts'
import { textOfIpv6 } from './addresses.ts'

export interface ProxyHeader {
  /** How many bytes it takes; the rest is the client's. */
  readonly length: number
  /** Null: the header says nothing about the client (LOCAL, UNKNOWN, a Unix socket). */
  readonly source: { readonly address: string; readonly port: number } | null
}

/** Section 2.1: the longest line of version 1, CRLF included. */
const V1_SIZE = 107
const V1_START = Buffer.from('PROXY ')
/** Section 2.2. */
const V2_START = Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1')
const V2_FIXED = 16
/** Room for addresses and every TLV in use; a length field could ask for 64 KiB. */
const V2_SIZE = V2_FIXED + 4_096

const FAMILIES = { unspecified: 0x00, tcp4: 0x11, tcp6: 0x21, unixStream: 0x31 } as const
const PP2_TYPE_CRC32C = 0x03

/** The header at the start of `bytes`, or null if more bytes are needed. Throws proxy-header-invalid. */
export function parseProxyHeader(bytes: Buffer): ProxyHeader | null {
  if (startsLike(bytes, V2_START)) return bytes.length < V2_FIXED ? null : parseV2(bytes)
  if (startsLike(bytes, V1_START)) return parseV1(bytes)
  throw invalid('it starts like neither version')
}

/** True if `bytes` is a beginning of `start`, or begins with it. */
function startsLike(bytes: Buffer, start: Buffer): boolean {
  const length = Math.min(bytes.length, start.length)
  return bytes.subarray(0, length).equals(start.subarray(0, length))
}

function parseV1(bytes: Buffer): ProxyHeader | null {
  const end = bytes.subarray(0, V1_SIZE).indexOf('\r\n')
  if (end === -1) {
    if (bytes.length >= V1_SIZE) throw invalid(`version 1 without CRLF in ${V1_SIZE} bytes`)
    return null
  }
  const length = end + 2
  const [, protocol, ...rest] = bytes.toString('latin1', 0, end).split(' ')
  // What follows UNKNOWN must be ignored.
  if (protocol === 'UNKNOWN') return { length, source: null }
  const [source = '', destination = '', sourcePort = '', destinationPort = '', ...more] = rest
  const family = protocol === 'TCP4' ? 4 : protocol === 'TCP6' ? 6 : 0
  const areAddresses =
    family !== 0 && [source, destination].every((one) => isIP(one) === family && !one.includes('%'))
  if (!areAddresses || more.length > 0)
    throw invalid('version 1 without two addresses of the family that it names')
  if (![sourcePort, destinationPort].every(isPort)) throw invalid('version 1 without two ports')
  return { length, source: { address: source, port: Number(sourcePort) } }
}

function isPort(text: string): boolean {
  return /^(0|[1-9][0-9]{0,4})$/.test(text) && Number(text) <= 65_535
}

function parseV2(bytes: Buffer): ProxyHeader | null {
  const version = bytes.readUInt8(12) >> 4
  const command = bytes.readUInt8(12) & 0x0f
  const family = bytes.readUInt8(13)
  const length = V2_FIXED + bytes.readUInt16BE(14)
  if (version !== 2 || command > 1) throw invalid(`version ${version}, command ${command}`)
  if (length > V2_SIZE) throw invalid(`version 2 with ${length} bytes, at most ${V2_SIZE} are accepted`)
  if (bytes.length < length) return null
  const header = bytes.subarray(0, length)
  // LOCAL: the proxy speaks for itself, a health check for example. Whatever addresses there are mean nothing.
  if (command === 0) return { length, source: null }
  const { size, source } = addressesOfV2(header, family)
  checkTlvs(header, V2_FIXED + size)
  return { length, source }
}

function addressesOfV2(header: Buffer, family: number): { size: number; source: ProxyHeader['source'] } {
  const at = V2_FIXED
  switch (family) {
    case FAMILIES.unspecified:
      return { size: header.length - at, source: null }
    case FAMILIES.tcp4:
      need(header, 12)
      return {
        size: 12,
        source: { address: header.subarray(at, at + 4).join('.'), port: header.readUInt16BE(at + 8) },
      }
    case FAMILIES.tcp6: {
      need(header, 36)
      const address = textOfIpv6(header.subarray(at, at + 16))
      return { size: 36, source: { address, port: header.readUInt16BE(at + 32) } }
    }
    case FAMILIES.unixStream:
      need(header, 216)
      return { size: 216, source: null }
    default:
      throw invalid(`version 2 with the address family 0x${family.toString(16)}, which is none of a stream`)
  }
}

function need(header: Buffer, size: number): void {
  if (header.length < V2_FIXED + size) throw invalid('version 2 is too short for its addresses')
}

/** Section 2.2: type, length, value after the addresses. Only the checksum concerns us. */
function checkTlvs(header: Buffer, start: number): void {
  let at = start
  while (at < header.length) {
    if (at + 3 > header.length) throw invalid('version 2 with half a TLV')
    const type = header.readUInt8(at)
    const size = header.readUInt16BE(at + 1)
    if (at + 3 + size > header.length) throw invalid('version 2 with a TLV that is longer than the header')
    if (type === PP2_TYPE_CRC32C) checkSum(header, at + 3, size)
    at += 3 + size
  }
}

/** Section 2.2.3: over the whole header with the checksum's own bytes as zero. */
function checkSum(header: Buffer, at: number, size: number): void {
  if (size !== 4) throw invalid('version 2 with a checksum that has not 4 bytes')
  const zeroed = Buffer.from(header)
  zeroed.fill(0, at, at + 4)
  if (crc32c(zeroed) !== header.readUInt32BE(at)) throw invalid('version 2 with a wrong checksum')
}

/** CRC-32C, polynomial 0x1EDC6F41, reflected (RFC 9260 appendix A). Bit by bit: a header is short, and rare. */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1
  }
  return (crc ^ 0xffffffff) >>> 0
}

function invalid(detail: string): HeadraceError {
  return new HeadraceError('proxy-header-invalid', detail)
}
