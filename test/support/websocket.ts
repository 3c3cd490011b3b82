// A real WebSocket client, by ws: what it has heard, message by message, and how it ended.

import { once } from 'node:events'
import type { Test } from 'tap'
import type { ClientOptions } from 'ws'
import { WebSocket } from 'ws'

export interface Talker {
  readonly socket: WebSocket
  /** The next message that was not asked for yet. */
  next(): Promise<string>
  /** Resolves with code and reason. */
  readonly closed: Promise<{ readonly code: number; readonly reason: string }>
}

/** Rejects with what ws says if it is refused. `address`: host:port. */
export async function talkTo(
  t: Test,
  address: string,
  path = '/',
  { protocols = [], ...options }: ClientOptions & { protocols?: string[] } = {},
): Promise<Talker> {
  const socket = new WebSocket(`ws://${address}${path}`, protocols, options)
  t.teardown(() => socket.terminate())
  const unread: string[] = []
  const waiting: ((text: string) => void)[] = []
  socket.on('message', (data, isBinary) => {
    const text = isBinary ? `binary ${(data as Buffer).toString('hex')}` : data.toString()
    const next = waiting.shift()
    if (next === undefined) unread.push(text)
    else next(text)
  })
  const closed = new Promise<{ code: number; reason: string }>((resolve) => {
    socket.on('close', (code, reason) => resolve({ code, reason: reason.toString() }))
  })
  await once(socket, 'open')
  socket.on('error', () => {})
  return {
    socket,
    closed,
    next() {
      const text = unread.shift()
      return text === undefined ? new Promise((resolve) => waiting.push(resolve)) : Promise.resolve(text)
    },
  }
}
