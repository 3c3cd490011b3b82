// The endpoint of a WebSocket in this process: frames by the package ws, on the connection that was accepted. Toward the rest
// it looks like a splicing between the client and an origin: bytes both ways as they are on the wire, an end, a stop.

import { createRequire } from 'node:module'
import type { Socket } from 'node:net'
import type { WebSocket, WebSocketServer } from 'ws'
import type { How, Who } from '../end.ts'
import { HeadraceError } from '../errors.ts'
import type { Released, Transport } from '../transport/transport.ts'
import type { Rooms, Session } from './rooms.ts'
import { createRooms } from './rooms.ts'
import type { LocalSocket, Wire } from './socket.ts'
import { kAttach, kClosed, kClosing, kError, kMessage } from './socket.ts'

export interface LocalOptions {
  /** The longest message, in bytes; a longer one ends its session with 1009. */
  readonly maxPayload: number
  /** What may wait to be sent to one client, in bytes; more ends its session with 1013. */
  readonly maxBuffered: number
  /** Offer permessage-deflate (RFC 7692). */
  readonly deflate: boolean
}

/** What code has decided to serve. */
export interface Served {
  readonly socket: LocalSocket
  /** The name of the session that it joins; null: it is alone. */
  readonly session: string | null
  readonly protocol: string | undefined
  /** More fields of the 101. */
  readonly fields: readonly (readonly [name: string, value: string])[]
  /** Told when it is open. */
  begin(socket: LocalSocket, session: Session): unknown
}

export interface Arrived {
  readonly transport: Transport
  readonly early: readonly Buffer[]
  /** Of the request: Sec-WebSocket-Key and Sec-WebSocket-Extensions. */
  readonly key: string
  readonly extensions: string
}

export interface EndpointOwner {
  /** Once, when the connection is over; never inside `open`. */
  spliceEnded(end: { readonly who: Who; readonly how: How; readonly error: string }): void
}

export interface Local {
  /**
   * Answers the handshake with a 101 and takes the connection over, which it closes in the end. `failed` is told what a
   * listener threw. Throws upgrade-invalid: then ws has answered, and closes.
   */
  open(
    arrived: Arrived,
    served: Served,
    owner: EndpointOwner,
    failed: (error: unknown) => void,
  ): LocalSplicing
}

/** After a close frame of ours, how long the client may take to answer it, in ms. */
const CLOSE_TIMEOUT_MS = 5_000
/** The same when an operator ends it, or it does not read. */
const STOP_TIMEOUT_MS = 2_000

// RFC 6455 section 7.4.1, and IANA's registry.
const GOING_AWAY = 1001
const INTERNAL_ERROR = 1011
const TRY_AGAIN_LATER = 1013

/** What ws looks at of a request, and what is for ours to find again. */
interface Handshake {
  readonly method: 'GET'
  readonly url: '/'
  readonly headers: Readonly<Record<string, string>>
  readonly fields: Served['fields']
  headSize: number
}

export function createLocal(options: LocalOptions): Local {
  const { maxBuffered } = options
  const rooms = createRooms()
  let server: WebSocketServer | null = null

  return {
    open({ transport, early, key, extensions }, served, owner, failed) {
      const handshake: Handshake = {
        method: 'GET',
        url: '/',
        headers: {
          upgrade: 'websocket',
          'sec-websocket-key': key,
          'sec-websocket-version': '13',
          ...(served.protocol === undefined ? {} : { 'sec-websocket-protocol': served.protocol }),
          ...(extensions === '' ? {} : { 'sec-websocket-extensions': extensions }),
        },
        fields: served.fields,
        headSize: 0,
      }
      const released = transport.release()
      const { socket } = released
      const head = Buffer.concat(early)
      const before = {
        read: socket.bytesRead - socket.readableLength - head.length,
        written: socket.bytesWritten,
      }
      const opened: WebSocket[] = []
      server ??= createServer(options)
      server.handleUpgrade(handshake as never, socket, head, (one) => opened.push(one))
      const [ws] = opened
      if (ws === undefined) throw new HeadraceError('upgrade-invalid', 'Sec-WebSocket-Extensions')
      const written = before.written + handshake.headSize
      const counted = { read: before.read, written, headSize: handshake.headSize }
      const parts = { ws, released, served, rooms, owner, failed, maxBuffered }
      const splicing = new LocalSplicing(parts, counted)
      splicing.begin()
      socket.resume()
      return splicing
    },
  }
}

const require = createRequire(import.meta.url)

