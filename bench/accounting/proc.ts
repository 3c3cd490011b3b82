// What processes and the kernel hold, and have spent, as /proc says.

import { readdirSync, readFileSync } from 'node:fs'
import { readIfThere } from './kernel-threads.ts'

/** Nanoseconds on a CPU, in user and kernel mode, of all threads that the processes have now. */
export function cpuNs(pids: readonly number[]): number {
  let sum = 0
  for (const pid of pids) {
    for (const thread of readdirSync(`/proc/${pid}/task`)) {
      sum += Number(readIfThere(`/proc/${pid}/task/${thread}/schedstat`).split(' ')[0] ?? 0)
    }
  }
  return sum
}

/** Bytes that the processes hold: their own pages, and their share of those that they have in common (PSS). */
export function processBytes(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => sum + kibIn(`/proc/${pid}/smaps_rollup`, 'Pss') * 1_024, 0)
}

/**
 * Bytes that the kernel holds for everybody on this machine: its slabs, where sockets, descriptors and what watches them
 * are, and what waits in TCP buffers.
 */
export function kernelBytes(): number {
  const [, pages = '0'] = /^TCP:.* mem (\d+)/m.exec(readFileSync('/proc/net/sockstat', 'latin1')) ?? []
  return kibIn('/proc/meminfo', 'Slab') * 1_024 + Number(pages) * pageBytes
}

const pageBytes = kibIn('/proc/self/smaps', 'KernelPageSize') * 1_024

export function availableBytes(): number {
  return kibIn('/proc/meminfo', 'MemAvailable') * 1_024
}

/** Open connections on the whole machine. */
export function tcpSockets(): number {
  const [, used = '0'] = /^TCP: inuse (\d+)/m.exec(readFileSync('/proc/net/sockstat', 'latin1')) ?? []
  return Number(used)
}

/** Descriptors that a process may open: the hard limit, to which node, HAProxy and nginx raise themselves. */
export function descriptorLimit(): number {
  const [, limit = ''] =
    /^Max open files\s+\S+\s+(\S+)/m.exec(readFileSync('/proc/self/limits', 'latin1')) ?? []
  return limit === 'unlimited' ? Number.POSITIVE_INFINITY : Number(limit)
}

/** Descriptors that the whole machine may open. */
export function machineDescriptorLimit(): number {
  return Number(readFileSync('/proc/sys/fs/file-max', 'latin1'))
}

/** Numbers of the CPUs that this process, and what it starts, may run on. */
export function allowedCpus(): number[] {
  const [, list = ''] = /^Cpus_allowed_list:\s+(\S+)/m.exec(readFileSync('/proc/self/status', 'latin1')) ?? []
  return list.split(',').flatMap((range) => {
    const [first = 0, last = first] = range.split('-').map(Number)
    return Array.from({ length: last - first + 1 }, (_, at) => first + at)
  })
}

function kibIn(file: string, name: string): number {
  const [, kib = '0'] = new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(readFileSync(file, 'latin1')) ?? []
  return Number(kib)
}
