// A reload in a worker: what has to be ready is made ready, and put in the place of the old in one step.
//
//   receive ─▶ prepare ──▶ commit, or drop: also while it prepares, or after it has failed

import { duplicate } from '../accept/inherited.ts'
import type { ListenerOptions, SocketHandle } from '../accept/listener.ts'
import type { Edge, Opened } from '../edge.ts'
import { asHeadraceError } from '../errors.ts'
import type { ProgramLines } from '../observe/program-lines.ts'
import type { Prepared } from '../prepared.ts'
import type { Cover, Covered } from './cover.ts'
import type { ReloadOrders, WorkerAnswers } from './protocol.ts'

export type Renewal = Pick<WorkerAnswers, 'receive' | 'prepare' | 'commit' | 'drop'>

export interface RenewalParts {
  readonly edge: Edge
  readonly opened: Opened
  readonly cover: Cover
  readonly lines: ProgramLines
}

interface Ready {
  readonly prepared: Prepared
  readonly listeners: readonly ListenerOptions[]
  readonly addresses: readonly string[]
  readonly level: string
}

export function createRenewal({ edge, opened, cover, lines }: RenewalParts): Renewal {
  /** By address. */
  const own = new Map<string, SocketHandle>()
  const neighbours = new Map<string, SocketHandle>()
  let preparing: Promise<Ready> | null = null
  /** Until what was dropped has gone, nothing new begins. */
  let dropping: Promise<void> = Promise.resolve()

  async function make({ edge: options, listeners, addresses }: ReloadOrders): Promise<Ready> {
    const wanted = listeners.map((one, at): ListenerOptions => {
      const address = addresses[at] ?? one.address
      const socket = own.get(address)
      return { ...one, address, ...(socket === undefined ? {} : { socket }) }
    })
    const prepared = await edge.prepare({ ...options, webhook: undefined }, { opened, wanted })
    return { prepared, listeners, addresses, level: options.log.level }
  }

  function coveredBy({ listeners, addresses }: Ready): Covered {
    const sockets = addresses.map((address) => {
      const known = cover.sockets.find((socket) => socket?.address === address)
      const handle = neighbours.get(address)
      if (known != null || handle === undefined) return known ?? null
      // One that is not shared can be copied.
      return { address, descriptor: duplicate(handle.fd) }
    })
    return { listeners, sockets }
  }

  async function undo(prepared: Promise<Ready> | null): Promise<void> {
    const ready = await prepared?.catch(() => null)
    ready?.prepared.drop()
    forget(own)
    forget(neighbours)
  }

  function forget(handles: Map<string, SocketHandle>): void {
    for (const handle of handles.values()) handle.close()
    handles.clear()
  }

  return {
    async receive(address, isOwn, handle) {
      await dropping
      if (handle !== undefined) (isOwn ? own : neighbours).set(address, handle)
    },
    async prepare(orders) {
      preparing = dropping.then(() => make(orders))
      await preparing
    },
    async commit() {
      const ready = await preparing
      if (ready === null) return
      preparing = null
      ready.prepared.commit()
      lines.configure(ready.level)
      // They are the listeners' now.
      own.clear()
      try {
        await cover.renew(coveredBy(ready))
      } catch (error) {
        lines.trouble(asHeadraceError(error))
      }
      forget(neighbours)
    },
    async drop() {
      dropping = undo(preparing)
      preparing = null
      await dropping
    },
  }
}
