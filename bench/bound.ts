// What kept a round from going faster. Only where it was the proxy does "so many per second" say something about it.

import type { Spending } from './accounting/windows.ts'
import type { Stand } from './stand.ts'

/** `none`: nobody was busy all the time; they waited for each other. */
export type Bound = 'proxy' | 'load' | 'origin' | 'none'

/** The share of a CPU from which on it counts as full; what accounts for it needs some, too. */
const FULL = 0.85

/** Shares of one CPU for each process of a kind; a proxy with several threads can have more than one. */
export interface Busy {
  readonly proxy: number
  readonly load: number
  readonly origin: number
  /** Clients and origins together, of the CPUs that they have. */
  readonly loadCpus: number
}

export function busyOf(spent: Spending, { pids, placement, isProxy }: Stand): Busy {
  const each = (ns: number, { length }: readonly number[]) => ns / spent.wall / Math.max(1, length)
  const ofLoad = isProxy ? spent.load + spent.origin : spent.load
  return {
    proxy: each(spent.proxy, pids.proxy),
    load: each(spent.load, pids.load),
    origin: each(spent.origin, pids.origin),
    loadCpus: ofLoad / spent.wall / placement.loadCpus,
  }
}

export function boundOf({ proxy, load, origin, loadCpus }: Busy): Bound {
  if (proxy >= FULL) return 'proxy'
  if (origin >= FULL) return 'origin'
  return load >= FULL || loadCpus >= FULL ? 'load' : 'none'
}
