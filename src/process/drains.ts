// How the workers come to their end: all of them with the program, or one whose place a fresh process takes.
//
//   all   unready, still accepting: delay ─▶ no connection is begun ─▶ close, in every worker ─▶ the program ends
//   one   its neighbour accepts for it ─▶ close ─▶ renewed

import { setTimeout as wait } from 'node:timers/promises'
import type { Inherited } from '../accept/inherited.ts'
import { LONGEST_MS } from '../config/units.ts'
import type { CloseTimes } from '../edge.ts'
import { asHeadraceError, HeadraceError } from '../errors.ts'
import type { ProgramLines } from '../observe/program-lines.ts'
import type { DrainWanted, WorkerStatus } from '../operations.ts'
import type { DrainCounts, DrainProgress, DrainTimes } from '../tunnel/drain.ts'
import { NOW } from '../tunnel/drain.ts'
import type { Wire } from './messages.ts'
import type { BeforeAnswers } from './protocol.ts'
import { twoSignals } from './signals.ts'
import type { Worker } from './workers.ts'

/** What the ends of the last tunnels may take after the drain; an edge itself waits 3 s for them. */
const END_TIMEOUT_MS = 5_000

/** What a process may take to exit when it has nothing left to do. */
export const EXIT_TIMEOUT_MS = 2_000

/** Between two lines that say how far it is. */
const PROGRESS_MS = 5_000

/** Whoever is asked how far it is knows it at once. */
const PROGRESS_TIMEOUT_MS = 1_000

export interface Drains {
  /** Whether the program is on its way to its end. */
  readonly isDraining: boolean
  /** Resolves when it is. */
  readonly begun: Promise<void>
  /** Resolves when a second signal says that nothing is to be waited for; not before `ended` is called. */
  readonly hurried: Promise<void>
  /** Resolves when a signal or an operator has asked for the end, and no worker has a tunnel left. Once. */
  ended(): Promise<DrainCounts>
  /** Resolves when it has begun; what drains already may only be given less time. Throws argument-invalid or process-silent. */
  begin(wanted: DrainWanted): Promise<void>
  /** A newer release is in charge: what is left here ends in its time, and nobody waits for the last of its usage. */
  leave(): void
  /** That release is to end: what is left here as well. */
  close(times: CloseTimes): Promise<DrainCounts>
  workers(): Promise<WorkerStatus[]>
}

export interface DrainParts {
  readonly workers: readonly Worker[]
  /** While there is something left of it. */
  before(): Wire<BeforeAnswers> | null
  /** Resolves when no other release is about to take over, which goes on with the sockets. */
  decided(): Promise<void>
  /** These three as the config has them now. */
  sockets(): readonly Inherited[]
  delayMs(): number
  times(): DrainTimes
  readonly lines: ProgramLines
  /** The program ends, and may take so long. */
  stopping(withinMs: number): unknown
}

