// While a worker is being replaced, its neighbour accepts from its sockets, too, so that nobody waits for a process to start.
//
//   idle ──set(true)──▶ covering ──set(false)──▶ idle        end() ──▶ over, from both: the sockets are let go

import { duplicate, letGo } from '../accept/inherited.ts'
import type { ListenerOptions } from '../accept/listener.ts'
import type { Edge, Opened } from '../edge.ts'
import type { InheritedSocket } from './protocol.ts'
import { inOrder } from './turns.ts'

export interface Covered {
  readonly listeners: readonly ListenerOptions[]
  /** Those of the neighbour, in the order of the listeners; null: they share it. */
  readonly sockets: readonly (InheritedSocket | null)[]
}

export interface Cover {
  /** Rejects with listen-failed. */
  set(isNeeded: boolean): Promise<void>
  readonly sockets: Covered['sockets']
  /** These take the place of the others, also while it covers: what comes meanwhile waits in the backlog. Rejects with listen-failed. */
  renew(next: Covered): Promise<void>
  /** Once; later calls do nothing. What is accepted for the neighbour is the edge's to close. */
  end(): void
}

export function createCover(edge: Edge, first: Covered): Cover {
  let covered = first
  let isNeeded = false
  let covering: Opened | null = null
  let isOver = false
  /** One change after the other. */
  const later = inOrder()

  async function settle(): Promise<void> {
    if (isOver || isNeeded === (covering !== null)) return
    if (isNeeded) covering = await edge.listen(socketsOf(covered))
    else await stop()
  }

  async function stop(): Promise<void> {
    await covering?.close()
    covering = null
  }

  return {
    get sockets() {
      return covered.sockets
    },
    set(value) {
      isNeeded = value
      return later(settle)
    },
    renew: (next) =>
      later(async () => {
        await stop()
        const kept = new Set(next.sockets.map((socket) => socket?.descriptor))
        if (!isOver) letGoAll(covered.sockets.filter((socket) => !kept.has(socket?.descriptor)))
        covered = next
        await settle()
      }),
    end() {
      if (isOver) return
      isOver = true
      letGoAll(covered.sockets)
    },
  }
}

function socketsOf({ listeners, sockets }: Covered): ListenerOptions[] {
  return listeners.flatMap((one, at) => {
    const socket = sockets[at]
    if (socket == null) return []
    return [{ ...one, address: socket.address, socket: duplicate(socket.descriptor) }]
  })
}

function letGoAll(sockets: Covered['sockets']): void {
  for (const socket of sockets) if (socket !== null) letGo(socket.descriptor)
}
