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
  /** From now on these are checked and no others; who was checked before goes on in its rhythm. */
  follow(backends: readonly Backend[]): void
  /** Stops them for good; whatever is on its way is given up. */
  stop(): void
}

export function createChecks(backends: readonly Backend[]): Checks {
  const running = new Map<Backend, AbortController>()
  let state: 'waiting' | 'started' | 'stopped' = 'waiting'
  let followed = backends

  function look(): void {
    if (state !== 'started') return
    const wanted = new Set(followed)
    for (const backend of running.keys()) if (!wanted.has(backend)) end(backend)
    for (const backend of followed) {
      const { check } = backend.health
      if (check !== null && !running.has(backend)) begin(backend, check)
    }
  }

  function begin(backend: Backend, check: CheckOptions): void {
    const stopped = new AbortController()
    running.set(backend, stopped)
    later(backend, check, stopped.signal, Math.min(FIRST_MS, check.intervalMs) * Math.random())
  }

  function end(backend: Backend): void {
    running.get(backend)?.abort()
    running.delete(backend)
  }

  function later(backend: Backend, check: CheckOptions, stopped: AbortSignal, ms: number): void {
    if (!stopped.aborted) setTimeout(run, ms, backend, check, stopped).unref()
  }

  async function run(backend: Backend, check: CheckOptions, stopped: AbortSignal): Promise<void> {
    if (stopped.aborted) return
    const error = await checkBackend(backend, check, stopped)
    if (stopped.aborted) return
    backend.health.checked(error)
    later(backend, check, stopped, check.intervalMs * (1 - JITTER + 2 * JITTER * Math.random()))
  }

  return {
    start() {
      if (state === 'waiting') state = 'started'
      look()
    },
    follow(next) {
      followed = next
      look()
    },
    stop() {
      state = 'stopped'
      for (const backend of [...running.keys()]) end(backend)
    },
  }
}
