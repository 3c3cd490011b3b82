// Tells the service manager how the program does: how many tunnels are open, and that it lives, as long as every worker
// that runs answers. One that is being replaced is taken care of already.

import type { HeadraceError } from '../errors.ts'
import { asHeadraceError } from '../errors.ts'
import type { Child } from './child.ts'
import type { Notify } from './notify.ts'
import type { WorkerAnswers } from './protocol.ts'

type Workers = readonly Pick<Child<WorkerAnswers, unknown>, 'state' | 'wire'>[]

/** How old what the manager shows may be. */
const STATUS_MS = 10_000

/** Between two looks while a worker does not answer. */
const AGAIN_MS = 500

export interface Watchdog {
  stop(): void
}

/** `isDraining` goes into the status. `onTrouble` is told once when a worker does not answer, and again after it did. */
export function startWatchdog(
  workers: Workers,
  notify: Notify,
  isDraining: () => boolean,
  onTrouble: (what: HeadraceError) => void,
): Watchdog {
  if (!notify.isHeard) return { stop() {} }
  // Half of what it allows, as sd_watchdog_enabled(3) has it: one that comes late is no death.
  const everyMs = Math.min(STATUS_MS, (notify.watchdogMs ?? Infinity) / 2)
  let timer: NodeJS.Timeout | undefined
  let isTroubled = false
  let isOver = false

  async function look(): Promise<void> {
    const startedAt = performance.now()
    try {
      const open = await countTunnels(workers)
      if (isOver) return
      isTroubled = false
      notify.status(`${isDraining() ? 'draining, ' : ''}${open} ${open === 1 ? 'tunnel' : 'tunnels'} open`)
      if (notify.watchdogMs !== null) notify.alive()
    } catch (error) {
      if (!isTroubled && !isOver) onTrouble(asHeadraceError(error))
      isTroubled = true
    }
    if (isOver) return
    const tookMs = performance.now() - startedAt
    timer = setTimeout(look, isTroubled ? AGAIN_MS : Math.max(0, everyMs - tookMs))
  }

  void look()
  return {
    stop() {
      isOver = true
      clearTimeout(timer)
    },
  }
}

/** Rejects with process-silent if a worker that runs does not answer. */
async function countTunnels(workers: Workers): Promise<number> {
  const counts = workers.map(async (worker) => {
    const { wire, state } = worker
    if (wire === null || state !== 'running') return 0
    try {
      const services = await wire.ask('services', [])
      return services.reduce((sum, { tunnels }) => sum + tunnels, 0)
    } catch (error) {
      // It has died meanwhile.
      if (worker.wire !== wire) return 0
      throw error
    }
  })
  return (await Promise.all(counts)).reduce((sum, count) => sum + count, 0)
}
