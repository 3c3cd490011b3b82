// A wire on a bare descriptor: no node socket, no stream, no copy. Reading a small message and sending one are a system call
// each and nothing more.

import type { Libc } from '../../src/linux/libc.ts'
import {
  AF_INET,
  EAGAIN,
  EINPROGRESS,
  EMFILE,
  EPOLLIN,
  EPOLLOUT,
  IP_BIND_ADDRESS_NO_PORT,
  IPPROTO_IP,
  IPPROTO_TCP,
  LINGER_RST,
  MSG_NOSIGNAL,
  SHUT_WR,
  SO_ERROR,
  SO_LINGER,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  SOL_SOCKET,
  systemError,
  TCP_NODELAY,
} from '../../src/linux/libc.ts'
import { endpointOf, SOCKADDR_SIZE, sockaddrOf } from '../../src/linux/sockaddr.ts'
import type { Loop, Watcher } from './loop.ts'
import type { Address, Reader, Wire } from './wire.ts'

/** What arrives is looked at, at once, and never kept: one buffer for all. */
const SCRATCH = Buffer.allocUnsafeSlow(256 * 1024)
const ONE = new Int32Array([1])
const NUMBER = new Int32Array(1)
const NUMBER_SIZE = new Uint32Array([4])
const BACKLOG = 4_096
const ACCEPTS_PER_TURN = 64
const SOCKET = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC

class DescriptorWire implements Wire, Watcher {
  readonly #loop: Loop
  readonly #fd: number
  reader: Reader
  #isOpen: boolean
  #isClosed = false
  #events: number

  constructor(loop: Loop, fd: number, reader: Reader, isOpen: boolean) {
    this.#loop = loop
    this.#fd = fd
    this.reader = reader
    this.#isOpen = isOpen
    this.#events = isOpen ? EPOLLIN : EPOLLOUT
    loop.watch(fd, this, this.#events)
  }

  ready(events: number): void {
    if (!this.#isOpen) {
      this.#finishConnect()
      return
    }
    if ((events & EPOLLOUT) !== 0) {
      this.#watch(this.#events & ~EPOLLOUT)
      this.reader.writable()
    }
    // Errors and hang-ups are read, too.
    if ((events & ~EPOLLOUT) !== 0 && !this.#isClosed) this.#read()
  }

  send(bytes: Buffer, length: number): number {
    const sent = this.#loop.calls.send(this.#fd, bytes, length, MSG_NOSIGNAL)
    if (sent === length) return sent
    if (sent === -1) {
      const number = this.#loop.calls.errno()
      if (number !== EAGAIN) {
        this.#fail(number, 'send')
        return 0
      }
    }
    this.#watch(this.#events | EPOLLOUT)
    return Math.max(0, sent)
  }

  pause(): void {
    this.#watch(this.#events & ~EPOLLIN)
  }

  resume(): void {
    this.#watch(this.#events | EPOLLIN)
  }

  end(): void {
    this.#loop.calls.shutdown(this.#fd, SHUT_WR)
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#loop.unwatch(this.#fd)
    this.#loop.calls.close(this.#fd)
  }

  reset(): void {
    if (this.#isClosed) return
    const { calls } = this.#loop
    calls.setsockopt(this.#fd, SOL_SOCKET, SO_LINGER, LINGER_RST, LINGER_RST.byteLength)
    this.close()
  }

  #watch(events: number): void {
    if (events === this.#events || this.#isClosed) return
    this.#events = events
    this.#loop.change(this.#fd, events)
  }

  #finishConnect(): void {
    this.#loop.calls.getsockopt(this.#fd, SOL_SOCKET, SO_ERROR, NUMBER, NUMBER_SIZE)
    const [number = 0] = NUMBER
    if (number !== 0) {
      this.#fail(number, 'connect')
      return
    }
    this.#isOpen = true
    this.#watch(EPOLLIN)
    this.reader.opened()
  }

  /** One call: a longer one of another connection is not to wait. */
  #read(): void {
    const length = this.#loop.calls.recv(this.#fd, SCRATCH, SCRATCH.length, 0)
    if (length > 0) {
      this.reader.received(SCRATCH, length)
      return
    }
    if (length === 0) {
      this.#watch(this.#events & ~EPOLLIN)
      this.reader.ended()
      return
    }
    const number = this.#loop.calls.errno()
    if (number !== EAGAIN) this.#fail(number, 'recv')
  }

  #fail(number: number, call: string): void {
    this.close()
    this.reader.failed(systemError(number, call))
  }
}

/** `source`: which address of this machine to come from; its port is chosen when the destination is known. */
export function dialDescriptor(loop: Loop, to: Address, source: string, reader: Reader): Wire {
  const { calls } = loop
  const fd = newSocket(calls)
  setOne(calls, fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT)
  const local = sockaddrOf(calls, { address: source, port: 0 })
  if (calls.bind(fd, local, local.length) === -1) throw systemError(calls.errno(), `bind ${source}`)
  setOne(calls, fd, IPPROTO_TCP, TCP_NODELAY)
  const remote = sockaddrOf(calls, { address: to.host, port: to.port })
  if (calls.connect(fd, remote, remote.length) === -1 && calls.errno() !== EINPROGRESS) {
    throw systemError(calls.errno(), `connect ${to.host}:${to.port} from ${source}`)
  }
  return new DescriptorWire(loop, fd, reader, false)
}

/** Accepts for good, on a port that the system chooses, which it returns. */
export function listenDescriptor(loop: Loop, host: string, accepted: (wire: Wire) => Reader): number {
  const { calls } = loop
  const listener = newSocket(calls)
  const address = sockaddrOf(calls, { address: host, port: 0 })
  // Accepted connections inherit it.
  setOne(calls, listener, IPPROTO_TCP, TCP_NODELAY)
  if (calls.bind(listener, address, address.length) === -1) throw systemError(calls.errno(), 'bind')
  if (calls.listen(listener, BACKLOG) === -1) throw systemError(calls.errno(), 'listen')
  loop.watch(listener, { ready: () => acceptAll(loop, listener, accepted) }, EPOLLIN)
  const bound = Buffer.alloc(SOCKADDR_SIZE)
  calls.getsockname(listener, bound, new Uint32Array([bound.length]))
  return endpointOf(calls, bound).port
}

function acceptAll(loop: Loop, listener: number, accepted: (wire: Wire) => Reader): void {
  for (let count = 0; count < ACCEPTS_PER_TURN; count += 1) {
    const fd = loop.calls.accept4(listener, null, null, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if (fd === -1) {
      const number = loop.calls.errno()
      if (number === EMFILE) throw systemError(number, 'accept4: this origin has too many connections')
      return
    }
    const wire = new DescriptorWire(loop, fd, nobody, true)
    wire.reader = accepted(wire)
  }
}

/** In the moment between a wire and whoever reads it nothing happens. */
const nobody: Reader = { opened() {}, received() {}, writable() {}, ended() {}, failed() {} }

function newSocket(calls: Libc): number {
  const fd = calls.socket(AF_INET, SOCKET, 0)
  if (fd === -1) throw systemError(calls.errno(), 'socket')
  return fd
}

function setOne(calls: Libc, fd: number, level: number, option: number): void {
  calls.setsockopt(fd, level, option, ONE, ONE.byteLength)
}
