// IP addresses as text, and lists of them.

import { BlockList, isIP, SocketAddress } from 'node:net'
import { HeadraceError } from '../errors.ts'

export interface AddressList {
  has(address: string): boolean
  /** The same, for whoever asks several lists: to parse an address costs more than to look for it. */
  hasParsed(address: SocketAddress | null): boolean
}

/** Null if it is none. The zone of an IPv6 address is this machine's, and no part of it (RFC 4007 section 6). */
export function parsedAddress(text: string): SocketAddress | null {
  if (isIP(text) === 0) return null
  return new SocketAddress({ address: text.replace(/%.*$/, ''), family: familyOf(text) })
}

export function isAddress(text: string): boolean {
  return isIP(text) !== 0
}

/** From addresses and CIDR blocks. Throws config-invalid. */
export function addressList(entries: readonly string[]): AddressList {
  // One for each family: in a list of both, ::/0 would have every IPv4 address, as ::ffff:0:0/96.
  const lists: Lists = { ipv4: new BlockList(), ipv6: new BlockList() }
  for (const entry of entries) add(lists, entry)
  const hasParsed = (address: SocketAddress | null) =>
    address !== null && lists[address.family].check(address)
  return { hasParsed, has: (address) => hasParsed(parsedAddress(address)) }
}

type Lists = Readonly<Record<'ipv4' | 'ipv6', BlockList>>

function add(lists: Lists, entry: string): void {
  const [address = '', prefix, ...more] = entry.split('/')
  const isBlock = prefix !== undefined
  const longest = isIP(address) === 6 ? 128 : 32
  const isValid = isIP(address) !== 0 && !address.includes('%') && more.length === 0
  if (!isValid || (isBlock && !(/^[0-9]{1,3}$/.test(prefix) && Number(prefix) <= longest))) {
    throw new HeadraceError('config-invalid', `${JSON.stringify(entry)} is no address and no CIDR block`)
  }
  const family = familyOf(address)
  if (isBlock) lists[family].addSubnet(address, Number(prefix), family)
  else lists[family].addAddress(address, family)
}

/** An IPv4 address that came over an IPv6 socket is shown as what it is (RFC 4291 section 2.5.5.2). */
export function unmapped(address: string): string {
  return address.startsWith('::ffff:') && isIP(address.slice(7)) === 4 ? address.slice(7) : address
}

/** The usual text of 16 bytes (RFC 5952). */
export function textOfIpv6(bytes: Uint8Array): string {
  const groups = Array.from({ length: 8 }, (_, at) =>
    (((bytes[at * 2] ?? 0) << 8) | (bytes[at * 2 + 1] ?? 0)).toString(16),
  )
  return new SocketAddress({ address: groups.join(':'), family: 'ipv6' }).address
}

function familyOf(address: string): 'ipv4' | 'ipv6' {
  return isIP(address) === 6 ? 'ipv6' : 'ipv4'
}
