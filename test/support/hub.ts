// A SignalR hub in front of clients, by the specs of its transports and of its hub protocol (dotnet/aspnetcore,
// src/SignalR/docs/specs): negotiation, three transports, messages in JSON. As the real one it knows the connections that it
// has negotiated itself, and is 404 to all others.

import { randomUUID } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import type { WebSocket } from 'ws'
import { WebSocketServer } from 'ws'

/** Ends each message. */
const SEPARATOR = '\x1e'
/** Less than the time after which clients give up a silent server, which is 30 s. */
const PING_MS = 5_000

type TransportName = 'WebSockets' | 'ServerSentEvents' | 'LongPolling'

interface Outlet {
  readonly name: TransportName
  send(text: string): void
  close(): void
}

interface Connection {
  outlet: Outlet | null
  /** Of a client by long polling: what waits for its next poll, and a poll that waits for something. */
  waiting: string
  poll: ServerResponse | null
  isGreeted: boolean
  isOver: boolean
  /** The beginning of a message that is still coming. */
  heard: string
}

interface Message {
  readonly type: number
  readonly invocationId?: string
  readonly target?: string
  readonly arguments?: readonly unknown[]
}

export interface Hub {
  /** Answers a request below `/hub`; false: it is not for the hub. */
  answer(request: IncomingMessage, response: ServerResponse): boolean
  /** As `answer`, for upgrades. */
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): boolean
  close(): void
}

/**
 * Its methods: `whoAreYou` answers with `name by TRANSPORT`, `shout(text)` calls `heard(text)` of every client, `fail(text)` fails,
 * `leave` closes the connection from this side.
 */
