// Who runs where: proxies on CPUs of their own, clients and origins on the others. Left alone, the scheduler puts all that
// wake each other on one CPU, now and then, and no round is like the one before.

import { spawnSync } from 'node:child_process'
import { allowedCpus } from './accounting/proc.ts'

/** CPUs as taskset(1) has them; null: any. */
export interface Placement {
  readonly proxy: string | null
  readonly load: string | null
  /** How many CPUs that is. */
  readonly proxyCpus: number
  readonly loadCpus: number
}

/** Each process of a proxy has one CPU, as long as half of them are left to the load. */
export function placementFor(proxies: number): Placement {
  const cpus = allowedCpus()
  if (cpus.length < 2 || !hasTaskset()) {
    return { proxy: null, load: null, proxyCpus: cpus.length, loadCpus: cpus.length }
  }
  const proxyCpus = Math.min(proxies, Math.floor(cpus.length / 2))
  return {
    proxy: cpus.slice(0, proxyCpus).join(','),
    load: cpus.slice(proxyCpus).join(','),
    proxyCpus,
    loadCpus: cpus.length - proxyCpus,
  }
}

/** In words, for the report. */
export function aboutPlacement(): string {
  const { proxy, load } = placementFor(1)
  if (proxy === null) return 'processes run where the scheduler puts them'
  return `a proxy has CPU ${proxy}, clients and origins have ${load}; several processes of a proxy have up to half of the CPUs`
}

/** The command that runs `program` on these CPUs. */
export function placed(
  cpus: string | null,
  program: string,
  args: readonly string[],
): readonly [program: string, args: readonly string[]] {
  return cpus === null ? [program, args] : ['taskset', ['-c', cpus, program, ...args]]
}

let isThere: boolean | undefined

function hasTaskset(): boolean {
  isThere ??= spawnSync('taskset', ['--version']).status === 0
  return isThere
}
