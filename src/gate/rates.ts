// Rates: by what upgrades are counted. The counting itself is a RateStore's.

import { hash } from 'node:crypto'
import type { SocketAddress } from 'node:net'
import type { AddressList } from '../accept/addresses.ts'
import { addressList } from '../accept/addresses.ts'
import type { RequestHead } from '../head/head.ts'
import { valuesOf } from '../head/head.ts'
import type { RateClaim } from './claims.ts'
import { clientNetwork } from './network.ts'

export interface RateOptions {
  readonly name: string
  /** The client's network, the whole service, or the value of a field. */
  readonly per: 'client' | 'service' | { readonly header: string }
  readonly limit: number
  /** Whole seconds. It begins with the first upgrade that is counted. */
  readonly windowMs: number
  /** Addresses and CIDR blocks that are not counted. */
  readonly except: readonly string[]
}

/** What keeps the counts. */
export interface RateStore {
  /** Rejects with config-invalid if it can never work. */
  ready(): Promise<void>
  /** Takes a point of this claim. Resolves with 0, or with the ms until there are points again. Never rejects. */
  consume(service: string, claim: RateClaim): Promise<number>
  /** What this process has counted, and nobody else knows: of all its keys those that are nearest to their limit. */
  counted(): readonly CountedRate[]
  /** Goes on with what another process has counted. */
  adopt(rates: readonly CountedRate[]): void
  close(): void
}

/** How far a rate is: JSON. */
export interface CountedRate extends Omit<RateClaim, 'key'> {
  readonly service: string
  readonly keys: readonly CountedKey[]
}

/** What was taken of a key in its window, and when that is over: epoch ms; null: never. */
export type CountedKey = readonly [key: string, points: number, endsAt: number | null]

export interface Rate {
  /** Of a client at `address`, also given as `parsed`. Null if this request is not counted. */
  claim(address: string, parsed: SocketAddress | null, head: RequestHead): RateClaim | null
}

/** Of a digest: enough that nobody finds two values with the same one. */
const DIGEST_LENGTH = 32

/** Throws config-invalid. */
export function compileRate({ name: rule, per, limit, windowMs, except }: RateOptions): Rate {
  const excepted: AddressList | null = except.length === 0 ? null : addressList(except)
  const keyOf = keyFor(per)
  return {
    claim(address, parsed, head) {
      if (excepted?.hasParsed(parsed)) return null
      return { rule, key: keyOf(address, head), limit, windowMs }
    },
  }
}

function keyFor(per: RateOptions['per']): (address: string, head: RequestHead) => string {
  if (per === 'service') return () => ''
  if (per === 'client') return clientNetwork
  const key = per.header.toLowerCase()
  return (_, { fields }) => digest(valuesOf(fields, key))
}

/** Values may be secrets, and long: neither is kept. All requests without the field are counted together. */
function digest(values: readonly string[]): string {
  return values.length === 0 ? '' : hash('sha256', values.join(', '), 'base64url').slice(0, DIGEST_LENGTH)
}
