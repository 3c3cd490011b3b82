// What a reader must know of where figures come from.

import { cpus, release, totalmem } from 'node:os'
import { aboutPlacement } from '../placement.ts'

export function nameOfMachine(): string {
  const [cpu] = cpus()
  const gib = Math.round(totalmem() / 1024 ** 3)
  return `${cpus().length} × ${cpu?.model ?? 'unknown CPU'}, ${gib} GiB`
}

export interface About {
  readonly date: string
  readonly machine: string
  readonly kernel: string
  readonly node: string
  /** How CPU was accounted. */
  readonly accounting: string
  readonly command: string
  /** Who ran on which CPUs. */
  readonly placement: string
  /** By name: version, and engine. */
  readonly proxies: Readonly<Record<string, string>>
  /** By name, why. */
  readonly missing: Readonly<Record<string, string>>
}

export function aboutThis(
  command: string,
  accounting: string,
  proxies: About['proxies'],
  missing: About['missing'],
): About {
  return {
    date: new Date().toISOString(),
    machine: nameOfMachine(),
    kernel: release(),
    node: process.version,
    accounting,
    placement: aboutPlacement(),
    command,
    proxies,
    missing,
  }
}

/** In a few lines. */
export function linesAbout(about: About): string[] {
  const named = Object.entries(about.proxies).map(([name, what]) => `${name} ${what}`.trim())
  const { command, date, machine, kernel, node } = about
  return [
    ...Object.entries(about.missing).map(([name, why]) => `${name} did not take part: ${why}`),
    `${command}; ${date.slice(0, 10)}; ${machine}; Linux ${kernel}; node ${node}; ${named.join(', ')}`,
    `CPU: ${about.accounting}; ${about.placement}`,
  ]
}
