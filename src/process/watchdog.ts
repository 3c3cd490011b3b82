// Tells the service manager how the program does: how many tunnels are open, and that it lives, unless all workers that run are
// silent. One of several is no reason to end the tunnels of all: its neighbour accepts for it.

import type { Notify } from './notify.ts'
import type { Worker } from './workers.ts'

type Workers = readonly Pick<Worker, 'name' | 'state' | 'silence'>[]

/** How old what the manager shows may be. */
const STATUS_MS = 10_000

export interface Watchdog {
  stop(): void
}

/** `isDraining` goes into the status. */
export function startWatchdog(workers: Workers, notify: Notify, isDraining: () => boolean): Watchdog {
  if (!notify.isHeard) return { stop() {} }
  // Half of what it allows, as sd_watchdog_enabled(3) has it: one that comes late is no death.
  const everyMs = Math.min(STATUS_MS, (notify.watchdogMs ?? Infinity) / 2)
  let timer: NodeJS.Timeout | undefined

  function look(): void {
    timer = setTimeout(look, everyMs)
    const running = workers.filter(({ state }) => state === 'running')
    const silent = running.filter(({ silence }) => silence.ms !== null)
    notify.status(`${isDraining() ? 'draining, ' : ''}${openIn(workers)}${silentIn(silent)}`)
    const isDead = running.length > 0 && silent.length === running.length
    if (notify.watchdogMs !== null && !isDead) notify.alive()
  }

  look()
  return { stop: () => clearTimeout(timer) }
}

function openIn(workers: Workers): string {
  const open = workers.reduce((sum, { silence }) => sum + silence.tunnels, 0)
  return `${open} ${open === 1 ? 'tunnel' : 'tunnels'} open`
}

function silentIn(silent: Workers): string {
  const [first, ...more] = silent.map(({ name }) => name)
  if (first === undefined) return ''
  return `; ${[first, ...more].join(', ')} ${more.length === 0 ? 'is' : 'are'} silent`
}
