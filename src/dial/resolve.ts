// Names to addresses: all of them, checked before one is dialled, so that the address that was checked is the one that
// is used.

import type { LookupAddress } from 'node:dns'
import { lookup as systemLookup } from 'node:dns'
import { BlockList, isIP } from 'node:net'
import { HeadraceError } from '../errors.ts'

export type Lookup = (name: string) => Promise<LookupAddress[]>

/** How long an answer of the resolver is used again, in ms: enough for a storm of reconnects, too short to go stale. */
const HOLD_MS = 1_000

/** Link-local addresses, where clouds keep their metadata services; and the one of them that is not link-local. */
const LINK_LOCAL = new BlockList()
LINK_LOCAL.addSubnet('169.254.0.0', 16, 'ipv4')
LINK_LOCAL.addSubnet('fe80::', 10, 'ipv6')
LINK_LOCAL.addAddress('fd00:ec2::254', 'ipv6')

/** Answers in use, by name. Shared by all backends: getaddrinfo has only node's four threads. */
const held = new Map<string, Promise<LookupAddress[]>>()

export function lookupAll(name: string): Promise<LookupAddress[]> {
  const known = held.get(name)
  if (known !== undefined) return known
  const answer = new Promise<LookupAddress[]>((resolve, reject) => {
    systemLookup(name, { all: true, verbatim: true }, (error, addresses) =>
      error ? reject(error) : resolve(addresses),
    )
  })
  held.set(name, answer)
  const forget = () => held.delete(name)
  answer.then(() => setTimeout(forget, HOLD_MS).unref(), forget)
  return answer
}

/**
 * The addresses of `host` in the order in which they are tried (RFC 8305 section 4): families in turn, the resolver's
 * order within each. Throws name-unresolved or address-forbidden.
 */
export async function addressesOf(
  host: string,
  allowLinkLocal: boolean,
  lookup: Lookup,
): Promise<LookupAddress[]> {
  const found = isIP(host) === 0 ? await resolved(host, lookup) : [{ address: host, family: isIP(host) }]
  const allowed = allowLinkLocal ? found : found.filter((one) => !isLinkLocal(one))
  if (allowed.length === 0) {
    throw new HeadraceError(
      'address-forbidden',
      `${host} is ${found.map(({ address }) => address).join(', ')}`,
    )
  }
  return interleaved(allowed)
}

async function resolved(host: string, lookup: Lookup): Promise<LookupAddress[]> {
  let found: LookupAddress[]
  try {
    found = await lookup(host)
  } catch (error) {
    throw new HeadraceError('name-unresolved', `${(error as NodeJS.ErrnoException).code} ${host}`, error)
  }
  if (found.length === 0) throw new HeadraceError('name-unresolved', `${host} has no address`)
  return found
}

function isLinkLocal({ address, family }: LookupAddress): boolean {
  // The list costs more than a look at where all of its entries, IPv4-mapped ones included, begin.
  if (!/^(?:169\.254\.|[f0:])/i.test(address)) return false
  // A zone (fe80::1%eth0) is no part of the address that is compared.
  return LINK_LOCAL.check(address.replace(/%.*$/, ''), family === 6 ? 'ipv6' : 'ipv4')
}

function interleaved(addresses: readonly LookupAddress[]): LookupAddress[] {
  const v6 = addresses.filter(({ family }) => family === 6)
  const v4 = addresses.filter(({ family }) => family !== 6)
  const result: LookupAddress[] = []
  for (let at = 0; at < Math.max(v6.length, v4.length); at += 1) {
    for (const one of [v6[at], v4[at]]) if (one !== undefined) result.push(one)
  }
  return result
}
