// Rates that are counted in this process. A fixed number of keys is kept for each rate, the latest used: what strangers
// can make grow has an end.

import { createRequire } from 'node:module'
import { LRUCache } from 'lru-cache'
import type { RateLimiterMemory, RateLimiterRes } from 'rate-limiter-flexible'
import type { RateClaim } from './claims.ts'
import type { CountedKey, CountedRate, RateStore } from './rates.ts'

/** Loaded by the first rate: 37 files, of all kinds of stores, for which no start should wait. */
const limiters = (): typeof import('rate-limiter-flexible') => require('rate-limiter-flexible')
const require = createRequire(import.meta.url)

/**
 * Keys that one rate keeps, about 0.5 KiB each. Beyond it the key that was not used for longest is forgotten, with its
 * count: a client that goes on and on is never the one.
 */
export const MAX_KEYS = 50_000

/** Keys of all rates that another process is told: some 3 MiB of JSON. */
export const MAX_TOLD_KEYS = 50_000

interface Counter {
  readonly service: string
  readonly claim: Omit<RateClaim, 'key'>
  readonly limiter: RateLimiterMemory
  /** The keys that the limiter knows, or did until their window was over. */
  readonly used: LRUCache<string, true>
}

export interface MemoryRates extends RateStore {
  /** How many keys are kept. */
  readonly size: number
}

export function memoryRates(): MemoryRates {
  const counters = new Map<string, Counter>()

  async function consume(service: string, claim: RateClaim): Promise<number> {
    const counter = counterOf(counters, service, claim)
    counter.used.set(claim.key, true)
    return await waitOf(counter.limiter.consume(claim.key))
  }

  function counted(): CountedRate[] {
    const all = [...counters.values()].flatMap((counter) =>
      counter.limiter.dump().storage.map((record) => ({ ...record, counter })),
    )
    const share = ({ value, counter }: (typeof all)[number]) => value / counter.claim.limit
    // The nearest to its limit is the last: whoever adopts them has used it last.
    const told = all.sort((one, other) => share(one) - share(other)).slice(-MAX_TOLD_KEYS)
    const keysOf = new Map([...counters.values()].map((counter) => [counter, [] as CountedKey[]]))
    for (const { counter, key, value, expiresAt } of told) {
      keysOf.get(counter)?.push([String(key), value, expiresAt])
    }
    return [...keysOf].map(([{ service, claim }, keys]) => ({ service, ...claim, keys }))
  }

  function adopt(rates: readonly CountedRate[]): void {
    for (const { service, keys, ...claim } of rates) {
      const { limiter, used } = counterOf(counters, service, claim)
      const storage = keys.map(([key, value, expiresAt]) => ({ key, value, expiresAt }))
      limiter.restore({ version: 1, storage })
      for (const [key] of keys) used.set(key, true)
    }
  }

  return {
    consume,
    counted,
    adopt,
    async ready() {},
    close() {
      for (const { used } of counters.values()) used.clear()
      counters.clear()
    },
    get size() {
      return [...counters.values()].reduce((sum, { used }) => sum + used.size, 0)
    },
  }
}

/** 0, or how long to wait. Rejects only with what is no refusal. */
export async function waitOf(consumed: Promise<RateLimiterRes>): Promise<number> {
  try {
    await consumed
    return 0
  } catch (refused) {
    if (refused instanceof Error) throw refused
    return Math.max(1, (refused as RateLimiterRes).msBeforeNext)
  }
}

/** A rate with another limit after a reload is another one. */
export function nameOf(service: string, { rule, limit, windowMs }: Omit<RateClaim, 'key'>): string {
  return `${service}:${rule}:${limit}/${windowMs / 1_000}`
}

function counterOf(
  counters: Map<string, Counter>,
  service: string,
  { rule, limit, windowMs }: Omit<RateClaim, 'key'>,
): Counter {
  const claim = { rule, limit, windowMs }
  const name = nameOf(service, claim)
  const known = counters.get(name)
  if (known !== undefined) return known
  const { RateLimiterMemory } = limiters()
  const limiter = new RateLimiterMemory({ keyPrefix: '', points: limit, duration: windowMs / 1_000 })
  const forget = (_: true, key: string) => void limiter.delete(key)
  const used = new LRUCache<string, true>({ max: MAX_KEYS, dispose: forget })
  const counter = { service, claim, limiter, used }
  counters.set(name, counter)
  return counter
}
