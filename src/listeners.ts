// Listeners that were opened together, and are changed together by a reload. Which is which the address says, as it was given:
// one that stays keeps its socket, so that nobody is refused meanwhile.

import type { Arrival, Listener, ListenerOptions } from './accept/listener.ts'
import { listen } from './accept/listener.ts'
import type { Terms } from './accept/terms.ts'
import type { HeadraceError } from './errors.ts'
import type { Loop } from './linux/loop.ts'
import type { Prepared } from './prepared.ts'

export interface ListenerGroup {
  /** In the order of the options. */
  readonly listeners: readonly Listener[]
  /**
   * Opens what is new and checks what stays; all or none. What a new one accepts waits until `commit`. Throws listen-failed or
   * config-invalid.
   */
  prepare(wanted: readonly ListenerOptions[]): Promise<Prepared>
  /** Stops accepting, as a listener does. What was accepted lives on. */
  close(lastMs?: number): Promise<void>
}

export interface ListenerMeans {
  serve(arrival: Arrival, terms: Terms): void
  trouble(what: HeadraceError): void
  readonly loop: Loop | null
}

interface Open {
  /** As it was given. */
  readonly address: string
  readonly listener: Listener
}

/** All or none. Throws listen-failed or config-invalid. */
export async function openListeners(
  wanted: readonly ListenerOptions[],
  means: ListenerMeans,
): Promise<ListenerGroup> {
  let open: readonly Open[] = []
  let isClosed = false
  /** What was removed and may come back: it has to be gone by then. */
  let closing: Promise<unknown> = Promise.resolve()

  async function prepare(next: readonly ListenerOptions[]): Promise<Prepared> {
    await closing
    const left = [...open]
    const results = await Promise.allSettled(
      next.map((options) => {
        const at = left.findIndex(({ address }) => address === options.address)
        const [kept] = at === -1 ? [] : left.splice(at, 1)
        return kept === undefined ? openHeld(options, means) : keep(kept, options)
      }),
    )
    const ready = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
    const failed = results.find((result) => result.status === 'rejected')
    if (failed !== undefined) {
      for (const one of ready) one.prepared.drop()
      throw failed.reason
    }
    return {
      commit() {
        open = ready
        for (const { prepared } of ready) prepared.commit()
        closing = Promise.all((isClosed ? ready : left).map(({ listener }) => listener.close()))
      },
      drop() {
        for (const { prepared } of ready) prepared.drop()
      },
    }
  }

  const first = await prepare(wanted)
  first.commit()
  return {
    get listeners() {
      return open.map(({ listener }) => listener)
    },
    prepare,
    async close(lastMs = 0) {
      isClosed = true
      await Promise.all(open.map(({ listener }) => listener.close(lastMs)))
    },
  }
}

interface Ready extends Open {
  readonly prepared: Prepared
}

async function keep({ address, listener }: Open, options: ListenerOptions): Promise<Ready> {
  return { address, listener, prepared: listener.prepare(options) }
}

/** It accepts at once, and what has come is kept until it is known what becomes of it. */
async function openHeld(options: ListenerOptions, { serve, trouble, loop }: ListenerMeans): Promise<Ready> {
  let held: [Arrival, Terms][] | null = []
  const take = (arrival: Arrival, terms: Terms) => {
    if (held === null) serve(arrival, terms)
    else held.push([arrival, terms])
  }
  const listener = await listen(options, take, trouble, loop)
  const release = (act: (arrival: Arrival, terms: Terms) => void) => {
    const all = held ?? []
    held = null
    for (const [arrival, terms] of all) act(arrival, terms)
  }
  return {
    address: options.address,
    listener,
    prepared: {
      commit: () => release(serve),
      drop() {
        release((arrival) => ('transport' in arrival ? arrival.transport : arrival).destroy())
        void listener.close()
      },
    },
  }
}
