// A transport on a node socket: TCP, TLS or Unix.
// No closure per socket: the listeners stand at the foot of the file and find their transport through a symbol.

import type { Server, Socket } from 'node:net'
import { F_DUPFD_CLOEXEC, libc } from '../linux/libc.ts'
import type { Detached, Reader, Released, Transport } from './transport.ts'

const kTransport = Symbol('transport')

type OwnedSocket = Socket & { [kTransport]: NodeTransport }

/**
 * Takes over `socket`, which must be paused and have no reader. From now on the transport closes it.
 * `wire` is the TCP socket below a TLS socket: only there a RST can be sent.
 */
export function nodeTransport(socket: Socket, wire: Socket = socket): Transport {
  return new NodeTransport(socket as OwnedSocket, wire)
}

class NodeTransport implements Transport {
  readonly socket: OwnedSocket
  readonly wire: Socket
  reader: Reader | null = null
  error: NodeJS.ErrnoException | undefined = undefined

  constructor(socket: OwnedSocket, wire: Socket) {
    this.socket = socket
    this.wire = wire
    forgetPeer(wire)
    socket[kTransport] = this
    this.retake()
  }

  get isClosed(): boolean {
    return this.socket.destroyed
  }

  attach(reader: Reader): void {
    this.reader = reader
    const { socket } = this
    if (socket.readableEnded) reader.end()
    if (socket.closed) reader.closed(this.error)
    else socket.resume()
  }

  pause(): void {
    this.socket.pause()
  }

  resume(): void {
    this.socket.resume()
  }

  write(bytes: Uint8Array | string): boolean {
    const { socket } = this
    if (!socket.writable) return true
    return typeof bytes === 'string' ? socket.write(bytes, 'latin1') : socket.write(bytes)
  }

  end(): void {
    if (this.socket.writable) this.socket.end()
  }

  reset(): void {
    const { socket, wire } = this
    if (socket.destroyed) return
    // A Unix socket has no peer address and knows no RST.
    if (peerOf(wire) === undefined) socket.destroy()
    else if (wire === socket) socket.resetAndDestroy()
    else resetBelowTls(socket, wire)
  }

  destroy(): void {
    this.socket.destroy()
  }

  release(): Released {
    const { socket } = this
    socket.pause()
    socket.off('data', socketOnData)
    socket.off('end', socketOnEnd)
    socket.off('drain', socketOnDrain)
    socket.off('error', socketOnError)
    socket.off('close', socketOnClose)
    this.reader = null
    return {
      socket,
      retake: () => {
        this.retake()
        return this
      },
      reset: () => this.reset(),
    }
  }

  // Without TLS, and with an address, which Unix sockets have not. A FIN that was read before is read again.
  get isDetachable(): boolean {
    const { socket } = this
    return (
      this.wire === socket &&
      socket.writable &&
      socket.writableLength === 0 &&
      socket.localAddress !== undefined
    )
  }

  /**
   * In this order no byte is lost or overtaken: the duplicate shares the connection and what it still brings; paused and
   * without listeners, what node had read is taken out; only then libuv closes its own descriptor, which sends nothing
   * as long as the duplicate is open (close(2)). All of it in one turn, in which node reads nothing.
   */
  detach(): Detached | null {
    const { socket } = this
    const descriptor = libc().fcntl(descriptorOf(socket), F_DUPFD_CLOEXEC, 0)
    if (descriptor === -1) return null
    this.release()
    socket.on('error', ignore)
    const unread: Buffer[] = []
    for (let chunk = socket.read(); chunk !== null; chunk = socket.read()) unread.push(chunk)
    socket.destroy()
    return { descriptor, unread }
  }

  retake(): void {
    const { socket } = this
    // Paused by hand first, since on('data') starts the flow otherwise.
    socket.pause()
    socket.on('data', socketOnData)
    socket.on('end', socketOnEnd)
    socket.on('drain', socketOnDrain)
    socket.on('error', socketOnError)
    socket.on('close', socketOnClose)
  }
}

/** The raw socket's close takes the TLS socket with it; TLS itself has no RST and cannot send one. */
function resetBelowTls(socket: Socket, wire: Socket): void {
  wire.resetAndDestroy()
  socket.destroy()
}

/** Node has no public name for it: the takeover and the options that node has no names for need it, and nobody else. */
export function descriptorOf(owner: Socket | Server): number {
  return (owner as unknown as { readonly _handle: { readonly fd: number } })._handle.fd
}

function ignore(): void {}

function socketOnData(this: Socket, chunk: Buffer): void {
  transportOf(this).reader?.data(chunk)
}

function socketOnEnd(this: Socket): void {
  const { reader, wire } = transportOf(this)
  // After our own FIN the peer's leaves no peer either, and the connection is over both ways.
  if (!this.writableEnded && wasReset(wire)) this.destroy(new ConnectionReset())
  else reader?.end()
}

/**
 * Up to Node 22, libuv takes a RST that comes right behind bytes for an orderly end (uv__stream_io answers POLLHUP after a
 * partial read with EOF). The system knows better: what was reset has no peer any more (ENOTCONN, getpeername(2)), but
 * still a local address, which a Unix socket never has.
 */
function wasReset(wire: Socket): boolean {
  return peerOf(wire) === undefined && wire.localAddress !== undefined
}

function peerOf(wire: Socket): string | undefined {
  forgetPeer(wire)
  const address = wire.remoteAddress
  forgetPeer(wire)
  return address
}

/** Node keeps what it was told first. It may be outdated, and would cost memory as long as a tunnel lives. */
function forgetPeer(wire: Socket): void {
  ;(wire as Socket & { _peername: unknown })._peername = undefined
}

class ConnectionReset extends Error implements NodeJS.ErrnoException {
  readonly code = 'ECONNRESET'
  readonly syscall = 'read'

  constructor() {
    super('read ECONNRESET')
  }
}

function socketOnDrain(this: Socket): void {
  transportOf(this).reader?.drain()
}

function socketOnError(this: Socket, error: NodeJS.ErrnoException): void {
  transportOf(this).error = error
  // An error of an established TLS session, a broken record for example, does not close the socket by itself.
  if (!this.destroyed) this.destroy()
}

function socketOnClose(this: Socket): void {
  const transport = transportOf(this)
  const { reader } = transport
  transport.reader = null
  reader?.closed(transport.error)
}

function transportOf(socket: Socket): NodeTransport {
  return (socket as OwnedSocket)[kTransport]
}
