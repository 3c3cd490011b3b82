// A heartbeat: a real-time thread that stays on one CPU and wakes every half millisecond. Nothing but the machine itself
// can keep it from waking: if it comes late, the CPU was away, and what was measured meanwhile is not to be believed.

import { workerData } from 'node:worker_threads'
import { Beats } from './beats.ts'
import { openClock, SCHED_FIFO } from './calls.ts'

export interface HeartbeatData {
  readonly cpu: number
  /** Which of the beats are its own. */
  readonly index: number
  readonly memory: SharedArrayBuffer
}

const PERIOD_NS = 500_000
const LATE_NS = 300_000
/** Nobody measures. Also what `process.exit()` may wait for this thread, which sleeps in a system call. */
const IDLE_PERIOD_NS = 10_000_000
const PRIORITY = 50

const { cpu, index, memory } = workerData as HeartbeatData
const beats = new Beats(memory, index)
const clock = openClock()
clock.pin(cpu)
clock.schedule(SCHED_FIFO, PRIORITY)

let { mood } = beats
while (mood !== 'over') {
  const due = clock.now() + (mood === 'beating' ? PERIOD_NS : IDLE_PERIOD_NS)
  clock.sleepUntil(due)
  const woken = clock.now()
  if (mood === 'beating') {
    if (woken - due > LATE_NS) beats.late(due, woken)
    beats.beat()
  }
  mood = beats.mood
}
