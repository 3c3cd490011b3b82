// When backends are checked: each at its own interval, one check at a time, never in step with another or another process.

import type { Backend } from '../dial/backend.ts'
import type { CheckOptions } from '../dial/health.ts'
import { checkBackend } from './check.ts'

/** A wait is up to this part of the interval shorter or longer. */
const JITTER = 0.1
/** Within which time the first check is made, in ms, if the interval isn't shorter. */
const FIRST_MS = 500

export interface Checks {
  /** Starts them, if they don't run yet. The wait for the next one keeps no process alive. */
  start(): void
  /** Stops them for good; whatever is on its way is given up. */
  stop(): void
}

export function createChecks(backends: readonly Backend[]): Checks {
  const stopped = new AbortController()
  let isStarted = false

  function later(backend: Backend, check: CheckOptions, ms: number): void {
    if (!stopped.signal.aborted) setTimeout(run, ms, backend, check).unref()
  }

  async function run(backend: Backend, check: CheckOptions): Promise<void> {
    if (stopped.signal.aborted) return
    const error = await checkBackend(backend, check, stopped.signal)
    if (stopped.signal.aborted) return
    backend.health.checked(error)
    later(backend, check, check.intervalMs * (1 - JITTER + 2 * JITTER * Math.random()))
  }

  return {
    start() {
      if (isStarted) return
      isStarted = true
      for (const backend of backends) {
        const { check } = backend.health
        if (check !== null) later(backend, check, Math.min(FIRST_MS, check.intervalMs) * Math.random())
      }
    },
    stop() {
      stopped.abort()
    },
  }
}
