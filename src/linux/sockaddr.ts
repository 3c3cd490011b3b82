// Addresses of sockets as the system has them: struct sockaddr_in and sockaddr_in6 (ip(7), ipv6(7)), sockaddr_un (unix(7)).

import { isIPv4 } from 'node:net'
import type { Libc } from './libc.ts'
import { AF_INET, AF_INET6, AF_UNIX } from './libc.ts'

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

/** Bytes of a sockaddr_un: the longest of all. */
export const SOCKADDR_UN_SIZE = 110

/** `@name` is one of the abstract names of Linux, which are no files. Throws a TypeError if the path has no room. */
export function unixSockaddrOf(path: string): Buffer {
  const name = Buffer.from(path.startsWith('@') ? `\0${path.slice(1)}` : `${path}\0`)
  if (name.length > SOCKADDR_UN_SIZE - 2)
    throw new TypeError(`${path} is too long for the address of a socket`)
  const bytes = Buffer.alloc(2 + name.length)
  bytes.writeUInt16LE(AF_UNIX, 0)
  name.copy(bytes, 2)
  return bytes
}

/** `bytes` as long as the system said. '' for a socket without a name. */
export function unixPathOf(bytes: Buffer): string {
  const name = bytes.subarray(2)
  if (name[0] === 0) return `@${name.subarray(1)}`
  const end = name.indexOf(0)
  return name.subarray(0, end === -1 ? name.length : end).toString()
}

/** INET6_ADDRSTRLEN. */
const TEXT = Buffer.alloc(46)
