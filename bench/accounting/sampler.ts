// The sampler as a process: while others work it reads, every few milliseconds, what each of them has spent, and its
// heartbeats tell which of these windows to believe. It is started with V8's work on one thread, since a real-time thread
// must not wait for an ordinary one to collect garbage.

import { Worker } from 'node:worker_threads'
import { answerCalls } from '../process.ts'
import { Beats } from './beats.ts'
import type { Clock } from './calls.ts'
import { openClock, SCHED_FIFO, SCHED_OTHER } from './calls.ts'
import type { HeartbeatData } from './heartbeat.ts'
import { kernelThreads } from './kernel-threads.ts'
import { openNetstat } from './netstat.ts'
import { allowedCpus } from './proc.ts'
import type { Snapshot, Spending } from './windows.ts'
import { spendingOf } from './windows.ts'

export interface Pids {
  readonly proxy: readonly number[]
  readonly load: readonly number[]
  readonly origin: readonly number[]
}

const WINDOW_NS = 4_000_000
/** The heartbeats go first. */
const PRIORITY = 40
/** What a heartbeat is given to beat again when all is over; a CPU that is away longer ends what it spoils. */
const PATIENCE_NS = 2_000_000_000

let clock: Clock
let beats: Beats[] = []

const calls = {
  /** Null, or why it can't work here. */
  open(): string | null {
    try {
      clock = openClock()
    } catch (error) {
      return error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error)
    }
    if (!clock.schedule(SCHED_FIFO, PRIORITY)) return 'SCHED_FIFO is not permitted (CAP_SYS_NICE)'
    clock.schedule(SCHED_OTHER, 0)
    const cpus = allowedCpus()
    // With the load, away from the proxy.
    clock.pin(cpus.at(-1) ?? 0)
    const memory = Beats.memoryFor(cpus.length)
    beats = cpus.map((_, index) => new Beats(memory, index))
    for (const [index, cpu] of cpus.entries()) startHeartbeat({ cpu, index, memory })
    return null
  },

  /** Until so long after the call: what it is about may be over then. */
  sample(pids: Pids, ms: number): Spending {
    const end = clock.now() + ms * 1e6
    clock.schedule(SCHED_FIFO, PRIORITY)
    setMood('beating')
    awaitBeats()
    const snapshots = takeSnapshots(pids, end)
    awaitBeats()
    setMood('idle')
    clock.schedule(SCHED_OTHER, 0)
    const from = snapshots[0]?.at ?? 0
    const stalls = beats.flatMap((one) => one.stallsSince(from))
    return spendingOf(snapshots, stalls, WINDOW_NS * 1.5)
  },
}

export type SamplerCalls = typeof calls
answerCalls(calls, () => setMood('over'))

function startHeartbeat(data: HeartbeatData): void {
  new Worker(new URL('./heartbeat.js', import.meta.url), { workerData: data }).unref()
}

function setMood(mood: 'idle' | 'beating' | 'over'): void {
  for (const one of beats.slice(0, 1)) one.mood = mood
}

/** Until each heart has beaten, so that whoever was late has said so. */
function awaitBeats(): void {
  const counts = beats.map(({ count }) => count)
  const until = clock.now() + PATIENCE_NS
  while (beats.some(({ count }, index) => count === counts[index]) && clock.now() < until) {
    clock.sleepUntil(clock.now() + 200_000)
  }
}

function takeSnapshots(pids: Pids, end: number): Snapshot[] {
  const netstat = openNetstat()
  const kernel = kernelThreads()
  const sum = (some: readonly number[]) => some.reduce((total, pid) => total + clock.cpu(pid), 0)
  const snapshot = (): Snapshot => ({
    at: clock.now(),
    proxy: sum(pids.proxy),
    load: sum(pids.load),
    origin: sum(pids.origin),
    kernel: sum(kernel),
    sampler: clock.cpu(process.pid),
    ...netstat(),
  })
  const snapshots = [snapshot()]
  for (let due = clock.now() + WINDOW_NS; due < end; due += WINDOW_NS) {
    clock.sleepUntil(due)
    snapshots.push(snapshot())
    // After a stall: from now on, and not to catch up.
    due = Math.max(due, clock.now() - WINDOW_NS)
  }
  return snapshots
}
