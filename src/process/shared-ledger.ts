// The ledger of all workers together: the primary counts, and workers ask it. What speaks to the network stays in the
// workers: rates in Redis are asked from there, since all of them share it anyway.

import type { HeadraceError } from '../errors.ts'
import { asHeadraceError } from '../errors.ts'
import type { Claims, Verdict } from '../gate/claims.ts'
import type { CountingLedger, Seated } from '../gate/ledger.ts'
import { createLedger, deniedBy } from '../gate/ledger.ts'
import { redisRates } from '../gate/redis-rates.ts'
import type { Crossing } from '../gate/seats.ts'
import type { Hosted } from './hosts.ts'
import type { Wire } from './messages.ts'
import type { HostAnswers } from './protocol.ts'

/** Its name among what the primary hosts. */
export const LEDGER = 'ledger'

type Request =
  /** Of a worker that carries on tunnels of another process: their seats are its own from now on. */
  | { readonly kind: 'keep'; readonly ids: readonly string[] }
  | { readonly kind: 'take'; readonly claims: Claims }
  | { readonly kind: 'give'; readonly id: string }

const GRANTED: Verdict = { isGranted: true }

type Shown = Pick<
  CountingLedger,
  'expect' | 'spikes' | 'spikeStates' | 'adoptSpikes' | 'seats' | 'rates' | 'adoptRates'
>

export interface HostedLedger extends Hosted, Shown {
  /** What another process has granted: without a question, since its tunnels are open. What somebody here has stays theirs. */
  seat(holder: string, seats: readonly Seated[]): void
  /** Another process has them from now on. */
  forget(ids: readonly string[]): void
  /** While two releases accept: what is granted here has to be granted there as well. */
  heir: Heir | null
}

/** The ledger of the release that takes over. */
export interface Heir {
  /** Rejects if it has no answer: then what this one says holds. */
  take(claims: Claims): Promise<Verdict>
  give(id: string): void
}

/** In the primary. Of crossings it tells while this release is in charge, and has no heir. */
export function hostLedger(
  onCrossing: (crossing: Crossing) => void,
  onTrouble: (what: HeadraceError) => void,
  isInCharge: () => boolean = () => true,
): HostedLedger {
  const isQuiet = () => hosted.heir !== null || !isInCharge()
  const ledger = createLedger({ redis: undefined, onCrossing, isQuiet, onTrouble })
  /** Which requests have something, by the life of the worker that serves them. */
  const holders = new Map<string, Set<string>>()

  function idsOf(holder: string): Set<string> {
    const known = holders.get(holder) ?? new Set()
    holders.set(holder, known)
    return known
  }

  /** What its holder has: no other can give it back. */
  function heldWith(id: string): Set<string> | null {
    for (const ids of holders.values()) if (ids.has(id)) return ids
    return null
  }

  async function take(holder: string, claims: Claims): Promise<Verdict> {
    const ids = idsOf(holder)
    ids.add(claims.id)
    let verdict = await ledger.take(claims)
    if (verdict.isGranted && ids.has(claims.id)) verdict = await inherited(claims)
    // Its worker has died meanwhile, or it was given back.
    if (!ids.has(claims.id)) ledger.give(claims.id)
    else if (!verdict.isGranted || claims.seats.length === 0) ids.delete(claims.id)
    return verdict
  }

  async function inherited(claims: Claims): Promise<Verdict> {
    const verdict = (await hosted.heir?.take(claims).catch(() => null)) ?? GRANTED
    if (!verdict.isGranted) ledger.give(claims.id)
    return verdict
  }

  function give(id: string): void {
    ledger.give(id)
    hosted.heir?.give(id)
  }

  function keep(holder: string, ids: readonly string[]): void {
    for (const id of ids) {
      if (heldWith(id)?.delete(id)) idsOf(holder).add(id)
    }
  }

  const hosted: HostedLedger = {
    heir: null,
    ask(holder, request) {
      const asked = request as Request
      if (asked.kind === 'take') return take(holder, asked.claims)
      if (asked.kind === 'keep') return keep(holder, asked.ids)
      if (holders.get(holder)?.delete(asked.id)) give(asked.id)
      return undefined
    },
    release(holder) {
      const ids = holders.get(holder)
      holders.delete(holder)
      for (const id of ids ?? []) give(id)
      ids?.clear()
    },
    seats: ledger.seats,
    rates: ledger.rates,
    adoptRates: ledger.adoptRates,
    seat(holder, seats) {
      for (const one of seats) {
        if (heldWith(one.id) !== null) continue
        ledger.seat(one)
        idsOf(holder).add(one.id)
      }
    },
    forget(ids) {
      for (const id of ids) {
        if (heldWith(id)?.delete(id)) ledger.give(id)
      }
    },
    expect: ledger.expect,
    spikes: ledger.spikes,
    spikeStates: ledger.spikeStates,
    adoptSpikes: ledger.adoptSpikes,
  }
  return hosted
}

/** In a worker that carries on tunnels of another process. */
export function keepSeats({ ask }: Wire<HostAnswers>): (ids: readonly string[]) => Promise<unknown> {
  return (ids) => ask('hosted', [LEDGER, { kind: 'keep', ids } satisfies Request])
}

/** In a worker. A primary that does not answer refuses nobody: it is told, and tunnels go on. */
export function askLedger(
  { ask }: Wire<HostAnswers>,
  redis: string | undefined,
  onTrouble: (what: HeadraceError) => void,
): CountingLedger {
  const rates = redis === undefined ? null : redisRates(redis, onTrouble)
  const request = (asked: Request) => ask('hosted', [LEDGER, asked])

  return {
    async take(claims) {
      const denial = rates === null ? null : await deniedBy(rates, claims)
      if (denial !== null) return denial
      const left = rates === null ? claims : { ...claims, rates: [] }
      if (left.rates.length + left.seats.length === 0) return GRANTED
      try {
        return (await request({ kind: 'take', claims: left })) as Verdict
      } catch (error) {
        onTrouble(asHeadraceError(error))
        return GRANTED
      }
    },
    give(id) {
      // A primary that has gone has nothing to give back.
      request({ kind: 'give', id }).catch(() => {})
    },
    ready: async () => await rates?.ready(),
    // Who counts is told.
    expect() {},
    spikes: () => null,
    spikeStates: () => [],
    adoptSpikes() {},
    // They are where they are counted.
    seats: () => [],
    seat() {},
    rates: () => [],
    adoptRates() {},
    get size() {
      return 0
    },
    close: () => rates?.close(),
  }
}
