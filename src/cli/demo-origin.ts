// The origin of the demo: a page, a chat room, and an echo. An ordinary web server, as users have theirs behind Headrace;
// it knows nothing of the tunnel.

import { readFileSync } from 'node:fs'
import type { IncomingMessage } from 'node:http'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { RawData, WebSocket } from 'ws'
import { WebSocketServer } from 'ws'

export interface DemoOrigin {
  /** `127.0.0.1:41234`. */
  readonly address: string
  close(): Promise<void>
}

/** Bytes of one message; a chat needs no more. */
const MAX_MESSAGE = 64 * 1024
/** Letters of a name, of a text, and of the id by which a tab knows its own messages. */
const MAX_NAME = 24
const MAX_TEXT = 500
const MAX_ID = 36

export async function startDemoOrigin(): Promise<DemoOrigin> {
  const page = readFileSync(new URL('demo.html', import.meta.url))
  const http = createServer((request, response) => {
    const isPage = request.url === '/'
    response.writeHead(isPage ? 200 : 404, {
      'Content-Type': isPage ? 'text/html; charset=utf-8' : 'text/plain',
    })
    response.end(isPage ? page : 'not here\n')
  })
  const sockets = new WebSocketServer({ server: http, maxPayload: MAX_MESSAGE })
  const room = new Set<WebSocket>()
  sockets.on('connection', (socket, request) => {
    socket.on('error', () => socket.terminate())
    if (pathOf(request) === '/chat') join(room, socket)
    else socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }))
  })
  await new Promise<void>((resolve, reject) => {
    http.once('error', reject)
    http.listen(0, '127.0.0.1', resolve)
  })
  return {
    address: `127.0.0.1:${(http.address() as AddressInfo).port}`,
    async close() {
      for (const socket of sockets.clients) socket.terminate()
      http.closeAllConnections()
      await new Promise((resolve) => http.close(resolve))
    },
  }
}

function pathOf({ url = '/' }: IncomingMessage): string {
  return url.replace(/\?.*$/s, '')
}

function join(room: Set<WebSocket>, socket: WebSocket): void {
  room.add(socket)
  tellAll(room, { kind: 'people', count: room.size })
  socket.on('close', () => {
    room.delete(socket)
    tellAll(room, { kind: 'people', count: room.size })
  })
  socket.on('message', (data) => {
    const message = read(data)
    if (message === null) return
    if (message.kind === 'ping') socket.send(JSON.stringify({ kind: 'pong', at: message.at }))
    else tellAll(room, { ...message, sentAt: Date.now() })
  })
}

function tellAll(room: ReadonlySet<WebSocket>, message: object): void {
  const text = JSON.stringify(message)
  for (const socket of room) socket.send(text)
}

type Message = { kind: 'ping'; at: number } | { kind: 'text'; by: string; from: string; text: string }

/** Strangers' bytes: anything but the two known messages is ignored. */
function read(data: RawData): Message | null {
  try {
    const { kind, at, by = '', from, text } = JSON.parse(String(data)) as Record<string, unknown>
    if (kind === 'ping' && typeof at === 'number') return { kind, at }
    if (kind !== 'text' || typeof by !== 'string' || typeof from !== 'string' || typeof text !== 'string')
      return null
    if (text.trim() === '') return null
    return {
      kind,
      by: by.slice(0, MAX_ID),
      from: from.slice(0, MAX_NAME) || 'somebody',
      text: text.slice(0, MAX_TEXT),
    }
  } catch {
    return null
  }
}
