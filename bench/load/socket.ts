// A wire on a node socket: for TLS, and where bare descriptors can't be had.

import { once } from 'node:events'
import type { AddressInfo, Socket } from 'node:net'
import { connect, createServer } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { connect as connectTls } from 'node:tls'
import type { Address, Reader, Wire } from './wire.ts'

class SocketWire implements Wire {
  readonly #socket: Socket | TLSSocket
  reader: Reader
  #isOver = false

  constructor(socket: Socket, reader: Reader) {
    this.#socket = socket
    this.reader = reader
    socket.on('data', (chunk: Buffer) => this.reader.received(chunk, chunk.length))
    socket.on('drain', () => this.reader.writable())
    socket.on('end', () => this.reader.ended())
    socket.on('error', (error) => this.#fail(error))
    socket.on('close', () => this.#fail(new Error('the connection was closed')))
  }

  send(bytes: Buffer, length: number): number {
    if (this.#socket.writableNeedDrain) return 0
    this.#socket.write(Buffer.from(bytes.subarray(0, length)))
    return length
  }

  pause(): void {
    this.#socket.pause()
  }

  resume(): void {
    this.#socket.resume()
  }

  end(): void {
    this.#socket.end()
  }

  close(): void {
    this.#isOver = true
    this.#socket.end()
  }

  reset(): void {
    this.#isOver = true
    // Node can't reset below TLS.
    if ('encrypted' in this.#socket) this.#socket.destroy()
    else this.#socket.resetAndDestroy()
  }

  #fail(error: Error): void {
    if (this.#isOver) return
    this.#isOver = true
    this.reader.failed(error)
  }
}

export function dialSocket(to: Address, source: string, tls: boolean, reader: Reader): Wire {
  const place = { ...to, localAddress: source, noDelay: true, allowHalfOpen: true }
  // The certificate is the benchmark's own, made for this run.
  const socket = tls
    ? connectTls({ ...place, rejectUnauthorized: false, ALPNProtocols: ['http/1.1'] })
    : connect(place)
  socket.setNoDelay(true)
  const wire = new SocketWire(socket, reader)
  socket.once(tls ? 'secureConnect' : 'connect', () => wire.reader.opened())
  return wire
}

/** Accepts for good; resolves with the port. */
export async function listenSocket(host: string, accepted: (wire: Wire) => Reader): Promise<number> {
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    const wire: SocketWire = new SocketWire(socket, nobody)
    wire.reader = accepted(wire)
  })
  server.listen({ host, port: 0, backlog: 4_096 })
  await once(server, 'listening')
  return (server.address() as AddressInfo).port
}

const nobody: Reader = { opened() {}, received() {}, writable() {}, ended() {}, failed() {} }
