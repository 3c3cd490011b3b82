// The metrics of one edge: what it tells is counted, what it has is looked at, when somebody asks.

import type { Terms } from '../accept/terms.ts'
import type { Sources } from './collect.ts'
import { collect } from './collect.ts'
import { countingObserver } from './counting.ts'
import type { ServedBackend } from './counts.ts'
import { count, createCounts, expectBackends } from './counts.ts'
import type { EventLoopDelay } from './event-loop.ts'
import { watchEventLoop } from './event-loop.ts'
import type { MetricsSnapshot } from './metrics.ts'
import type { Observer } from './observer.ts'

export interface Metering {
  /** Counts what this one is told. */
  observing(observer: Observer): Observer
  accepted(terms: Terms): void
  /** From now on these are served. */
  serve(backends: readonly ServedBackend[]): void
  eventLoopDelay(): EventLoopDelay
  snapshot(sources: Omit<Sources, 'counts' | 'backends' | 'eventLoopDelay'>): Promise<MetricsSnapshot>
  close(): void
}

export function createMetering(served: readonly ServedBackend[]): Metering {
  let backends = served
  const counts = createCounts(backends)
  const eventLoop = watchEventLoop()
  return {
    observing: (observer) => countingObserver(observer, counts),
    accepted: (terms) => count(counts.accepted, terms.address),
    serve(next) {
      backends = next
      expectBackends(counts, next)
    },
    snapshot: (sources) => collect({ ...sources, counts, backends, eventLoopDelay: eventLoop.delay }),
    eventLoopDelay: eventLoop.delay,
    close: eventLoop.close,
  }
}
