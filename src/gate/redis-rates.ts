// Rates that a fleet counts together, in Redis. Whenever it doesn't answer at once this process counts alone.
//
//   shared ──error, or ANSWER_TIMEOUT_MS──▶ alone, told once ──REST_MS──▶ the next upgrade asks again ──▶ shared

import type { Redis } from 'ioredis'
import type { RateLimiterRedis } from 'rate-limiter-flexible'
import { HeadraceError } from '../errors.ts'
import type { RateClaim } from './claims.ts'
import { memoryRates, nameOf, waitOf } from './memory-rates.ts'
import type { RateStore } from './rates.ts'

/** What an upgrade waits for Redis, in ms. */
const ANSWER_TIMEOUT_MS = 200
/** After a failure, how long nobody waits for it, in ms. */
const REST_MS = 1_000
/** What the start waits for the connection, in ms. */
const CONNECT_TIMEOUT_MS = 1_000
/** The longest wait between two attempts to connect again, in ms. */
const LONGEST_RETRY_MS = 2_000

/** `url`: `redis://` or `rediss://`. */
export function redisRates(url: string, onTrouble: (what: HeadraceError) => void): RateStore {
  const alone = memoryRates()
  const limiters = new Map<string, RateLimiterRedis>()
  let restsUntil = 0
  let isTroubled = false
  let isClosed = false
  const client = connect(url)
  // Whoever waits for it is told; nobody waiting is no reason to end the process.
  client.catch(() => {})

  function fail(error: unknown): void {
    restsUntil = performance.now() + REST_MS
    if (isTroubled || isClosed) return
    isTroubled = true
    const reason = error instanceof Error ? error.message : String(error)
    const detail = `Redis at ${new URL(url).host}: ${reason}; this process counts alone meanwhile`
    onTrouble(new HeadraceError('rate-store-failed', detail, error))
  }

  async function shared(service: string, claim: RateClaim): Promise<number> {
    const name = nameOf(service, claim)
    const { limit: points, windowMs } = claim
    let limiter = limiters.get(name)
    if (limiter === undefined) {
      const options = { keyPrefix: `headrace:${name}`, points, duration: windowMs / 1_000 }
      const storeClient = await client
      limiter = new (await import('rate-limiter-flexible')).RateLimiterRedis({ ...options, storeClient })
      limiters.set(name, limiter)
    }
    return await waitOf(limiter.consume(claim.key))
  }

  return {
    async ready() {
      const redis = await client
      // A second time it is connected, or tries to be.
      if (redis.status === 'wait') await redis.connect().catch(fail)
    },
    async consume(service, claim) {
      if (performance.now() < restsUntil) return await alone.consume(service, claim)
      try {
        const wait = await shared(service, claim)
        isTroubled = false
        return wait
      } catch (error) {
        fail(error)
        return await alone.consume(service, claim)
      }
    },
    // What is counted there stays there.
    counted: () => [],
    adopt() {},
    close() {
      isClosed = true
      alone.close()
      client.then((redis) => redis.disconnect()).catch(() => {})
    },
  }
}

async function connect(url: string): Promise<Redis> {
  const { Redis } = await import('ioredis').catch((error: unknown) => {
    const detail = 'rateStore: Redis needs the package ioredis, which is not there: npm install ioredis'
    throw new HeadraceError('config-invalid', detail, error)
  })
  const redis = new Redis(url, {
    lazyConnect: true,
    connectTimeout: CONNECT_TIMEOUT_MS,
    commandTimeout: ANSWER_TIMEOUT_MS,
    // Nothing waits for a connection, and nothing is asked twice.
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    autoResendUnfulfilledCommands: false,
    retryStrategy: (times) => Math.min(times * 100, LONGEST_RETRY_MS),
  })
  // Each request that it fails says so.
  redis.on('error', () => {})
  return redis
}
