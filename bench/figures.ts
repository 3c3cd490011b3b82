// Figures: what a scenario says about a proxy. Many values become a median and quartiles, never a mean.

export interface Figure {
  /** With its unit: `CPU µs per message`. */
  readonly name: string
  readonly median: number
  /** Quartiles; equal to the median of a single value. */
  readonly low: number
  readonly high: number
  readonly count: number
}

export interface Result {
  /** What was done: `relay: 64 B there and back on 100 tunnels`. Results with the same title make a table. */
  readonly title: string
  /** The proxy, or the function of a micro-benchmark. */
  readonly subject: string
  readonly figures: readonly Figure[]
}

export function figure(name: string, values: readonly number[]): Figure {
  const sorted = [...values].sort((a, b) => a - b)
  return {
    name,
    median: quantile(sorted, 0.5),
    low: quantile(sorted, 0.25),
    high: quantile(sorted, 0.75),
    count: sorted.length,
  }
}

/** Between two values it lies on the line between them. */
function quantile(sorted: readonly number[], share: number): number {
  const at = (sorted.length - 1) * share
  const below = sorted[Math.floor(at)] ?? Number.NaN
  const above = sorted[Math.ceil(at)] ?? below
  return below + (above - below) * (at - Math.floor(at))
}
