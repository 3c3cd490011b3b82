// While a worker is being replaced, its neighbour accepts from its sockets, too, so that nobody waits for a process to start.
//
//   idle ──set(true)──▶ covering ──set(false)──▶ idle        end() ──▶ over, from both: the sockets are let go

import { duplicate, letGo } from '../accept/inherited.ts'
import type { ListenerOptions } from '../accept/listener.ts'
import type { Edge, Opened } from '../edge.ts'
import type { InheritedSocket } from './protocol.ts'

export interface Cover {
  /** Rejects with listen-failed. */
  set(isNeeded: boolean): Promise<void>
  /** Once; later calls do nothing. What is accepted for the neighbour is the edge's to close. */
  end(): void
}

/** `sockets`: those of the neighbour, in the order of the listeners. */
export function createCover(
  edge: Edge,
  listeners: readonly ListenerOptions[],
  sockets: readonly (InheritedSocket | null)[],
): Cover {
  let covering: Promise<Opened> | null = null
  let isOver = false

  function open(): Promise<Opened> {
    const wanted = listeners.flatMap((one, at) => {
      const socket = sockets[at]
      return socket == null ? [] : [{ ...one, ...socket, descriptor: duplicate(socket.descriptor) }]
    })
    return edge.listen(wanted)
  }

  return {
    async set(isNeeded) {
      if (isOver || isNeeded === (covering !== null)) return
      const before = covering
      covering = isNeeded ? open() : null
      await (await before)?.close()
      await covering?.catch((error: unknown) => {
        covering = null
        throw error
      })
    },
    end() {
      if (isOver) return
      isOver = true
      for (const socket of sockets) if (socket !== null) letGo(socket.descriptor)
    },
  }
}
