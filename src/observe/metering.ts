// The metrics of one edge: what it tells is counted, what it has is looked at, when somebody asks.

import type { Listener } from '../accept/listener.ts'
import type { Sources } from './collect.ts'
import { collect } from './collect.ts'
import { countingObserver } from './counting.ts'
import type { ServedBackend } from './counts.ts'
import { count, createCounts } from './counts.ts'
import type { EventLoopDelay } from './event-loop.ts'
import { watchEventLoop } from './event-loop.ts'
import type { MetricsSnapshot } from './metrics.ts'
import type { Observer } from './observer.ts'

export interface Metering {
  /** Counts what this one is told. */
  observing(observer: Observer): Observer
  accepted(listener: Listener): void
  eventLoopDelay(): EventLoopDelay
  snapshot(sources: Omit<Sources, 'counts' | 'backends' | 'eventLoopDelay'>): Promise<MetricsSnapshot>
  close(): void
}

export function createMetering(backends: readonly ServedBackend[]): Metering {
  const counts = createCounts(backends)
  const eventLoop = watchEventLoop()
  return {
    observing: (observer) => countingObserver(observer, counts),
    accepted: (listener) => count(counts.accepted, listener.address),
    snapshot: (sources) => collect({ ...sources, counts, backends, eventLoopDelay: eventLoop.delay }),
    eventLoopDelay: eventLoop.delay,
    close: eventLoop.close,
  }
}
