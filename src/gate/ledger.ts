// The ledger that counts in this process. Of several processes one has it, and the others ask.

import type { HeadraceError } from '../errors.ts'
import type { Claims, Denial, Ledger, SeatClaim, Verdict } from './claims.ts'
import { memoryRates } from './memory-rates.ts'
import type { CountedRate, RateStore } from './rates.ts'
import { redisRates } from './redis-rates.ts'
import type { Crossing, SpikeState } from './seats.ts'
import { createSeats } from './seats.ts'

export interface LedgerOptions {
  /** Where a fleet counts rates together; undefined: in this process. */
  readonly redis: string | undefined
  onCrossing(crossing: Crossing): void
  /** While another ledger tells of crossings; default: never. */
  isQuiet?(): boolean
  onTrouble(what: HeadraceError): void
}

export interface CountingLedger extends Ledger {
  /** Rejects with config-invalid if it can't count. */
  ready(): Promise<void>
  /** The config has changed: how many connections the services expect now. */
  expect(expected: ReadonlyMap<string, number>): void
  /** Of a service that expects a number; null if nobody has come yet, or another process knows. */
  spikes(service: string): SpikeState | null
  /** All of these, for another ledger to go on with. */
  spikeStates(): readonly SpikeState[]
  adoptSpikes(states: readonly SpikeState[]): void
  /** How many requests have something to give back: none, when all are over. */
  readonly size: number
  /** All that is held. */
  seats(): readonly Seated[]
  /** Takes seats that another ledger has granted, also where there are none. */
  seat(seated: Seated): void
  /** What is counted of rates here, for another ledger to go on with. */
  rates(): readonly CountedRate[]
  adoptRates(rates: readonly CountedRate[]): void
  close(): void
}

/** Who has which seats: JSON. */
export interface Seated extends Taken {
  readonly id: string
}

/** What a request has to give back: nothing yet while its rates are asked. */
export interface Taken {
  readonly service: string
  readonly seats: readonly SeatClaim[]
}

const GRANTED = { isGranted: true } as const

/** When a seat may be free again nobody knows; those that were refused together shall not come back together. In ms. */
const FULL_RETRY_MS = { least: 5_000, most: 15_000 }

export function createLedger({ redis, onCrossing, isQuiet, onTrouble }: LedgerOptions): CountingLedger {
  const rates: RateStore = redis === undefined ? memoryRates() : redisRates(redis, onTrouble)
  const seats = createSeats(onCrossing, isQuiet)
  const open = new Map<string, Taken>()

  function take(claims: Claims): Verdict | Promise<Verdict> {
    if (open.has(claims.id)) return GRANTED
    if (claims.rates.length === 0) return sit(claims)
    const asking: Taken = { service: claims.service, seats: [] }
    open.set(claims.id, asking)
    return takeBoth(claims, asking)
  }

  async function takeBoth(claims: Claims, asking: Taken): Promise<Verdict> {
    const denial = await deniedBy(rates, claims)
    // Given back meanwhile: it has gone, and shall not sit.
    if (open.get(claims.id) !== asking) return GRANTED
    open.delete(claims.id)
    return denial ?? sit(claims)
  }

  function sit(claims: Claims): Verdict {
    const { id, service, seats: wanted } = claims
    if (wanted.length === 0) return GRANTED
    const full = seats.take(service, wanted)
    if (full !== undefined) return fullOf(full, service)
    open.set(id, { service, seats: wanted })
    return GRANTED
  }

  function give(id: string): void {
    const taken = open.get(id)
    open.delete(id)
    if (taken !== undefined) seats.give(taken.service, taken.seats)
  }

  return {
    take,
    give,
    ready: rates.ready,
    expect: seats.expect,
    spikes: seats.spikes,
    spikeStates: seats.spikeStates,
    adoptSpikes: seats.adoptSpikes,
    get size() {
      return open.size
    },
    seats: () =>
      [...open].filter(([, taken]) => taken.seats.length > 0).map(([id, taken]) => ({ id, ...taken })),
    seat({ id, service, seats: taken }) {
      if (open.has(id)) return
      open.set(id, { service, seats: taken })
      seats.sit(service, taken)
    },
    rates: rates.counted,
    adoptRates: rates.adopt,
    close: rates.close,
  }
}

/** In their order. What was taken before the one that is spent stays taken: the request did come. */
export async function deniedBy(rates: RateStore, { service, rates: claims }: Claims): Promise<Denial | null> {
  for (const claim of claims) {
    const retryAfterMs = await rates.consume(service, claim)
    if (retryAfterMs === 0) continue
    const { rule, limit, windowMs } = claim
    const detail = `${limit} in ${windowMs / 1_000} s`
    return { isGranted: false, code: 'rate-limited', rule, detail, retryAfterMs }
  }
  return null
}

function fullOf({ code, rule, limit }: SeatClaim, service: string): Denial {
  const { least, most } = FULL_RETRY_MS
  const retryAfterMs = least + Math.random() * (most - least)
  return { isGranted: false, code, rule, detail: `${limit} connections of service ${service}`, retryAfterMs }
}
