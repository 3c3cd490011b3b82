// What a reader must know of where figures come from.

import { cpus, release, totalmem } from 'node:os'

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
    command,
    proxies,
    missing,
  }
}

/** In one paragraph. */
export function linesAbout({
  date,
  machine,
  kernel,
  node,
  accounting,
  command,
  proxies,
  missing,
}: About): string[] {
  const named = Object.entries(proxies).map(([name, what]) => `${name} ${what}`.trim())
  return [
    ...Object.entries(missing).map(([name, why]) => `${name} did not take part: ${why}`),
    `${command}; ${date.slice(0, 10)}; ${machine}; Linux ${kernel}; node ${node}; ${named.join(', ')}`,
    `CPU: ${accounting}`,
  ]
}
