// What is left of a release when a newer one is in charge: the tunnels that could not be moved, as one member more of the new
// one's fleet. What is kept for all is kept there: nothing is written here any more.

import type { MetricsSnapshot, Series } from '../observe/metrics.ts'
import { countersOf } from '../observe/metrics.ts'
import type { Operations } from '../operations.ts'
import type { Wire } from './messages.ts'
import type { BeforeAnswers } from './protocol.ts'
import type { Worker } from './workers.ts'

export type Remnant = Omit<BeforeAnswers, 'inheritance' | 'ready' | 'failed'>

/** `older`: the release before this one, if there is still something left of it as well. */
export function createRemnant(
  fleet: Omit<Operations, 'usage'>,
  workers: readonly Worker[],
  older: () => Wire<BeforeAnswers> | null,
  moved: () => number,
  close: Remnant['close'],
): Remnant {
  return {
    ...fleet,
    close,
    async websockets(id, value, options = {}) {
      const answers = await Promise.allSettled([
        ...workers.map(({ wire }) => wire?.ask('websockets', [id, value, options])),
        older()?.ask('websockets', [id, value, options]),
      ])
      const ended = answers.map((one) => (one.status === 'fulfilled' ? (one.value?.ended ?? 0) : 0))
      const total = ended.reduce((sum, count) => sum + count, 0)
      return { service: id, before: value, after: { websockets: value, changedAt: null }, ended: total }
    },
    metrics: async () => ofRemnant(await fleet.metrics(), moved()),
    counters: async () => countersOf(ofRemnant(await fleet.metrics(), moved())),
  }
}

/** Its workers drain, the program does not. */
export function ofRemnant(snapshot: MetricsSnapshot, moved: number): MetricsSnapshot {
  const { headrace_draining: _, headrace_tunnels_moved_total: earlier = [], ...rest } = snapshot
  return {
    ...rest,
    headrace_tunnels_moved_total: [{ labels: {}, value: moved + total(earlier) }],
    headrace_tunnels_left: [{ labels: {}, value: total(snapshot.headrace_tunnels_open ?? []) }],
  }
}

function total(series: readonly Series[]): number {
  return series.reduce((sum, { value }) => sum + value, 0)
}
