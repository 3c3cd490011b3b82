// System calls that only the benchmark needs, besides those of src/linux/libc.ts. They run in the sampler's threads.

import { createRequire } from 'node:module'

type Memory = NodeJS.ArrayBufferView

interface Calls {
  clock_gettime(clock: number, time: Memory): number
  clock_nanosleep(clock: number, flags: number, until: Memory, remaining: null): number
  sched_setaffinity(thread: number, size: number, mask: Memory): number
  sched_setscheduler(thread: number, policy: number, parameter: Memory): number
}

const SIGNATURES = [
  'int clock_gettime(int clock, void *time)',
  'int clock_nanosleep(int clock, int flags, void *until, void *remaining)',
  'int sched_setaffinity(int thread, size_t size, void *mask)',
  'int sched_setscheduler(int thread, int policy, void *parameter)',
]

const CLOCK_MONOTONIC = 1
const TIMER_ABSTIME = 1
export const SCHED_OTHER = 0
export const SCHED_FIFO = 1

export interface Clock {
  /** CLOCK_MONOTONIC in ns; the same for all processes, and what process.hrtime() has. */
  now(): number
  /**
   * Nanoseconds on a CPU, in user and kernel mode, of all threads that a process has or had: what the first number of
   * /proc/PID/task/*\/schedstat says, summed by the kernel in one call (clock_getcpuclockid(3)). 0 if it is gone.
   */
  cpu(pid: number): number
  /** Blocks the thread. */
  sleepUntil(ns: number): void
  /** Of this thread; false, if the system does not permit it. */
  schedule(policy: number, priority: number): boolean
  /** This thread stays on one CPU. */
  pin(cpu: number): void
}

/** Throws if koffi is missing, or this is no Linux. */
export function openClock(): Clock {
  const koffi = createRequire(import.meta.url)('koffi') as typeof import('koffi')
  const library = koffi.load(null)
  const calls = Object.fromEntries(
    SIGNATURES.map((signature) => {
      const call = library.func(signature)
      return [call.info.name, call]
    }),
  ) as unknown as Calls
  // struct timespec: two 64-bit numbers, of which the lower halves are enough for the next centuries.
  const time = new Int32Array(4)
  const until = new Int32Array(4)

  return {
    now() {
      calls.clock_gettime(CLOCK_MONOTONIC, time)
      return nsOf(time)
    },
    cpu(pid) {
      return calls.clock_gettime(cpuClockOf(pid), time) === 0 ? nsOf(time) : 0
    },
    sleepUntil(ns) {
      until[0] = Math.floor(ns / 1e9)
      until[2] = ns % 1e9
      calls.clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, until, null)
    },
    schedule: (policy, priority) => calls.sched_setscheduler(0, policy, new Int32Array([priority])) === 0,
    pin(cpu) {
      const mask = new Uint32Array(32)
      mask[cpu >> 5] = 1 << (cpu & 31)
      calls.sched_setaffinity(0, mask.byteLength, mask)
    },
  }
}

function nsOf(time: Int32Array): number {
  return (time[0] ?? 0) * 1e9 + (time[2] ?? 0)
}

/** CPUCLOCK_SCHED of a whole process: how the C library makes it of a pid. */
function cpuClockOf(pid: number): number {
  return (~pid << 3) | 2
}