export function createDrains(parts: DrainParts): Drains {
  const { workers, before, decided, sockets, delayMs, times: usual, lines, stopping } = parts
  /** Of all workers; aborted by whoever does not want to wait for the delay. */
  const delay = new AbortController()
  let starting: Promise<void> | null = null
  let tellBegun: () => void = () => {}
  const begun = new Promise<void>((resolve) => {
    tellBegun = resolve
  })
  let startedAt = 0
  let operatorAsks: (ending: Promise<DrainCounts>) => void = () => {}
  const asked = new Promise<DrainCounts>((resolve) => {
    operatorAsks = resolve
  })
  let hurry: () => void = () => {}
  const hurried = new Promise<void>((resolve) => {
    hurry = resolve
  })
  /** The one that is to be renewed. */
  let leaving: Worker | null = null
  /** What was heard last of those that drain. */
  const heard = new Map<Worker, DrainProgress>()

  async function ended(): Promise<DrainCounts> {
    // An operator's word is no signal: the signal of a service manager that follows it is the first one.
    const { first, second } = twoSignals()
    void second.then(hurry)
    const signalled = first.then(() => all(usual()))
    const counts = await Promise.race([signalled, asked, second.then(() => all(NOW))])
    lines.drained('all', counts, performance.now() - startedAt)
    return counts
  }

  async function all(times: CloseTimes): Promise<DrainCounts> {
    if (starting !== null) delay.abort()
    starting ??= start(times)
    await starting
    // It has no more time than this one, whose end waits for it.
    before()
      ?.ask('close', [times], Number.POSITIVE_INFINITY)
      .catch(() => {})
    return await watched('all', workers, times)
  }

  async function start(times: DrainTimes): Promise<void> {
    startedAt = performance.now()
    tellBegun()
    const ms = delayMs()
    stopping(ms + times.drainMs + END_TIMEOUT_MS + 2 * EXIT_TIMEOUT_MS)
    lines.draining('all', await tunnelsOf(workers), ms, times)
    if (ms > 0) await wait(ms, undefined, { signal: delay.signal }).catch(() => {})
    for (const worker of workers) worker.retire()
    await Promise.race([decided(), hurried])
    for (const { quiet, close } of sockets()) {
      quiet()
      close()
    }
  }

  async function one(worker: Worker, times: DrainTimes): Promise<void> {
    if (leaving === worker) return void close(worker, times)
    if (leaving !== null) throw invalid(`${leaving.name} drains already: one at a time`)
    if (worker.state !== 'running') throw invalid(`${worker.name} is ${worker.state}`)
    leaving = worker
    try {
      await worker.covered()
      lines.draining(worker.name, await tunnelsOf([worker]), 0, times)
    } catch (error) {
      leaving = null
      throw error
    }
    void recycle(worker, times)
  }

  async function recycle(worker: Worker, times: DrainTimes): Promise<void> {
    const { pid } = worker
    const startedAt = performance.now()
    const counts = await watched(worker.name, [worker], times)
    leaving = null
    lines.drained(worker.name, counts, performance.now() - startedAt)
    // One that has died meanwhile has been replaced already.
    if (worker.pid === pid) worker.renew(EXIT_TIMEOUT_MS)
  }

  /** Closes these, and says from time to time how far they are. */
  async function watched(of: string, some: readonly Worker[], times: CloseTimes): Promise<DrainCounts> {
    const timer = setInterval(async () => {
      const progress = sumOf(await look(some))
      // What is left then is usage that waits for its disk, of which its worker has told.
      if (progress.open > 0 || progress.leftMs > 0) lines.stillDraining(of, progress)
    }, PROGRESS_MS)
    const counts = await Promise.all(some.map((worker) => close(worker, times)))
    clearInterval(timer)
    return sumOf(counts.map((each) => ({ ...NOTHING, ...each })))
  }

  /** Whoever has died, or does not answer, has cut what it had. */
  async function close(worker: Worker, times: CloseTimes): Promise<DrainCounts> {
    const ms = Math.max(times.drainMs, times.usageMs ?? 0)
    const timeoutMs = Math.min(ms + END_TIMEOUT_MS, LONGEST_MS)
    try {
      return (await worker.wire?.ask('close', [times], timeoutMs)) ?? NOTHING
    } catch (error) {
      lines.trouble(asHeadraceError(error))
      const { ended, closed, cut, open } = heard.get(worker) ?? NOTHING
      return { ended, closed, cut: cut + open }
    }
  }

  async function look(some: readonly Worker[]): Promise<DrainProgress[]> {
    return await Promise.all(
      some.map(async (worker) => {
        const progress = await worker.wire?.ask('draining', [], PROGRESS_TIMEOUT_MS).catch(() => null)
        if (progress != null) heard.set(worker, progress)
        return progress ?? NOTHING
      }),
    )
  }

  return {
    get isDraining() {
      return starting !== null
    },
    begun,
    ended,
    hurried,
    async begin({ worker: name, timeoutMs }) {
      const times = timeoutMs === undefined ? usual() : { ...usual(), drainMs: timeoutMs }
      if (name === undefined) return operatorAsks(all(times))
      const worker = workers.find((each) => each.name === name)
      if (worker === undefined) {
        throw invalid(`no worker ${name}; there are ${workers.map((each) => each.name).join(', ')}`)
      }
      await one(worker, times)
    },
    leave: () => operatorAsks(all({ ...usual(), usageMs: LONGEST_MS })),
    close: all,
    async workers() {
      return await Promise.all(
        workers.map(async (worker) => {
          const isLeaving = starting !== null || worker === leaving
          const [drain = null] = isLeaving ? await look([worker]) : []
          const { name, pid, restarts } = worker
          const { ms: silentMs } = worker.silence
          return { name, pid, state: silentMs === null ? worker.state : 'silent', silentMs, restarts, drain }
        }),
      )
    },
  }
}

const NOTHING: DrainProgress = { open: 0, ended: 0, closed: 0, cut: 0, leftMs: 0 }

function sumOf(all: readonly DrainProgress[]): DrainProgress {
  return all.reduce(
    (sum, one) => ({
      open: sum.open + one.open,
      ended: sum.ended + one.ended,
      closed: sum.closed + one.closed,
      cut: sum.cut + one.cut,
      leftMs: Math.max(sum.leftMs, one.leftMs),
    }),
    NOTHING,
  )
}

/** How many are open; of whoever does not answer, none is known. */
async function tunnelsOf(workers: readonly Worker[]): Promise<number> {
  const answers = await Promise.allSettled(
    workers.map(({ wire }) => wire?.ask('services', [], PROGRESS_TIMEOUT_MS)),
  )
  const records = answers.flatMap((answer) => (answer.status === 'fulfilled' ? (answer.value ?? []) : []))
  return records.reduce((sum, { tunnels }) => sum + tunnels, 0)
}

function invalid(detail: string): HeadraceError {
  return new HeadraceError('argument-invalid', detail)
}
