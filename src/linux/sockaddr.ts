// Internet addresses as the system has them: struct sockaddr_in and sockaddr_in6 (ip(7), ipv6(7)).

import { isIPv4 } from 'node:net'
import type { Libc } from './libc.ts'
import { AF_INET, AF_INET6 } from './libc.ts'

/** Bytes of a sockaddr_in6, the longer of the two. */
export const SOCKADDR_SIZE = 28
const SOCKADDR_IN_SIZE = 16

export interface Endpoint {
  readonly address: string
  readonly port: number
}

export function familyOf(address: string): number {
  return isIPv4(address) ? AF_INET : AF_INET6
}

/** `address` is an IP address without a zone; anything else throws a TypeError. */
export function sockaddrOf(calls: Libc, { address, port }: Endpoint): Buffer {
  const family = familyOf(address)
  const bytes = Buffer.alloc(family === AF_INET ? SOCKADDR_IN_SIZE : SOCKADDR_SIZE)
  bytes.writeUInt16LE(family, 0)
  bytes.writeUInt16BE(port, 2)
  if (calls.inet_pton(family, address, bytes.subarray(family === AF_INET ? 4 : 8)) !== 1) {
    throw new TypeError(`${address} is no IP address`)
  }
  return bytes
}

export function endpointOf(calls: Libc, bytes: Buffer): Endpoint {
  const port = bytes.readUInt16BE(2)
  if (bytes.readUInt16LE(0) === AF_INET) {
    return { address: `${bytes[4]}.${bytes[5]}.${bytes[6]}.${bytes[7]}`, port }
  }
  const address = calls.inet_ntop(AF_INET6, bytes.subarray(8, 24), TEXT, TEXT.length) ?? ''
  return { address, port }
}

/** INET6_ADDRSTRLEN. */
const TEXT = Buffer.alloc(46)
