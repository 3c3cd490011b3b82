// The kernel's own threads (children of kthreadd, pid 2) that do what a proxy has left to the kernel.

import { readdirSync, readFileSync } from 'node:fs'

/** Names of those that work for the network; others, such as RCU's, are housekeeping. */
const WORKERS = /^(kworker|ksoftirqd|napi)/

/** Pids. Some of them come and go. */
export function kernelThreads(): number[] {
  return readdirSync('/proc').flatMap((name) => {
    if (!/^[0-9]+$/.test(name)) return []
    const status = readIfThere(`/proc/${name}/status`)
    const [, parent] = /^PPid:\s*(\d+)$/m.exec(status) ?? []
    const [, command = ''] = /^Name:\s*(.*)$/m.exec(status) ?? []
    return parent === '2' && WORKERS.test(command) ? [Number(name)] : []
  })
}

/** Empty if it is gone. */
export function readIfThere(file: string): string {
  try {
    return readFileSync(file, 'latin1')
  } catch {
    return ''
  }
}
