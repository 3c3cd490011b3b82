// Accepting without node's sockets: connections come out as bare descriptors, with the address that accept4(2) told.
//
//   listening ──out of descriptors──▶ paused ──PAUSE_MS──▶ listening        close() ──▶ closed, from both

import {
  EAGAIN,
  ECONNABORTED,
  EINTR,
  EMFILE,
  ENFILE,
  ENOBUFS,
  ENOMEM,
  ENOSPC,
  EPOLLIN,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  systemError,
} from '../linux/libc.ts'
import type { Loop, Watcher } from '../linux/loop.ts'
import type { Endpoint } from '../linux/sockaddr.ts'
import { endpointOf, SOCKADDR_SIZE } from '../linux/sockaddr.ts'
import { BACKLOG } from './place.ts'

/** Connections that are accepted before everybody else has a turn. */
const BATCH = 64

/** Out of descriptors: how long nothing is accepted, in ms. Connections wait in the backlog meanwhile. */
const PAUSE_MS = 100

/** The last one: there are too many watches (epoll_ctl(2)). */
const EXHAUSTED = [EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSPC]

export interface Acceptor {
  /** Takes what waits already, and accepts no more. Once; a second call does nothing. */
  close(): void
}

/**
 * Accepts on a listening, non-blocking socket, which it owns. `onConnection` owns each descriptor from the call on, and
 * answers with the number of the error that keeps it from going on, or 0; `onTrouble` is told of an error once, until
 * accepting works again.
 */
export function acceptOn(
  loop: Loop,
  listening: number,
  onConnection: (descriptor: number, from: Endpoint) => number,
  onTrouble: (error: NodeJS.ErrnoException) => void,
): Acceptor {
  const { calls } = loop
  const address = Buffer.alloc(SOCKADDR_SIZE)
  const size = new Uint32Array(1)
  let isClosed = false
  let isTroubled = false
  let pause: NodeJS.Timeout | undefined
  const watcher: Watcher = { ready: acceptBatch }

  function acceptBatch(): void {
    for (let count = 0; count < BATCH; count += 1) if (!acceptOne()) return
  }

  function acceptOne(): boolean {
    size[0] = SOCKADDR_SIZE
    const descriptor = calls.accept4(listening, address, size, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if (descriptor === -1) return isWorthAnother(calls.errno(), 'accept4')
    const refused = onConnection(descriptor, endpointOf(calls, address))
    if (refused !== 0) return isWorthAnother(refused, 'epoll_ctl')
    isTroubled = false
    return true
  }

  function isWorthAnother(error: number, call: string): boolean {
    // Its client has gone before it was accepted.
    if (error === ECONNABORTED || error === EINTR) return true
    if (error === EAGAIN) return false
    if (!isTroubled) onTrouble(systemError(error, call))
    isTroubled = true
    if (EXHAUSTED.includes(error) && !isClosed) rest()
    return false
  }

  function rest(): void {
    loop.unwatch(listening)
    pause = setTimeout(listen, PAUSE_MS)
  }

  /** Level-triggered: what a batch leaves behind comes in the next turn. */
  function listen(): void {
    if (!loop.watch(listening, watcher, EPOLLIN)) rest()
  }

  function close(): void {
    // A second time the number may be somebody else's.
    if (isClosed) return
    isClosed = true
    // What is left in the queue would be reset; it is bounded by its length, since others may go on accepting there.
    for (let left = BACKLOG; left > 0 && acceptOne(); ) left -= 1
    loop.unwatch(listening)
    clearTimeout(pause)
    calls.close(listening)
  }

  listen()
  return { close }
}
