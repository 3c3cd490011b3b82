// Who has spent what while something was going on. Two ways: in clean windows, which no throttled machine can spoil, and
// in one piece, where the first is not permitted.

import { setTimeout as sleep } from 'node:timers/promises'
import { startProcess } from '../process.ts'
import { kernelThreads, readIfThere } from './kernel-threads.ts'
import { openNetstat } from './netstat.ts'
import { cpuNs } from './proc.ts'
import type { Pids, SamplerCalls } from './sampler.ts'
import type { Snapshot, Spending } from './windows.ts'
import { spendingOf } from './windows.ts'

export interface Accounting {
  /** How the figures came about; it stands in each result. */
  readonly how: string
  /** What these processes spend in the next `ms`. */
  during(pids: Pids, ms: number): Promise<Spending>
  stop(): Promise<void>
}

const IN_WINDOWS =
  'CPU time of all threads in windows of 4 ms, summed over those in which real-time heartbeats on every CPU were on time; messages and bytes of the same windows'

export async function openAccounting(): Promise<Accounting> {
  const module = new URL('./sampler.js', import.meta.url)
  const sampler = await startProcess<SamplerCalls>('sampler', module, { flags: ['--single-threaded'] })
  const reason = await sampler.call('open')
  if (reason === null) {
    return {
      how: IN_WINDOWS,
      during: (pids, ms) => sampler.call('sample', pids, ms),
      stop: sampler.stop,
    }
  }
  await sampler.stop()
  return wholeRounds(reason)
}

/** One window, and nobody who knows whether it is clean. */
function wholeRounds(reason: string): Accounting {
  return {
    how: `CPU time of all threads over whole rounds, time included in which a hypervisor took the CPU away: clean windows can't be had here: ${reason}`,
    async during(pids, ms) {
      const end = performance.now() + ms
      const kernel = kernelThreads()
      const before = snapshotOf(pids, kernel)
      await sleep(end - performance.now())
      return spendingOf([before, snapshotOf(pids, kernel)], [], Number.POSITIVE_INFINITY)
    },
    async stop() {},
  }
}

const netstat = openNetstat()

function snapshotOf(pids: Pids, kernel: readonly number[]): Snapshot {
  const ofKernel = kernel.map((pid) => Number(readIfThere(`/proc/${pid}/schedstat`).split(' ')[0] ?? 0))
  return {
    at: Number(process.hrtime.bigint()),
    proxy: cpuNs(pids.proxy),
    load: cpuNs(pids.load),
    origin: cpuNs(pids.origin),
    kernel: ofKernel.reduce((sum, ns) => sum + ns, 0),
    sampler: 0,
    ...netstat(),
  }
}
