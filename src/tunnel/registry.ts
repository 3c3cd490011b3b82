// Which tunnels are open: found by id, listed, ended, waited for.

import type { Tunnel } from './tunnel.ts'

/** How many tunnels are ended in one turn of the event loop, so that those that live are not held up. */
const STOP_BATCH = 100

/** How many are looked at in one turn: well under a millisecond's work. */
const WALK_BATCH = 1_000

/** Who is told at once of what comes and goes. */
export interface RegistryObserver {
  added(tunnel: Tunnel): void
  removed(tunnel: Tunnel): void
}

export class Registry {
  readonly #open = new Map<string, Tunnel>()
  /** By service. */
  readonly #counts = new Map<string, number>()
  /** Told when the last tunnel has gone; several may wait at once. */
  readonly #waiting = new Set<() => void>()
  observer: RegistryObserver | null = null

  get size(): number {
    return this.#open.size
  }

  add(tunnel: Tunnel): void {
    this.#open.set(tunnel.facts.id, tunnel)
    this.#add(tunnel.facts.service, 1)
    this.observer?.added(tunnel)
  }

  remove(tunnel: Tunnel): void {
    if (!this.#open.delete(tunnel.facts.id)) return
    this.#add(tunnel.facts.service, -1)
    this.observer?.removed(tunnel)
    if (this.#open.size === 0) for (const tell of [...this.#waiting]) tell()
  }

  find(id: string): Tunnel | undefined {
    return this.#open.get(id)
  }

  /** How many tunnels of a service are open. */
  count(service: string): number {
    return this.#counts.get(service) ?? 0
  }

  /** In the order of their age. */
  all(): Iterable<Tunnel> {
    return this.#open.values()
  }

  /** Visits each that is open from now until its turn comes, in the order of their age. */
  async walk(visit: (tunnel: Tunnel) => void): Promise<void> {
    let count = 0
    for (const tunnel of this.#open.values()) {
      visit(tunnel)
      count += 1
      if (count % WALK_BATCH === 0) await new Promise(setImmediate)
    }
  }

  /** Resolves when no tunnel is open, with true; or with false after `ms`, or when the signal is aborted. */
  async empty(ms: number, signal?: AbortSignal): Promise<boolean> {
    if (this.#open.size === 0) return true
    return await new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', done)
        this.#waiting.delete(done)
        resolve(this.#open.size === 0)
      }
      const timer = setTimeout(done, ms)
      signal?.addEventListener('abort', done)
      this.#waiting.add(done)
    })
  }

  /** Ends all that are meant, and resolves with how many they were. Those that come later are not. */
  async stop(how: 'fin' | 'reset', isMeant: (tunnel: Tunnel) => boolean = () => true): Promise<number> {
    let count = 0
    for (const tunnel of [...this.#open.values()]) {
      if (!isMeant(tunnel)) continue
      tunnel.splicing?.stop(how)
      count += 1
      if (count % STOP_BATCH === 0) await new Promise(setImmediate)
    }
    return count
  }

  #add(service: string, change: 1 | -1): void {
    this.#counts.set(service, this.count(service) + change)
  }
}
