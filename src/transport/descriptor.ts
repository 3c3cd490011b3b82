// A transport on a bare descriptor of a TCP connection, without a node socket above it: what a connection needs on the
// way to its tunnel, for a few system calls and one small object.

import { Socket } from 'node:net'
import {
  EAGAIN,
  ECONNRESET,
  EPOLLERR,
  EPOLLHUP,
  EPOLLIN,
  EPOLLOUT,
  EPOLLRDHUP,
  LINGER_RST,
  MSG_NOSIGNAL,
  SHUT_WR,
  SO_ERROR,
  SO_LINGER,
  SOL_SOCKET,
  systemError,
} from '../linux/libc.ts'
import type { Loop, Watcher } from '../linux/loop.ts'
import { CONNECTION_EDGES } from '../linux/loop.ts'
import { nodeTransport } from './node.ts'
import type { Detached, Reader, Released, Transport } from './transport.ts'

/** Shared by all: what is read is copied out at once. */
const SCRATCH = Buffer.allocUnsafeSlow(64 * 1024)

/** How often one connection is read before the others have their turn. */
const READS_PER_TURN = 8

/** Takes over a connected, non-blocking socket that nobody watches. From now on the transport closes it. */
export function descriptorTransport(loop: Loop, descriptor: number): Transport {
  const transport = new DescriptorTransport(loop, descriptor)
  if (!loop.watch(descriptor, transport, CONNECTION_EDGES)) transport.fail(loop.calls.errno(), 'epoll_ctl')
  return transport
}

/** The same for one that the caller watches already, with all edges of a connection; `events`: what it has been told. */
export function watchedTransport(loop: Loop, descriptor: number, events = 0): Transport {
  const transport = new DescriptorTransport(loop, descriptor)
  loop.pass(descriptor, transport)
  transport.ready(events)
  return transport
}

class DescriptorTransport implements Transport, Watcher {
  readonly loop: Loop
  readonly descriptor: number
  reader: Reader | null = null
  /** What the system did not take yet, in order. */
  unsent: Uint8Array[] = []
  isPaused = true
  isReadScheduled = false
  /** There may be something to read; at first nobody knows. */
  isReadable = true
  /** An edge told of a FIN or an error, which stands behind the bytes and has no edge of its own when they are read. */
  hasEndAhead = false
  /** The other side's FIN was read. */
  hasEnded = false
  /** `end` was called. */
  isEnding = false
  /** Our FIN is on its way. */
  isFinished = false
  isClosed = false
  isClosedTold = false
  error: NodeJS.ErrnoException | undefined = undefined

  constructor(loop: Loop, descriptor: number) {
    this.loop = loop
    this.descriptor = descriptor
  }

  attach(reader: Reader): void {
    this.reader = reader
    if (this.hasEnded) reader.end()
    if (this.isClosedTold) reader.closed(this.error)
    else this.resume()
  }

  pause(): void {
    this.isPaused = true
  }

  resume(): void {
    this.isPaused = false
    this.#readSoon()
  }

  write(bytes: Uint8Array | string): boolean {
    if (this.isClosed || this.isEnding) return true
    const chunk = typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes
    if (this.unsent.length > 0) this.unsent.push(chunk)
    else this.#send(chunk)
    return this.unsent.length === 0
  }

  end(): void {
    if (this.isClosed || this.isEnding) return
    this.isEnding = true
    if (this.unsent.length === 0) this.#finish()
  }

  reset(): void {
    if (this.isClosed) return
    this.loop.calls.setsockopt(this.descriptor, SOL_SOCKET, SO_LINGER, LINGER_RST, LINGER_RST.byteLength)
    this.destroy()
  }

  destroy(): void {
    if (this.isClosed) return
    this.loop.unwatch(this.descriptor)
    this.loop.calls.close(this.descriptor)
    this.isClosed = true
    this.unsent = []
    process.nextTick(tellClosed, this)
  }

  release(): Released {
    const { unsent } = this
    this.#letGo()
    const socket = new Socket({ fd: this.descriptor, readable: true, writable: true, allowHalfOpen: true })
    const transport = nodeTransport(socket)
    for (const chunk of unsent) socket.write(chunk)
    return transport.release()
  }

