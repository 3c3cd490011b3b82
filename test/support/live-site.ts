// One instance of an application with live pages: Socket.IO at its own path, a SignalR hub at /hub, and a page that loads both
// libraries. It knows the clients that have come to it, and no others.

import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer } from 'node:http'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { Server as SocketIo } from 'socket.io'
import type { Test } from 'tap'
import { ownHost } from './host.ts'
import { createHub } from './hub.ts'

const SIGNALR = readFileSync(
  join(
    createRequire(import.meta.url).resolve('@microsoft/signalr/package.json'),
    '../dist/browser/signalr.js',
  ),
)
const PAGE = `<!doctype html><title>a page</title>
<script src="/socket.io/socket.io.js"></script><script src="/signalr.js"></script>`

export interface LiveSite {
  readonly name: string
  readonly address: string
  /** As a process that is killed: no connection of it is left, and nobody listens any more. */
  kill(): Promise<void>
}

/** `address`: where it was before. */
export async function startLiveSite(t: Test, name: string, address = `${ownHost()}:0`): Promise<LiveSite> {
  const hub = createHub(name)
  const server = createServer((request, response) => {
    if (letIn(request, response) || hub.answer(request, response)) return
    if (request.url === '/signalr.js')
      return void response.setHeader('Content-Type', 'text/javascript').end(SIGNALR)
    response.setHeader('Content-Type', 'text/html')
    response.end(PAGE)
  })
  const sockets = new SocketIo(server, { cors: { origin: true, credentials: true } })
  sockets.on('connection', (socket) => {
    socket.on('whoAreYou', (answer) => answer(`${name} by ${socket.conn.transport.name}`))
  })
  server.on('upgrade', (request, socket, head) => hub.upgrade(request, socket, head))
  const [host, port] = address.split(':')
  server.listen(Number(port), host)
  await once(server, 'listening')
  const connections = new Set<{ destroy(): void }>()
  server.on('connection', (socket) => {
    connections.add(socket)
    socket.on('close', () => connections.delete(socket))
  })
  const kill = async () => {
    if (!server.listening) return
    server.close()
    for (const socket of connections) socket.destroy()
    await once(server, 'close')
    hub.close()
    await sockets.close()
  }
  t.teardown(kill)
  return { name, address: `${host}:${(server.address() as { port: number }).port}`, kill }
}

/** Pages of other origins may use it, with cookies (CORS); true: that was all that was asked. */
function letIn({ method, headers }: IncomingMessage, response: ServerResponse): boolean {
  if (headers.origin === undefined) return false
  response.setHeader('Access-Control-Allow-Origin', headers.origin)
  response.setHeader('Access-Control-Allow-Credentials', 'true')
  if (method !== 'OPTIONS') return false
  response.setHeader('Access-Control-Allow-Headers', headers['access-control-request-headers'] ?? '')
  response.setHeader('Access-Control-Allow-Methods', 'GET, POST, DELETE')
  response.writeHead(204).end()
  return true
}
