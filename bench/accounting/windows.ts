// Windows of some milliseconds, and which of them count: those in which every CPU was there all the time.

import type { Stall } from './beats.ts'

/** What was read at one moment; all but the time grow. */
export interface Snapshot {
  /** Nanoseconds of CLOCK_MONOTONIC. */
  readonly at: number
  /** Nanoseconds on a CPU. */
  readonly proxy: number
  readonly load: number
  readonly origin: number
  readonly kernel: number
  /** The sampler itself. */
  readonly sampler: number
  readonly segments: number
  readonly octets: number
}

/** What was spent, moved and waited for in all windows that count. */
export interface Spending {
  /** Nanoseconds on a CPU. */
  readonly proxy: number
  readonly load: number
  readonly origin: number
  /** The kernel's own threads. */
  readonly kernel: number
  readonly sampler: number
  readonly segments: number
  readonly octets: number
  /** Nanoseconds that passed in the windows that count. */
  readonly wall: number
  readonly windows: number
  readonly clean: number
  /** When a CPU was away, in ns of CLOCK_MONOTONIC. */
  readonly stalls: readonly Stall[]
}

/** `longest`: a window that took longer, in ns, does not count, since the sampler itself was kept from its work. */
export function spendingOf(
  snapshots: readonly Snapshot[],
  stalls: readonly Stall[],
  longest: number,
): Spending {
  const sum = { proxy: 0, load: 0, origin: 0, kernel: 0, sampler: 0, segments: 0, octets: 0, wall: 0 }
  let clean = 0
  for (const [index, end] of snapshots.entries()) {
    const start = snapshots[index - 1]
    if (start === undefined) continue
    if (end.at - start.at > longest || touches(start.at, end.at, stalls)) continue
    clean += 1
    sum.wall += end.at - start.at
    for (const name of ['proxy', 'load', 'origin', 'kernel', 'sampler', 'segments', 'octets'] as const) {
      // A thread of the kernel's that is gone makes its sum smaller.
      sum[name] += Math.max(0, end[name] - start[name])
    }
  }
  return { ...sum, windows: Math.max(0, snapshots.length - 1), clean, stalls }
}

/** True if any of them overlaps the time from `from` to `to`. */
export function touches(from: number, to: number, stalls: readonly Stall[]): boolean {
  return stalls.some((stall) => stall.from < to && from < stall.to)
}
