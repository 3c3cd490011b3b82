// The origin: it finds the tunnel that a connection belongs to by its path. It can refuse, and it can hang.

import { once } from 'node:events'
import type { AddressInfo, Server, Socket } from 'node:net'
import { createServer } from 'node:net'
import { answerTo } from '../load/handshake.ts'
import { idOf, type Pair } from './pair.ts'

export interface Origin {
  /** host:port */
  readonly address: string
  /** Nobody listens there any more; what is open lives on. */
  refuse(): Promise<void>
  /** Accepts, and says nothing. */
  hang(): void
  /** As at first. */
  answer(): Promise<void>
  close(): void
}

const HOST = '127.0.0.1'

export async function startOrigin(pairOf: (id: number) => Pair | undefined): Promise<Origin> {
  let port = 0
  let isHanging = false
  let server: Server | null = null
  const all = new Set<Socket>()
  const hung = new Set<Socket>()

  async function listen(): Promise<void> {
    server = createServer({ allowHalfOpen: true, noDelay: true }, accept)
    server.listen({ port, host: HOST, backlog: 4_096 })
    await once(server, 'listening')
    port = (server.address() as AddressInfo).port
  }

  function accept(socket: Socket): void {
    all.add(socket)
    socket.on('close', () => all.delete(socket))
    socket.on('error', () => {})
    if (isHanging) hung.add(socket)
    else readHead(socket, pairOf)
  }

  await listen()
  return {
    address: `${HOST}:${port}`,
    async refuse() {
      server?.close()
      server = null
      await new Promise(setImmediate)
    },
    hang() {
      isHanging = true
    },
    async answer() {
      isHanging = false
      for (const socket of hung) socket.destroy()
      hung.clear()
      if (server === null) await listen()
    },
    close() {
      server?.close()
      for (const socket of all) socket.destroy()
    },
  }
}

function readHead(socket: Socket, pairOf: (id: number) => Pair | undefined): void {
  let text = ''
  const read = (bytes: Buffer) => {
    text += bytes.toString('latin1')
    const end = text.indexOf('\r\n\r\n')
    if (end === -1) return
    socket.off('data', read)
    const { head, path } = answerTo(text.slice(0, end + 4))
    const pair = pairOf(idOf(path))
    // Its client has given up meanwhile.
    if (pair === undefined || pair.state === 'over') return void socket.destroy()
    socket.write(head)
    pair.attach(socket, Buffer.from(text.slice(end + 4), 'latin1'))
  }
  socket.on('data', read)
}