/** By the first session: most services have none, and no start should wait for ws. */
function createServer({ maxPayload, deflate }: LocalOptions): WebSocketServer {
  const { WebSocketServer: Server } = require('ws') as typeof import('ws')
  const server = new Server({
    noServer: true,
    clientTracking: false,
    maxPayload,
    perMessageDeflate: deflate,
    closeTimeout: CLOSE_TIMEOUT_MS,
  } as ConstructorParameters<typeof Server>[0])
  server.on('headers', (lines, request) => {
    const handshake = request as unknown as Handshake
    for (const [name, value] of handshake.fields) lines.push(`${name}: ${value}`)
    handshake.headSize = lines.reduce((size, line) => size + line.length + 2, 2)
  })
  return server
}

interface Parts {
  readonly ws: WebSocket
  readonly released: Released
  readonly served: Served
  readonly rooms: Rooms
  readonly owner: EndpointOwner
  readonly failed: (error: unknown) => void
  readonly maxBuffered: number
}

export class LocalSplicing implements Wire {
  readonly engine = 'stream'
  /** Bytes of the 101. */
  readonly headSize: number
  readonly #parts: Parts
  readonly #wire: Socket
  readonly #read: number
  readonly #written: number
  #end: { readonly who: Who; readonly how: How; readonly error: string } | null = null

  constructor(
    parts: Parts,
    counted: { readonly read: number; readonly written: number; readonly headSize: number },
  ) {
    this.#parts = parts
    this.#wire = parts.released.socket
    this.#read = counted.read
    this.#written = counted.written
    this.headSize = counted.headSize
  }

  /** From here on messages come; what is sent inside is behind the 101. */
  begin(): void {
    const { ws, served, rooms } = this.#parts
    const { socket, session } = served
    ws.on('message', (data, isBinary) => socket[kMessage](data as Buffer, isBinary))
    ws.on('error', (error) => {
      this.#end ??= { who: 'client', how: 'error', error: codeOf(error) }
      socket[kError](error)
    })
    ws.on('close', (code, reason) => this.#closed(code, reason.toString()))
    this.#wire.on('error', (error) => {
      const code = codeOf(error)
      this.#end ??= { who: 'client', how: RESETS.has(code) ? 'reset' : 'error', error: code }
    })
    // A FIN with no close frame before it comes from another worker, or from a client that has left.
    this.#wire.prependListener('end', () => {
      this.#end ??= { who: 'client', how: 'fin', error: '' }
      socket[kClosing]()
      ws.close(GOING_AWAY)
    })
    const room = session === null ? alone(socket) : rooms.enter(session, socket)
    socket[kAttach](this)
    try {
      const result = served.begin(socket, room)
      if (result instanceof Promise) result.catch((error: unknown) => this.failed(error))
    } catch (error) {
      this.failed(error)
    }
  }

  get clientToOrigin(): number {
    return this.#wire.bytesRead - this.#read
  }

  get originToClient(): number {
    return this.#wire.bytesWritten - this.#written
  }

  stop(how: 'fin' | 'reset'): void {
    this.#end ??= { who: 'operator', how, error: '' }
    if (how === 'reset') this.#parts.released.reset()
    else this.#leave(GOING_AWAY, '')
  }

  // What the socket above asks for.

  get protocol(): string {
    return this.#parts.ws.protocol
  }

  get extensions(): string {
    return this.#parts.ws.extensions
  }

  get bufferedAmount(): number {
    return this.#parts.ws.bufferedAmount
  }

  send(data: string | Uint8Array): void {
    const { ws, maxBuffered } = this.#parts
    ws.send(data)
    if (ws.bufferedAmount <= maxBuffered || this.#end !== null) return
    this.#end = { who: 'client', how: 'timeout', error: 'ENOBUFS' }
    this.#leave(TRY_AGAIN_LATER, 'too slow')
  }

  close(code: number | undefined, reason: string | undefined): void {
    this.#end ??= { who: 'origin', how: 'fin', error: '' }
    this.#parts.ws.close(code, reason)
  }

  failed(error: unknown): void {
    this.#parts.failed(error)
    this.#end ??= { who: 'origin', how: 'error', error: '' }
    this.#leave(INTERNAL_ERROR, '')
  }

  #leave(code: number, reason: string): void {
    const { ws, served } = this.#parts
    served.socket[kClosing]()
    ws.close(code, reason)
    setTimeout(() => ws.terminate(), STOP_TIMEOUT_MS).unref()
  }

  #closed(code: number, reason: string): void {
    const { served, rooms, owner } = this.#parts
    const { socket, session } = served
    if (session !== null) rooms.leave(session, socket)
    socket[kClosed](code, reason)
    owner.spliceEnded(this.#end ?? { who: 'client', how: 'fin', error: '' })
  }
}

const RESETS = new Set(['ECONNRESET', 'EPIPE'])

function alone(socket: LocalSocket): Session {
  return { name: '', sockets: new Set([socket]), state: {} }
}

function codeOf(error: NodeJS.ErrnoException): string {
  return error.code ?? error.message
}
