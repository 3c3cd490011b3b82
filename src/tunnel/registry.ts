// Which tunnels are open: found by id, listed, ended, waited for.

import type { Tunnel } from './tunnel.ts'

/** How many tunnels are ended in one turn of the event loop, so that those that live are not held up. */
const STOP_BATCH = 100

export class Registry {
  readonly #open = new Map<string, Tunnel>()
  /** Told when the last tunnel has gone; several may wait at once. */
  readonly #waiting = new Set<() => void>()

  get size(): number {
    return this.#open.size
  }

  add(tunnel: Tunnel): void {
    this.#open.set(tunnel.facts.id, tunnel)
  }

  remove(tunnel: Tunnel): void {
    this.#open.delete(tunnel.facts.id)
    if (this.#open.size === 0) for (const tell of [...this.#waiting]) tell()
  }

  find(id: string): Tunnel | undefined {
    return this.#open.get(id)
  }

  list(): IterableIterator<Tunnel> {
    return this.#open.values()
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

  async stopAll(how: 'fin' | 'reset'): Promise<void> {
    let count = 0
    for (const tunnel of [...this.#open.values()]) {
      tunnel.splicing?.stop(how)
      count += 1
      if (count % STOP_BATCH === 0) await new Promise(setImmediate)
    }
  }
}
