// What processes have cost, read from the kernel: CPU time and memory.

import { readdirSync, readFileSync } from 'node:fs'

/** How figures that use `cpuNs` came about; it stands in each result file. */
export const CPU_ACCOUNTING =
  'on-CPU time of all threads (/proc/PID/task/*/schedstat), per short round, proxies interleaved; median and quartiles of the rounds'

/**
 * Nanoseconds on a CPU, in user and kernel mode, of all threads that the processes have now. Unlike utime and stime it is
 * not counted in ticks. A gap in which a hypervisor took the CPU away is still counted, hence medians of short rounds.
 * On loopback the system call of whoever sends does the receiver's TCP work, too; that is the same for every proxy.
 */
export function cpuNs(pids: readonly number[]): number {
  let sum = 0
  for (const pid of pids) {
    for (const thread of readdirSync(`/proc/${pid}/task`)) {
      const [onCpu = '0'] = readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'latin1').split(' ')
      sum += Number(onCpu)
    }
  }
  return sum
}

/**
 * The same for the kernel's own threads (kworker, ksoftirqd: children of kthreadd, pid 2), which do what a proxy has
 * left to the kernel. Whatever else they do meanwhile is counted, too, for every proxy alike.
 */
export function kernelThreadsNs(): number {
  kernelThreads ??= listKernelThreads()
  let sum = 0
  for (const pid of kernelThreads) sum += onCpuNs(`/proc/${pid}/schedstat`)
  return sum
}

let kernelThreads: readonly string[] | undefined

function listKernelThreads(): string[] {
  return readdirSync('/proc').filter((name) => {
    if (!/^[0-9]+$/.test(name)) return false
    const [, parent] = /^PPid:\s*(\d+)$/m.exec(readIfThere(`/proc/${name}/status`)) ?? []
    return parent === '2'
  })
}

/** Some of them come and go. */
function onCpuNs(file: string): number {
  return Number(readIfThere(file).split(' ')[0] ?? 0)
}

function readIfThere(file: string): string {
  try {
    return readFileSync(file, 'latin1')
  } catch {
    return ''
  }
}

/** Bytes of memory that the processes hold: their own pages, and their share of those that they have in common (PSS). */
export function memoryBytes(pids: readonly number[]): number {
  let sum = 0
  for (const pid of pids) {
    const [, kib = '0'] = /^Pss:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'latin1')) ?? []
    sum += Number(kib) * 1024
  }
  return sum
}
