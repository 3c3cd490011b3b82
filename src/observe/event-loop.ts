// How late the event loop is: what every tunnel that is not the kernel's has to wait for.

import { monitorEventLoopDelay } from 'node:perf_hooks'

export interface EventLoopDelay {
  readonly mean: number
  readonly p50: number
  readonly p99: number
  readonly max: number
}

export interface EventLoop {
  /** In seconds, of the last quarter of a minute or so. */
  delay(): EventLoopDelay
  close(): void
}

/** How often it is looked at, in ms: the cost is ten short wake-ups a second. */
const RESOLUTION_MS = 100
/** What is older is forgotten at the next reading: so several readers see the same peak. */
const WINDOW_MS = 15_000

export function watchEventLoop(): EventLoop {
  const histogram = monitorEventLoopDelay({ resolution: RESOLUTION_MS })
  histogram.enable()
  let beganAt = performance.now()

  function delay(): EventLoopDelay {
    const read = {
      mean: histogram.count === 0 ? 0 : late(histogram.mean),
      p50: late(histogram.percentile(50)),
      p99: late(histogram.percentile(99)),
      max: histogram.count === 0 ? 0 : late(histogram.max),
    }
    if (performance.now() - beganAt > WINDOW_MS) {
      histogram.reset()
      beganAt = performance.now()
    }
    return read
  }

  return { delay, close: () => void histogram.disable() }
}

/** Node counts from one look to the next, in ns: the time between the two is in it. */
function late(ns: number): number {
  return Math.max(0, ns / 1e9 - RESOLUTION_MS / 1e3)
}
