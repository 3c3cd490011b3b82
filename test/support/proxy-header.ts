// Headers of the PROXY protocol, version 2, valid or not, as a proxy would write them.

import { crc32c } from '../../src/accept/proxy-protocol.ts'

export const V2_SIGNATURE = Buffer.from('0d0a0d0a000d0a515549540a', 'hex')

interface Tlv {
  readonly type: number
  readonly value: Uint8Array
}

const CHECKSUM = 0x03

/** `command`: version and command, 0x21 for PROXY, 0x20 for LOCAL. `family`: 0x11 TCP over IPv4, 0x21 over IPv6. */
export function v2Header(
  command: number,
  family: number,
  addresses: Uint8Array,
  tlvs: readonly Tlv[] = [],
): Buffer {
  const parts = tlvs.map(({ type, value }) => {
    const head = Buffer.from([type, 0, 0])
    head.writeUInt16BE(value.length, 1)
    return Buffer.concat([head, value])
  })
  const block = Buffer.concat([addresses, ...parts])
  const head = Buffer.from([command, family, 0, 0])
  head.writeUInt16BE(block.length, 2)
  return Buffer.concat([V2_SIGNATURE, head, block])
}

/** The same with a checksum as its last TLV. */
export function withChecksum(
  command: number,
  family: number,
  addresses: Uint8Array,
  tlvs: readonly Tlv[] = [],
): Buffer {
  const bytes = v2Header(command, family, addresses, [...tlvs, { type: CHECKSUM, value: Buffer.alloc(4) }])
  bytes.writeUInt32BE(crc32c(bytes), bytes.length - 4)
  return bytes
}
