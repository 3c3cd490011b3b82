// The relay: one loop that moves the bytes of all tunnels, in a thread of its own, asleep while nothing comes. Each
// descriptor is registered once, edge-triggered (epoll(7)): an edge is remembered as READABLE until reading says EAGAIN.
// A direction is one recv and one send for each edge; what the other side does not take at once is kept, and its source is
// not read until EPOLLOUT says that it went on. Bulk goes through a pipe. All state is in arrays indexed by side
// (tables.ts): an idle tunnel costs some bytes and no object.
//
//   source        READABLE ──recv──▶ send ──all──▶ again, until EAGAIN or a turn's share is done
//                                      └─part──▶ kept for the sink ──EPOLLOUT──▶ sent ──▶ READABLE goes on
//   FIN of it     ENDED, and FIN for the sink behind all its bytes (FINISHED); both sides ENDED and FINISHED: over
//   RST of it     what it had sent before is given to the sink, then RST: over

import type { Libc } from '../../linux/libc.ts'
import {
  EAGAIN,
  ECONNRESET,
  ENOBUFS,
  EPOLL_CTL_ADD,
  EPOLL_CTL_MOD,
  EPOLLERR,
  EPOLLET,
  EPOLLHUP,
  EPOLLIN,
  EPOLLOUT,
  EPOLLRDHUP,
  MSG_NOSIGNAL,
  SHUT_WR,
} from '../../linux/libc.ts'
import {
  BULK,
  clientOf,
  ENDED,
  FINISHED,
  FINISHING,
  firstOf,
  HAS_END_AHEAD,
  originOf,
  pastOf,
  QUEUED,
  READABLE,
} from './bits.ts'
import { createBulk } from './bulk.ts'
import { hangUp, pendingError } from './closing.ts'
import { type Ahead, createRedirect, NO_AHEADS, type Redirect } from './redirect.ts'
import { createEvents, register } from './registration.ts'
import type { Relay, RelayHooks, Remains } from './relay-contract.ts'
import { createSockets } from './sockets.ts'
import type { Sockmap } from './sockmap.ts'
import type { Tables } from './tables.ts'
import { ENDED_BY_EDGE, ENDED_BY_OPERATOR, endWord, MODE_EPOLL, MODE_SOCKMAP } from './tables.ts'

const SCRATCH_BYTES = 64 * 1024
/** Reads of one side before the others have their turn. */
const READS_PER_TURN = 16

/** Indexes of no side: the event is for the thread itself. */
export const WAKE = -1
const RING = -2

