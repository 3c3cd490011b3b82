// One attempt to connect to one address: by a node socket, or by a bare descriptor that needs no node socket above it.

import type { Socket } from 'node:net'
import { connect, isIP } from 'node:net'
import {
  AF_INET,
  AF_INET6,
  EINPROGRESS,
  EPOLLERR,
  EPOLLHUP,
  IP_BIND_ADDRESS_NO_PORT,
  IPPROTO_IP,
  SO_ERROR,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  SOL_SOCKET,
  systemError,
} from '../linux/libc.ts'
import type { Loop, Watcher } from '../linux/loop.ts'
import { CONNECTION_EDGES } from '../linux/loop.ts'
import { sockaddrOf } from '../linux/sockaddr.ts'
import type { TcpOptions } from '../linux/tuning.ts'
import { tune } from '../linux/tuning.ts'
import { watchedTransport } from '../transport/descriptor.ts'
import type { Transport } from '../transport/transport.ts'

/** Where to, and from which address if not any. */
export type Place =
  | { readonly path: string }
  | { readonly address: string; readonly port: number; readonly local: string | undefined }

/**
 * Starts to connect. Later, exactly one of the two is called, unless the attempt was given up, by the function that it
 * returns: then nothing of it is left.
 */
export type Attempt<Connection> = (
  place: Place,
  won: (connection: Connection) => void,
  failed: (error: NodeJS.ErrnoException) => void,
) => () => void

/** By node. The socket has no listeners of ours. */
export function nodeAttempt(options: TcpOptions): Attempt<Socket> {
  const { keepaliveMs } = options
  const common = { noDelay: true, keepAlive: true, keepAliveInitialDelay: keepaliveMs, allowHalfOpen: true }
  return (place, won, failed) => {
    const socket = connect({ ...common, ...('path' in place ? place : nodePlace(place)) })
    const connected = () => {
      socket.off('error', failed)
      won(socket)
    }
    socket.once('connect', connected)
    socket.once('error', failed)
    return () => {
      // Its end is nobody's business any more, its error neither.
      socket.off('connect', connected).off('error', failed).on('error', ignore)
      socket.destroy()
    }
  }
}

function nodePlace({ address, port, local }: Exclude<Place, { readonly path: string }>) {
  return { host: address, port, ...(local === undefined ? {} : { localAddress: local }) }
}

function ignore(): void {}

/** By the system alone; for TCP places without a zone. */
export function descriptorAttempt(loop: Loop, options: TcpOptions): Attempt<Transport> {
  return (place, won, failed) => {
    if ('path' in place) throw new TypeError('a Unix socket is not dialled as a descriptor')
    const attempt = new Connecting(loop, won, failed)
    attempt.start(place, options)
    return () => attempt.giveUp()
  }
}

/** Whether a descriptor can be connected to it: the zone of a link-local address is left to node. */
export function suitsDescriptor(place: Place): boolean {
  return 'address' in place && !place.address.includes('%')
}

class Connecting implements Watcher {
  readonly loop: Loop
  readonly won: (connection: Transport) => void
  readonly failed: (error: NodeJS.ErrnoException) => void
  descriptor = -1
  isOver = false

  constructor(loop: Loop, won: Connecting['won'], failed: Connecting['failed']) {
    this.loop = loop
    this.won = won
    this.failed = failed
  }

  start(place: Exclude<Place, { readonly path: string }>, options: TcpOptions): void {
    const { calls } = this.loop
    const family = isIP(place.address) === 6 ? AF_INET6 : AF_INET
    this.descriptor = calls.socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if (this.descriptor === -1) return void this.#fail(calls.errno(), 'socket')
    tune(calls, this.descriptor, options)
    if (place.local !== undefined && !this.#bind(place.local)) return
    const address = sockaddrOf(calls, place)
    const result = calls.connect(this.descriptor, address, address.length)
    if (result === -1 && calls.errno() !== EINPROGRESS) return void this.#fail(calls.errno(), 'connect')
    if (!this.loop.watch(this.descriptor, this, CONNECTION_EDGES)) this.#fail(calls.errno(), 'epoll_ctl')
  }

  /** The port is chosen when the destination is known: one address has some 28,000 for each (ip(7)). */
  #bind(local: string): boolean {
    const { calls } = this.loop
    calls.setsockopt(this.descriptor, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, ONE, ONE.byteLength)
    const address = sockaddrOf(calls, { address: local, port: 0 })
    if (calls.bind(this.descriptor, address, address.length) === 0) return true
    this.#fail(calls.errno(), 'bind')
    return false
  }

  /** Connected, or not: whatever event comes, it is over (connect(2), EINPROGRESS). */
  ready(events: number): void {
    const error = events & (EPOLLERR | EPOLLHUP) ? this.#error() : 0
    if (error !== 0) this.loop.unwatch(this.descriptor)
    if (error !== 0) return void this.#fail(error, 'connect')
    this.isOver = true
    // The same edge may tell of the other side's end.
    this.won(watchedTransport(this.loop, this.descriptor, events))
  }

  #error(): number {
    this.loop.calls.getsockopt(this.descriptor, SOL_SOCKET, SO_ERROR, ERROR, ERROR_SIZE)
    return ERROR[0] as number
  }

  giveUp(): void {
    if (this.isOver) return
    this.isOver = true
    if (this.descriptor === -1) return
    this.loop.unwatch(this.descriptor)
    this.loop.calls.close(this.descriptor)
  }

  /** Told later, since it may come inside `start`. Nothing watches the descriptor here. */
  #fail(number: number, call: string): void {
    if (this.descriptor !== -1) this.loop.calls.close(this.descriptor)
    this.descriptor = -1
    process.nextTick(tellFailed, this, systemError(number, call))
  }

  tell(error: NodeJS.ErrnoException): void {
    if (this.isOver) return
    this.isOver = true
    this.failed(error)
  }
}

const ONE = new Int32Array([1])
const ERROR = new Int32Array(1)
const ERROR_SIZE = new Uint32Array([ERROR.byteLength])

function tellFailed(attempt: Connecting, error: NodeJS.ErrnoException): void {
  attempt.tell(error)
}
