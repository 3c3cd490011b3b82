// Figures: what a scenario says about a proxy. Many values become a median and quartiles, never a mean.

import type { Bound } from './bound.ts'

export interface Figure {
  /** With its unit: `CPU µs per message`. */
  readonly name: string
  readonly median: number
  /** Quartiles; equal to the median of a single value. */
  readonly low: number
  readonly high: number
  readonly count: number
  /** What was measured is not what the proxy can do: it can do that much, at least. */
  readonly isLowerBound?: true
}

/** What was done, for whoever draws it; the title says the same in words. */
export type Parameters = Readonly<Record<string, string | number | boolean>>

export interface Result {
  readonly scenario: string
  /** `messages: 64 B there and back on 100 plain tunnels`. Results with the same title make a table. */
  readonly title: string
  readonly parameters: Parameters
  /** The proxy, or the function of a micro-benchmark. */
  readonly subject: string
  readonly figures: readonly Figure[]
  /** What was busy all the time, so that it could not go faster. */
  readonly bound?: Bound
  /** What a reader must know besides: what was left out, and why. */
  readonly note?: string
}

export function figure(name: string, values: Iterable<number>): Figure {
  const sorted = Float64Array.from(values).sort()
  return {
    name,
    median: quantile(sorted, 0.5),
    low: quantile(sorted, 0.25),
    high: quantile(sorted, 0.75),
    count: sorted.length,
  }
}

/** Of sorted values; between two it lies on the line between them. NaN if there are none. */
export function quantile(sorted: Float64Array, share: number): number {
  const at = (sorted.length - 1) * share
  const below = sorted[Math.floor(at)] ?? Number.NaN
  const above = sorted[Math.ceil(at)] ?? below
  return below + (above - below) * (at - Math.floor(at))
}
