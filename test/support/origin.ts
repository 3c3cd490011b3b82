// An origin that is played byte by byte, and the words that both sides of a handshake say.

import { createHash } from 'node:crypto'
import { once } from 'node:events'
import type { Server, Socket } from 'node:net'
import { createServer } from 'node:net'
import { createServer as createTlsServer } from 'node:tls'
import type { Test } from 'tap'
import type { Pem } from './certificates.ts'
import { Peer } from './peer.ts'

export const KEY = 'dGhlIHNhbXBsZSBub25jZQ=='

/** The head of a valid upgrade request; `fields` are added, or take the place of the ones of their name ('' removes it). */
export function upgradeRequest(fields: Readonly<Record<string, string>> = {}, target = '/chat'): string {
  const all: Record<string, string> = {
    Host: 'chat.test',
    Upgrade: 'websocket',
    Connection: 'Upgrade',
    'Sec-WebSocket-Key': KEY,
    'Sec-WebSocket-Version': '13',
    ...fields,
  }
  const lines = Object.entries(all).flatMap(([name, value]) =>
    value === '' ? [] : [`${name}: ${value}\r\n`],
  )
  return `GET ${target} HTTP/1.1\r\n${lines.join('')}\r\n`
}

/** The right 101 to a request head. */
export function switching(head: string, more = ''): string {
  const key = /^Sec-WebSocket-Key: *(\S+)/im.exec(head)?.[1] ?? ''
  const accept = createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64')
  return `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n${more}\r\n`
}

export interface Origin {
  readonly address: string
  /** How many connections have come. */
  readonly count: number
  /** The next connection that nobody has taken yet. */
  next(): Promise<Peer>
  /** Accepts no more; what is open stays open. */
  stop(): Promise<void>
}

/** `answer`: what the origin does with each connection; without it the test plays it. */
export async function startOrigin(
  t: Test,
  {
    answer,
    tls,
    host = '127.0.0.1',
    port: wanted = 0,
  }: { answer?: (peer: Peer) => void; tls?: Pem; host?: string; port?: number } = {},
): Promise<Origin> {
  const waiting: ((peer: Peer) => void)[] = []
  const arrived: Peer[] = []
  const sockets = new Set<Socket>()
  let count = 0
  const accept = (socket: Socket) => {
    const peer = new Peer(socket)
    count += 1
    sockets.add(socket)
    if (answer !== undefined) answer(peer)
    else if (waiting.length > 0) waiting.shift()?.(peer)
    else arrived.push(peer)
  }
  const options = { allowHalfOpen: true, noDelay: true }
  const server: Server =
    tls === undefined
      ? createServer(options, accept)
      : createTlsServer({ ...options, cert: tls.certificate, key: tls.key }, accept)
  server.on('tlsClientError', () => {})
  server.listen({ port: wanted, host, backlog: 4096 })
  await once(server, 'listening')
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  const { port } = server.address() as { port: number }
  return {
    address: host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`,
    get count() {
      return count
    },
    next() {
      const peer = arrived.shift()
      return peer === undefined ? new Promise((resolve) => waiting.push(resolve)) : Promise.resolve(peer)
    },
    async stop() {
      // The handle is closed at once; node's `close` waits for what is open.
      server.close()
      await new Promise(setImmediate)
    },
  }
}

/** An origin's answer: the right 101, and from then on every byte back. */
export async function echo(peer: Peer): Promise<void> {
  const head = await peer.until('\r\n\r\n').catch(() => null)
  if (head === null) return
  peer.write(switching(head))
  const early = peer.received.subarray(head.indexOf('\r\n\r\n') + 4)
  if (early.length > 0) peer.write(early)
  peer.socket.pipe(peer.socket)
}