export function createRelay(calls: Libc, epoll: number, tables: Tables, hooks: RelayHooks): Relay {
  const { descriptors, bytes, modes } = tables
  const { recv, send } = calls
  const hear = createEvents(calls, epoll)
  const scratch = Buffer.allocUnsafeSlow(SCRATCH_BYTES)
  const flags = new Uint8Array(tables.slots * 2)
  // By slot: the generation of the tunnel that is here, 0 for none. The tables may have the slot's next one already, while
  // events of the last one are still under way here.
  const here = new Int32Array(tables.slots)
  /** By slot: which side's FIN came first, plus one. */
  const first = new Uint8Array(tables.slots)
  const bulk = createBulk(calls, bytes)
  /** By sink: what it did not take. Few tunnels have any at a time. */
  const kept = new Map<number, Buffer>()
  let queue: number[] = []
  let redirect: Redirect | null = null
  /** How long to sleep at most, in ms; -1: until something comes. */
  let patience = -1

  function turn(): void {
    hear(queue.length > 0 ? 0 : patience, heard)
    serveQueue()
    // Last, since what it ends is told of before the next sleep.
    if (redirect !== null) patience = redirect.poll()
  }

  function heard(side: number, generation: number, seen: number): void {
    if (side === WAKE) hooks.woken()
    else if (side === RING) redirect?.hear()
    else if (here[side >> 1] === generation) serve(side, seen)
  }

  function serveQueue(): void {
    if (queue.length === 0) return
    const sides = queue
    queue = []
    for (const side of sides) {
      flags[side] = flagsOf(side) & ~QUEUED
      pump(side)
    }
  }

  function serve(side: number, seen: number): void {
    if (isOver(side)) return
    if (seen & EPOLLOUT && (kept.size > 0 || bulk.isActive)) flush(side)
    if (seen & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
      const ahead = seen & ~(EPOLLIN | EPOLLOUT) ? READABLE | HAS_END_AHEAD : READABLE
      flags[side] = flagsOf(side) | ahead
      // The kernel has moved what came before a RST, and it is no FIN.
      if (!(seen & EPOLLERR && isRedirected(side))) pump(side)
    }
    // Reading has told of the RST, unless the other side takes nothing, or a FIN was read before.
    if (seen & (EPOLLERR | EPOLLHUP) && !isOver(side)) {
      const error = errorOf(side, (seen & EPOLLHUP) !== 0)
      if (error !== 0) fail(side, error)
    }
  }

  /** Moves what `side` has sent to the other side. */
  function pump(side: number): void {
    if (isOver(side) || (redirect !== null && !mayRead(redirect, side))) return
    if (kept.size > 0 && kept.has(side ^ 1)) return
    const known = flagsOf(side)
    if (known & BULK) pumpBulk(side)
    else if ((known & (READABLE | ENDED)) === READABLE) pumpCopies(side)
  }

  function pumpCopies(side: number): void {
    for (let count = 0; count < READS_PER_TURN; count += 1) {
      const size = recv(descriptorOf(side), scratch, SCRATCH_BYTES, 0)
      if (size <= 0) return void stopped(side, size)
      bytes[side] = (bytes[side] as number) + size
      redirect?.took(side, size)
      if (!pass(side ^ 1, size)) return
      if (size < SCRATCH_BYTES) {
        // A short read has emptied it, or met TCP's urgent mark (MSG_OOB); what comes later has an edge of its own.
        if ((flagsOf(side) & HAS_END_AHEAD) === 0) return void emptied(side)
      } else if (startBulk(side)) return void pumpBulk(side)
    }
    enqueue(side)
  }

  /** Sends what is in the scratch buffer; false if not all of it could be. */
  function pass(side: number, size: number): boolean {
    if (flagsOf(side) & (FINISHED | FINISHING)) return true
    const sent = send(descriptorOf(side), scratch, size, MSG_NOSIGNAL)
    if (sent === size) return true
    const error = sent === -1 ? calls.errno() : EAGAIN
    if (error === EAGAIN) kept.set(side, Buffer.from(scratch.subarray(Math.max(sent, 0), size)))
    else fail(side, error)
    return false
  }

  /** Reading gave no bytes: a FIN, nothing more for now, or an error. */
  function stopped(side: number, size: number): void {
    if (size === 0 && redirect?.awaits(side) === true) return
    if (size === 0) return void ended(side)
    const error = calls.errno()
    if (error === EAGAIN) emptied(side)
    else fail(side, error)
  }

  /** Nothing more for now, and all of it has been sent. What comes for a side that is being finished is dropped here. */
  function emptied(side: number): void {
    flags[side] = flagsOf(side) & ~READABLE
    if ((flagsOf(side ^ 1) & FINISHING) === 0) redirect?.emptied(side)
  }

  function startBulk(side: number): boolean {
    if (flagsOf(side ^ 1) & (FINISHED | FINISHING) || redirect?.allowsBulk(side) === false) return false
    if (!bulk.start(side)) return false
    flags[side] = flagsOf(side) | BULK
    return true
  }

  function pumpBulk(side: number): void {
    const outcome = bulk.move(side, descriptorOf(side), descriptorOf(side ^ 1))
    if (outcome === 'full') return
    if (outcome === 'turn') return void enqueue(side)
    if (outcome === 'sink') return void fail(side ^ 1, bulk.error)
    if (outcome === 'source') return void fail(side, bulk.error)
    endBulk(side)
    if (outcome === 'ended') ended(side)
    else emptied(side)
  }

  function endBulk(side: number): void {
    if ((flagsOf(side) & BULK) === 0) return
    bulk.stop(side)
    flags[side] = flagsOf(side) & ~BULK
  }

  /** `side` takes bytes again: first what is kept for it, then what its other side has. */
  function flush(side: number): void {
    const waiting = kept.get(side)
    if (waiting !== undefined) {
      const sent = send(descriptorOf(side), waiting, waiting.length, MSG_NOSIGNAL)
      if (sent === -1) {
        if (calls.errno() !== EAGAIN) fail(side, calls.errno())
        return
      }
      if (sent < waiting.length) return void kept.set(side, waiting.subarray(sent))
      kept.delete(side)
      if (flagsOf(side) & FINISHING) shut(side)
    }
    pump(side ^ 1)
  }

  /** All that came before the FIN of `side` has been sent on. */
  function ended(side: number): void {
    flags[side] = (flagsOf(side) | ENDED) & ~READABLE
    first[side >> 1] ||= (side & 1) + 1
    shut(side ^ 1)
  }

  /** FIN for `side`, behind all its bytes. */
  function shut(side: number): void {
    const known = flagsOf(side)
    const isLast = (known & flagsOf(side ^ 1) & ENDED) !== 0 && (flagsOf(side ^ 1) & FINISHED) !== 0
    if (isLast) {
      // Closing sends the FIN as well.
      close(side >> 1, false)
      tell(side >> 1, endWord((first[side >> 1] as number) - 1, false, 0))
    } else if ((known & FINISHED) === 0) {
      flags[side] = known | FINISHED
      calls.shutdown(descriptorOf(side), SHUT_WR)
    }
  }

  /** An error says more than the FIN before it, and an operator's word more than any error. */
  function fail(side: number, error: number): void {
    const slot = side >> 1
    close(slot, true)
    const byOperator = first[slot] === ENDED_BY_OPERATOR + 1
    tell(slot, byOperator ? endWord(ENDED_BY_OPERATOR, false, 0) : endWord(side & 1, true, error))
  }

  function finish(slot: number, generation: number): void {
    if (here[slot] !== generation) return
    first[slot] = ENDED_BY_OPERATOR + 1
    for (const side of [slot * 2, slot * 2 + 1]) {
      if (isOver(side)) return
      redirect?.takeBack(side ^ 1)
      keepPiped(side ^ 1)
      flags[side] = flagsOf(side) | FINISHING
      if (!kept.has(side) && redirect?.isDrained(side ^ 1) !== false) shut(side)
    }
    for (const side of [slot * 2, slot * 2 + 1]) if (!isOver(side)) enqueue(side)
  }

  /** What is in the pipe of a source is kept for its sink like any other bytes. */
  function keepPiped(source: number): void {
    if ((flagsOf(source) & BULK) === 0) return
    const piped = bulk.stopReading(source)
    if (piped !== null) kept.set(source ^ 1, piped)
    flags[source] = flagsOf(source) & ~BULK
  }

  function cut(slot: number, generation: number, isReset: boolean): void {
    if (here[slot] !== generation) return
    close(slot, isReset)
    tell(slot, endWord(ENDED_BY_OPERATOR, isReset, 0))
  }

  function freeze(slot: number, generation: number): Remains | 'later' | null {
    if (here[slot] !== generation || first[slot] === ENDED_BY_OPERATOR + 1) return null
    const aheads = redirect === null ? NO_AHEADS : redirect.release(slot)
    if (aheads === null) return 'later'
    modes[slot] = MODE_EPOLL
    const [client, origin] = [slot * 2, slot * 2 + 1]
    for (const side of [client, origin]) keepPiped(side)
    const [clientAhead, originAhead] = aheads
    const [toClient = null, toOrigin = null] = [kept.get(client), kept.get(origin)]
    for (const side of [client, origin]) kept.delete(side)
    tables.pasts[slot] = pastOf(flagsOf(client), flagsOf(origin), first[slot] as number)
    flags.fill(0, client, origin + 1)
    first[slot] = 0
    // Events that are under way are for nobody from here on.
    here[slot] = 0
    return { toClient, toOrigin, clientAhead, originAhead }
  }

  function close(slot: number, isReset: boolean): void {
    const isShared = Atomics.load(tables.shared, 0) === 1
    for (const side of [slot * 2, slot * 2 + 1]) {
      const descriptor = descriptorOf(side)
      // Closed with passed bytes unread it would send FIN, and leave its other end waiting (sockmap.ts).
      const isCut = isReset || redirect?.awaits(side) === true
      endBulk(side)
      kept.delete(side)
      // First, since until then main adds what was redirected itself.
      descriptors[side] = -1
      hangUp(calls, descriptor, isCut, isShared)
      if (redirect !== null) bytes[side] = (bytes[side] as number) + redirect.bytes(side)
      flags[side] = 0
    }
    redirect?.leave(slot)
    here[slot] = 0
  }

  // What the kernel redirects.

  function begin(slot: number): void {
    here[slot] = tables.generations[slot] as number
    const past = tables.pasts[slot] as number
    flags[slot * 2] = clientOf(past)
    flags[slot * 2 + 1] = originOf(past)
    first[slot] = firstOf(past)
    if (modes[slot] === MODE_SOCKMAP && !joined(slot)) modes[slot] = MODE_EPOLL
    // Bytes that were lost while it stood still are told of once, and nothing comes behind them.
    for (const side of [slot * 2, slot * 2 + 1]) redirect?.awaits(side)
    if (watch(slot * 2, EPOLL_CTL_ADD) && watch(slot * 2 + 1, EPOLL_CTL_ADD)) return
    const error = calls.errno()
    close(slot, true)
    tell(slot, endWord(ENDED_BY_EDGE, true, error))
  }

  /** Bytes that are left over go first, and only the relay can send them. */
  function joined(slot: number): boolean {
    if (redirect === null || kept.has(slot * 2) || kept.has(slot * 2 + 1)) return false
    return redirect.join(slot)
  }

  /** Data of a side is no event, nor that it takes more, where the kernel moves the bytes; its end always is. */
  function watch(side: number, operation: number): boolean {
    const edges =
      EPOLLRDHUP | EPOLLET | (isRedirected(side) ? 0 : EPOLLIN) | (isRedirected(side ^ 1) ? 0 : EPOLLOUT)
    return register(calls, epoll, operation, descriptorOf(side), edges, side, here[side >> 1] as number)
  }

  function mayRead({ mayRead }: Redirect, side: number): boolean {
    const known = flagsOf(side)
    return (known & ENDED) === 0 && mayRead(side, (known & HAS_END_AHEAD) !== 0)
  }

  function isRedirected(side: number): boolean {
    return redirect?.redirects(side) === true
  }

  function redirecting(): Redirect {
    redirect ??= createRedirect(createSockets(calls), tables.slots, {
      descriptors,
      bytes,
      watch: (side) => void watch(side, EPOLL_CTL_MOD),
      resume,
      lost: (side) => void (isOver(side) || fail(side, ENOBUFS)),
    })
    return redirect
  }

  function useSockmap(sockmap: Sockmap): void {
    redirecting().open(sockmap)
    register(calls, epoll, EPOLL_CTL_ADD, sockmap.ring, EPOLLIN | EPOLLET, RING, 0)
  }

  function keep(side: number, data: Buffer | null, ahead: Ahead): void {
    if (data !== null) kept.set(side, data)
    if (ahead !== null) redirecting().adopt(side, ahead)
  }

  function resume(side: number): void {
    if (isOver(side)) return
    flags[side] = flagsOf(side) | READABLE
    const sink = side ^ 1
    if (kept.has(sink)) flush(sink)
    else if (flagsOf(sink) & FINISHING && redirect?.isDrained(side) !== false) shut(sink)
    if (!isOver(side)) pump(side)
  }

  function tell(slot: number, word: number): void {
    first[slot] = 0
    tables.ends[slot] = word
    hooks.ended(slot)
  }

  function enqueue(side: number): void {
    if (flagsOf(side) & QUEUED) return
    flags[side] = flagsOf(side) | QUEUED
    queue.push(side)
  }

  /** A connection that is over both ways without a FIN of ours was reset, whoever has read the error first. */
  function errorOf(side: number, isOverBothWays: boolean): number {
    const wasReset = isOverBothWays && (flagsOf(side) & FINISHED) === 0
    return pendingError(calls, descriptorOf(side)) || (wasReset ? ECONNRESET : 0)
  }

  function isOver(side: number): boolean {
    return here[side >> 1] === 0
  }

  function descriptorOf(side: number): number {
    return descriptors[side] as number
  }

  function flagsOf(side: number): number {
    return flags[side] as number
  }

  return { turn, keep, begin, useSockmap, finish, cut, freeze }
}
