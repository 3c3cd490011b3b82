// The metrics of all workers together. What a life of a worker has counted stays counted when it is over, as far as it was
// seen, so that no total of the program goes back while the program runs.

import type { MetricsSnapshot } from '../observe/metrics.ts'
import { countersOf, mergeSnapshots } from '../observe/metrics.ts'
import type { Child } from './child.ts'
import type { Wire } from './messages.ts'
import type { WorkerAnswers } from './protocol.ts'

type Workers = readonly Pick<Child<WorkerAnswers, unknown>, 'name' | 'restarts' | 'wire'>[]

/** A life of a worker is known by its wire: each has its own. */
type Life = Pick<Wire<WorkerAnswers>, 'ask'>

export interface Totals {
  /** A worker that does not answer counts with what was seen of it last, and is not up. */
  gather(): Promise<MetricsSnapshot>
}

export function createTotals(workers: Workers): Totals {
  const seen = new Map<Life, MetricsSnapshot>()
  let departed: MetricsSnapshot = {}

  async function gather(): Promise<MetricsSnapshot> {
    const asked = await Promise.all(lives().map(look))
    fold()
    const answered = new Set(asked)
    const living = [...seen].map(([life, snapshot]) => (answered.has(life) ? snapshot : countersOf(snapshot)))
    return mergeSnapshots([processSeries(workers), departed, ...living])
  }

  /** The life that has answered, or null. */
  async function look(life: Life): Promise<Life | null> {
    try {
      const snapshot = await life.ask('metrics', [])
      // Another one may have seen its end meanwhile, and counted it.
      if (!lives().includes(life)) return null
      seen.set(life, snapshot)
      return life
    } catch {
      return null
    }
  }

  function fold(): void {
    const living = new Set(lives())
    for (const [life, snapshot] of seen) {
      if (living.has(life)) continue
      departed = mergeSnapshots([departed, countersOf(snapshot)])
      seen.delete(life)
    }
  }

  function lives(): Life[] {
    return workers.flatMap(({ wire }) => (wire === null ? [] : [wire]))
  }

  return { gather }
}

function processSeries(workers: Workers): MetricsSnapshot {
  return {
    headrace_worker_up: workers.map(({ name }) => ({ labels: { worker: name }, value: 0 })),
    headrace_worker_restarts_total: workers.map(({ name, restarts }) => ({
      labels: { worker: name },
      value: restarts,
    })),
  }
}
