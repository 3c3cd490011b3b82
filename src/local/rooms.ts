// Sessions that several connections share, by their name. One lives as long as somebody is in it.

import type { LocalSocket } from './socket.ts'

export interface Session {
  readonly name: string
  /** Those who are in it, the new one included. */
  readonly sockets: ReadonlySet<LocalSocket>
  /** Whatever is put in here is there for all of them, until the last one has left. */
  readonly state: Record<string, unknown>
}

export interface Rooms {
  enter(name: string, socket: LocalSocket): Session
  leave(name: string, socket: LocalSocket): void
}

export function createRooms(): Rooms {
  const open = new Map<string, Session & { readonly sockets: Set<LocalSocket> }>()
  return {
    enter(name, socket) {
      const session = open.get(name) ?? { name, sockets: new Set(), state: {} }
      open.set(name, session)
      session.sockets.add(socket)
      return session
    },
    leave(name, socket) {
      const session = open.get(name)
      session?.sockets.delete(socket)
      if (session?.sockets.size === 0) open.delete(name)
    },
  }
}