  get isDetachable(): boolean {
    return !this.isClosed && !this.isEnding && this.unsent.length === 0
  }

  // Whatever arrives waits in the system, and nothing was read that was not told.
  detach(): Detached {
    this.#letGo()
    return { descriptor: this.descriptor, unread: [] }
  }

  // What the loop tells.

  ready(events: number): void {
    if (events & EPOLLOUT && this.unsent.length > 0) this.#flush()
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
      this.isReadable = true
      if (events & ~(EPOLLIN | EPOLLOUT)) this.hasEndAhead = true
      this.#read()
    }
    // A RST behind a FIN: reading says nothing of it (SOCK_DONE).
    if (events & EPOLLERR && this.hasEnded && !this.isClosed) this.fail(this.#pendingError(), 'read')
  }

  #read(): void {
    for (let count = 0; count < READS_PER_TURN; count += 1) {
      if (this.isPaused || !this.isReadable || this.isClosed || this.hasEnded) return
      this.#readOnce()
    }
    setImmediate(readScheduled, this)
    this.isReadScheduled = true
  }

  #readOnce(): void {
    const { calls } = this.loop
    const size = calls.recv(this.descriptor, SCRATCH, SCRATCH.length, 0)
    if (size > 0) {
      // A short read has emptied it, and what comes later has an edge (epoll(7)). One that ends at TCP's urgent mark has not:
      // what is behind that waits for the next edge (tcp(7), MSG_OOB).
      if (size < SCRATCH.length && !this.hasEndAhead) this.isReadable = false
      this.reader?.data(Buffer.from(SCRATCH.subarray(0, size)))
    } else if (size === 0) {
      this.hasEnded = true
      this.reader?.end()
      this.#closeIfOver()
    } else if (calls.errno() === EAGAIN) {
      this.isReadable = false
    } else {
      this.fail(calls.errno(), 'read')
    }
  }

  #send(chunk: Uint8Array): void {
    const { calls } = this.loop
    const sent = calls.send(this.descriptor, chunk, chunk.length, MSG_NOSIGNAL)
    if (sent === chunk.length) return
    if (sent >= 0) this.unsent.unshift(chunk.subarray(sent))
    else if (calls.errno() === EAGAIN) this.unsent.unshift(chunk)
    else this.fail(calls.errno(), 'write')
  }

  #flush(): void {
    let chunk = this.unsent.shift()
    while (chunk !== undefined) {
      const before = this.unsent.length
      this.#send(chunk)
      if (this.isClosed || this.unsent.length > before) return
      chunk = this.unsent.shift()
    }
    if (this.isEnding) this.#finish()
    this.reader?.drain()
  }

  #finish(): void {
    this.isFinished = true
    this.loop.calls.shutdown(this.descriptor, SHUT_WR)
    this.#closeIfOver()
  }

  #closeIfOver(): void {
    if (this.hasEnded && this.isFinished) this.destroy()
  }

  /** The reader is told later, in no call of its own. */
  fail(number: number, call: string): void {
    this.error = systemError(number, call)
    this.destroy()
  }

  #pendingError(): number {
    const { calls } = this.loop
    calls.getsockopt(this.descriptor, SOL_SOCKET, SO_ERROR, PENDING, PENDING_SIZE)
    return PENDING[0] || ECONNRESET
  }

  readScheduled(): void {
    this.isReadScheduled = false
    this.#read()
  }

  closeTold(): void {
    const { reader } = this
    this.isClosedTold = true
    this.reader = null
    reader?.closed(this.error)
  }

  /** Never inside a call of the owner's, who would be told while it still asks. */
  #readSoon(): void {
    if (this.isReadScheduled || !this.isReadable || this.isClosed) return
    this.isReadScheduled = true
    process.nextTick(readScheduled, this)
  }

  #letGo(): void {
    this.loop.unwatch(this.descriptor)
    this.isClosed = true
    this.reader = null
  }
}

const PENDING = new Int32Array(1)
const PENDING_SIZE = new Uint32Array([PENDING.byteLength])

function readScheduled(transport: DescriptorTransport): void {
  transport.readScheduled()
}

function tellClosed(transport: DescriptorTransport): void {
  transport.closeTold()
}