export function createHub(name: string): Hub {
  const connections = new Map<string, Connection>()
  const sockets = new WebSocketServer({ noServer: true })
  const pings = setInterval(() => {
    for (const connection of connections.values()) if (connection.isGreeted) tell(connection, { type: 6 })
  }, PING_MS)
  pings.unref()

  function answer(request: IncomingMessage, response: ServerResponse): boolean {
    const { pathname, searchParams } = urlOf(request)
    if (pathname === '/hub/negotiate') negotiate(request, searchParams, response)
    else if (pathname !== '/hub') return false
    else {
      const connection = connections.get(searchParams.get('id') ?? '')
      if (connection === undefined) refuse(response, searchParams.has('id'))
      else if (request.method === 'POST') void receive(connection, request, response)
      else if (request.method === 'DELETE') leave(connection, response)
      else if (/text\/event-stream/.test(request.headers.accept ?? '')) stream(connection, response)
      else poll(connection, response)
    }
    return true
  }

  function negotiate(request: IncomingMessage, query: URLSearchParams, response: ServerResponse): void {
    if (request.method !== 'POST') return void response.writeHead(405).end()
    const [connectionId, token] = [randomUUID(), randomUUID()]
    // Only since version 1 what a client shows is not what others may see.
    const connectionToken = query.get('negotiateVersion') === '1' ? token : connectionId
    connections.set(connectionToken, newConnection())
    const both = ['Text', 'Binary']
    const availableTransports = [
      { transport: 'WebSockets', transferFormats: both },
      { transport: 'ServerSentEvents', transferFormats: ['Text'] },
      { transport: 'LongPolling', transferFormats: both },
    ]
    response.setHeader('Content-Type', 'application/json')
    response.end(JSON.stringify({ negotiateVersion: 1, connectionId, connectionToken, availableTransports }))
  }

  function upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): boolean {
    const { pathname, searchParams } = urlOf(request)
    if (pathname !== '/hub') return false
    // Without an id it is a client that skips negotiation.
    const connection = searchParams.has('id')
      ? connections.get(searchParams.get('id') ?? '')
      : newConnection()
    if (connection === undefined) {
      socket.end('HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n')
      return true
    }
    if (!searchParams.has('id')) connections.set(randomUUID(), connection)
    sockets.handleUpgrade(request, socket, head, (accepted) => speak(connection, accepted))
    return true
  }

  function speak(connection: Connection, socket: WebSocket): void {
    connection.outlet = {
      name: 'WebSockets',
      send: (text) => socket.send(text),
      close: () => socket.close(),
    }
    socket.on('error', () => {})
    socket.on('message', (data) => hear(connection, String(data)))
    socket.on('close', () => end(connection))
  }

  function stream(connection: Connection, response: ServerResponse): void {
    response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-cache, no-store' })
    response.flushHeaders()
    connection.outlet = {
      name: 'ServerSentEvents',
      send: (text) => void response.write(`data: ${text}\r\n\r\n`),
      close: () => response.end(),
    }
    response.on('close', () => end(connection))
  }

  /** The first poll is answered at once: it only says that the client is there. */
  function poll(connection: Connection, response: ServerResponse): void {
    if (connection.isOver) return void response.writeHead(204).end()
    if (connection.outlet === null) {
      connection.outlet = {
        name: 'LongPolling',
        send(text) {
          connection.waiting += text
          flush(connection)
        },
        close: () => void connection.poll?.writeHead(204).end(),
      }
      response.end()
      return
    }
    response.on('close', () => {
      if (connection.poll === response) connection.poll = null
    })
    connection.poll = response
    flush(connection)
  }

  function flush(connection: Connection): void {
    if (connection.poll === null || connection.waiting === '') return
    connection.poll.setHeader('Content-Type', 'text/plain')
    connection.poll.end(connection.waiting)
    connection.poll = null
    connection.waiting = ''
  }

  async function receive(connection: Connection, request: IncomingMessage, response: ServerResponse) {
    const chunks: Buffer[] = []
    try {
      for await (const chunk of request) chunks.push(chunk as Buffer)
    } catch {
      // Its sender has gone, or the site was killed.
      return
    }
    hear(connection, Buffer.concat(chunks).toString())
    response.setHeader('Content-Type', 'text/plain')
    response.end()
  }

  function leave(connection: Connection, response: ServerResponse): void {
    end(connection)
    response.writeHead(202).end()
  }

  function hear(connection: Connection, text: string): void {
    const messages = (connection.heard + text).split(SEPARATOR)
    connection.heard = messages.pop() ?? ''
    for (const message of messages) {
      if (connection.isGreeted) obey(connection, JSON.parse(message) as Message)
      else greet(connection, JSON.parse(message) as { readonly protocol: string; readonly version: number })
    }
  }

  function greet(connection: Connection, { protocol, version }: { protocol: string; version: number }): void {
    connection.isGreeted = protocol === 'json' && version === 1
    tell(connection, connection.isGreeted ? {} : { error: `The protocol '${protocol}' is not supported.` })
    if (!connection.isGreeted) end(connection)
  }

  function obey(connection: Connection, message: Message): void {
    const { type, invocationId, target = '', arguments: given = [] } = message
    if (type === 7) end(connection)
    if (type !== 1) return
    const [text = ''] = given.map(String)
    const complete = (result: object) => {
      if (invocationId !== undefined) tell(connection, { type: 3, invocationId, ...result })
    }
    if (target === 'whoAreYou') complete({ result: `${name} by ${connection.outlet?.name}` })
    else if (target === 'fail') complete({ error: text })
    else if (target === 'leave') {
      tell(connection, { type: 7 })
      end(connection)
    } else if (target === 'shout') {
      for (const one of connections.values()) {
        if (one.isGreeted) tell(one, { type: 1, target: 'heard', arguments: [text] })
      }
      complete({ result: null })
    } else complete({ error: `Unknown hub method '${target}'` })
  }

  function tell({ outlet }: Connection, message: object): void {
    outlet?.send(JSON.stringify(message) + SEPARATOR)
  }

  function end(connection: Connection): void {
    if (connection.isOver) return
    connection.isOver = true
    connection.isGreeted = false
    connection.outlet?.close()
    for (const [token, one] of connections) if (one === connection) connections.delete(token)
  }

  return {
    answer,
    upgrade,
    close() {
      clearInterval(pings)
      for (const connection of connections.values()) end(connection)
    },
  }
}

function newConnection(): Connection {
  return { outlet: null, waiting: '', poll: null, isGreeted: false, isOver: false, heard: '' }
}

function refuse(response: ServerResponse, hasId: boolean): void {
  if (hasId) response.writeHead(404).end('No Connection with that ID')
  else response.writeHead(400).end('Connection ID required')
}

function urlOf({ url = '' }: IncomingMessage): URL {
  return new URL(url, 'http://hub')
}
