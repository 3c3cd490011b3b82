// How many connections are open at once, by key; and when there are more than expected.
//
//   calm ──more than expected: told──▶ spike ──below 90 % of it: told──▶ calm

import type { SeatClaim } from './claims.ts'

/** More connections of a service than its `expectedConnections`, or no longer. */
export interface Crossing {
  readonly service: string
  readonly connections: number
  readonly expected: number
  readonly isAbove: boolean
}

export interface SpikeState extends Crossing {
  /** How often it has begun. */
  readonly spikes: number
}

export interface Seats {
  /** The first that is full, or undefined: then all of them are taken. */
  take(service: string, seats: readonly SeatClaim[]): SeatClaim | undefined
  /** The same, also if some are full. */
  sit(service: string, seats: readonly SeatClaim[]): void
  give(service: string, seats: readonly SeatClaim[]): void
  /** What the services expect now. */
  expect(expected: ReadonlyMap<string, number>): void
  /** Of a service that expects a number; null if nobody has come yet. */
  spikes(service: string): SpikeState | null
  spikeStates(): readonly SpikeState[]
  /** What another one has told so far. */
  adoptSpikes(states: readonly SpikeState[]): void
}

/** A spike is over when the connections are fewer than this part of what is expected. */
const CALM = 0.9

/** While `isQuiet` says so nothing is told, and nothing changes of what was: with the next connection it is looked again. */
export function createSeats(
  onCrossing: (crossing: Crossing) => void,
  isQuiet: () => boolean = () => false,
): Seats {
  const taken = new Map<string, number>()
  const states = new Map<string, SpikeState>()

  function look(service: string, connections: number, expected: number): void {
    const { isAbove, spikes } = states.get(service) ?? { isAbove: false, spikes: 0 }
    const begins = !isAbove && connections > expected
    const ends = isAbove && connections < expected * CALM
    const isTold = (begins || ends) && !isQuiet()
    const crossing = { service, connections, expected, isAbove: isTold ? begins : isAbove }
    states.set(service, { ...crossing, spikes: spikes + (isTold && begins ? 1 : 0) })
    if (isTold) onCrossing(crossing)
  }

  function count(service: string, { key, expected }: SeatClaim, step: 1 | -1): void {
    const number = (taken.get(key) ?? 0) + step
    // A key that nobody sits on is not kept: there are as many as connections, at most.
    if (number === 0) taken.delete(key)
    else taken.set(key, number)
    const state = states.get(service)
    // What is expected may have changed since it came, or nothing is any more.
    const isExpecting = expected !== null && (step === 1 || state !== undefined)
    if (isExpecting) look(service, number, state?.expected ?? expected)
  }

  function sit(service: string, seats: readonly SeatClaim[]): void {
    for (const seat of seats) count(service, seat, 1)
  }

  return {
    take(service, seats) {
      const full = seats.find(({ key, limit }) => limit !== null && (taken.get(key) ?? 0) >= limit)
      if (full === undefined) sit(service, seats)
      return full
    },
    sit,
    give(service, seats) {
      for (const seat of seats) count(service, seat, -1)
    },
    expect(expected) {
      for (const [service, { connections }] of states) {
        const count = expected.get(service)
        if (count === undefined) states.delete(service)
        else look(service, connections, count)
      }
    },
    spikes: (service) => states.get(service) ?? null,
    spikeStates: () => [...states.values()],
    adoptSpikes(told) {
      for (const one of told) states.set(one.service, one)
    },
  }
}
