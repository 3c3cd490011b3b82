// The metrics of all workers together. What a life of a worker has counted stays counted when it is over, as far as it was
// seen, so that no total of the program goes back while the program runs. It is looked at each second, whoever scrapes or
// does not: more than that is not lost with a worker.

import type { Labels, MetricsSnapshot, Series } from '../observe/metrics.ts'
import { countersOf, mergeSnapshots } from '../observe/metrics.ts'
import type { Wire } from './messages.ts'
import type { WorkerAnswers } from './protocol.ts'
import type { Worker } from './workers.ts'

type Workers = readonly Pick<Worker, 'name' | 'restarts' | 'wire' | 'silence'>[]

/** A life of a worker is known by its wire: each has its own. */
export type Life = Pick<Wire<Pick<WorkerAnswers, 'metrics' | 'counters'>>, 'ask'>

export interface Totals {
  /** A worker that does not answer counts with what was seen of it last, and is not up. */
  gather(): Promise<MetricsSnapshot>
  /** What another process has counted before, or has counted in all now that it goes. */
  inherit(life: Life, snapshot: MetricsSnapshot): void
  /** From now on it looks each second. Keeps no process alive. */
  watch(): void
}

const LOOK_MS = 1_000

/**
 * `isConfigured`: whether there still is what the labels name, and not only what a worker that has died has counted of it.
 * `others`: lives that count as well, and are no workers of this program.
 */
export function createTotals(
  workers: Workers,
  isConfigured: (labels: Labels) => boolean = () => true,
  others: () => readonly Life[] = () => [],
): Totals {
  const seen = new Map<Life, MetricsSnapshot>()
  let departed: MetricsSnapshot = {}

  async function gather(): Promise<MetricsSnapshot> {
    const all = lives().filter(isWorthAsking)
    const answers = await Promise.all(all.map((life) => look(life, 'metrics')))
    fold()
    const answered = new Map(all.map((life, at) => [life, answers[at]]))
    // What is not in `seen` any more is in `departed`.
    const living = [...seen].map(([life, snapshot]) => answered.get(life) ?? countersOf(snapshot))
    departed = only(departed, isConfigured)
    return mergeSnapshots([processSeries(workers), departed, ...living])
  }

  /** What it has answered, or null. */
  async function look(life: Life, what: 'metrics' | 'counters'): Promise<MetricsSnapshot | null> {
    try {
      const snapshot = await life.ask(what, [])
      // Another one may have seen its end meanwhile, and counted it.
      if (!lives().includes(life)) return null
      seen.set(life, snapshot)
      return snapshot
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
    return [...workers.flatMap(({ wire }) => (wire === null ? [] : [wire])), ...others()]
  }

  /** What a silent one is asked, it hears when it speaks again. */
  function isWorthAsking(life: Life): boolean {
    return !workers.some(({ wire, silence }) => wire === life && silence.ms !== null)
  }

  async function lookAtAll(): Promise<void> {
    await Promise.all(
      lives()
        .filter(isWorthAsking)
        .map((life) => look(life, 'counters')),
    )
    fold()
  }

  function watch(): void {
    // One that takes longer is not overtaken.
    setTimeout(() => void lookAtAll().then(watch), LOOK_MS).unref()
  }

  return { gather, watch, inherit: (life, snapshot) => void seen.set(life, snapshot) }
}

function only(snapshot: MetricsSnapshot, isMeant: (labels: Labels) => boolean): MetricsSnapshot {
  const all = Object.entries(snapshot) as [string, readonly Series[]][]
  return Object.fromEntries(
    all.map(([name, series]) => [name, series.filter(({ labels }) => isMeant(labels))]),
  )
}

function processSeries(workers: Workers): MetricsSnapshot {
  return {
    headrace_worker_up: workers.map(({ name }) => ({ labels: { worker: name }, value: 0 })),
    headrace_worker_silent_seconds: workers.map(({ name, silence }) => ({
      labels: { worker: name },
      value: (silence.ms ?? 0) / 1_000,
    })),
    headrace_worker_restarts_total: workers.map(({ name, restarts }) => ({
      labels: { worker: name },
      value: restarts,
    })),
    // There from the start, so that the first upgrade is a step.
    headrace_tunnels_moved_total: [{ labels: {}, value: 0 }],
    headrace_tunnels_left: [{ labels: {}, value: 0 }],
  }
}
