// Rates that are counted in this process. A fixed number of keys is kept for each rate, the latest used: what strangers
// can make grow has an end.

import { LRUCache } from 'lru-cache'
import { RateLimiterMemory, RateLimiterRes } from 'rate-limiter-flexible'
import type { RateClaim } from './claims.ts'
import type { RateStore } from './rates.ts'

/**
 * Keys that one rate keeps, about 0.5 KiB each. Beyond it the key that was not used for longest is forgotten, with its
 * count: a client that goes on and on is never the one.
 */
export const MAX_KEYS = 50_000

interface Counter {
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

  return {
    consume,
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
    if (refused instanceof RateLimiterRes) return Math.max(1, refused.msBeforeNext)
    throw refused
  }
}

/** A rate with another limit after a reload is another one. */
export function nameOf(service: string, { rule, limit, windowMs }: RateClaim): string {
  return `${service}:${rule}:${limit}/${windowMs / 1_000}`
}

function counterOf(counters: Map<string, Counter>, service: string, claim: RateClaim): Counter {
  const name = nameOf(service, claim)
  const known = counters.get(name)
  if (known !== undefined) return known
  const { limit, windowMs } = claim
  const limiter = new RateLimiterMemory({ keyPrefix: '', points: limit, duration: windowMs / 1_000 })
  const forget = (_: true, key: string) => void limiter.delete(key)
  const counter = { limiter, used: new LRUCache<string, true>({ max: MAX_KEYS, dispose: forget }) }
  counters.set(name, counter)
  return counter
}
