// The kernel's half of the engine sockmap: redirecting what arrives on one socket of a tunnel to the other (bpf(2),
// SOCKHASH). Two maps hold the sockets, both by cookie (SO_COOKIE, the kernel's number for a socket):
//
//   peers      X → the other socket. No program. While it is there, bytes can be redirected to it.
//   verdicts   X → X. The program of verdict.ts runs for what arrives on X, from when it is put there until it is closed.
//
// Each direction, named by the side its bytes come from, goes one way:
//
//   user ── give() ─▶ kernel ── its bound is reached, or takeBack() ─▶ passed
//
//   user     not in `verdicts`: a socket like others; recv and splice work.
//   kernel   redirected. Nobody is woken for data. What waits to be sent and to be acknowledged is at most BOUND.
//   passed   the bytes stay on the socket, and its window closes when it isn't read: recv works, splice doesn't see them.
//
// There is no way back. Taken out of `verdicts`, a socket with passed bytes on it stalls, with a warning in the kernel's
// log (recv finds the queue and its count apart); and a direction that has reached its bound once carries so much that
// the kernel is no gain.
//
// A socket's psock has one queue for both what is redirected to it and what is passed on it (sk_psock_backlog in
// net/core/skmsg.c). So that passed bytes never wait behind redirected ones, which a window could hold up for ever, the
// send buffer of a socket that gets redirected bytes is wider than all that BOUND allows: that queue is always on the move.

import { libc, PROT_READ, PROT_WRITE } from '../../linux/libc.ts'
import { createBpf } from './bpf.ts'
import type { SockmapHandle } from './maps.ts'
import { mapMemory, mapRing } from './ring.ts'
import { createSockets, mostReceived } from './sockets.ts'
import { BYTES, CEILING, COST, FIELDS, LIMIT, NEXT, NOTICE, PASSED, TOLD } from './verdict.ts'

/** What a direction may keep unacknowledged in the kernel: payload, and PACKET_COST for each packet. */
export const BOUND = 1024 * 1024
/** How much goes through between two looks at whether the other side keeps up. */
const STEP = BOUND / 4
/** The same while it does not. */
const SHORT_STEP = STEP / 4
/** Of the socket that gets redirected bytes; the kernel doubles it (socket(7)) and counts more for a packet than we do. */
const WIDE_BUFFER = BOUND * 2
/** From when the relay sends to it. */
const NARROW_BUFFER = 512 * 1024

/**
 * What may be passed besides while the psock's queue stands still all the same, and the window stays open: when the
 * system has no memory for what it is to send, or no processor for its own threads.
 */
const PASSED_SLACK = 32 * 1024 * 1024

/** How a direction is, as `attend` finds it; `lost` means that bytes are gone and the tunnel must be reset. */
export type Way = 'kernel' | 'passed' | 'lost'

/** In what `join` returns: the tunnel is in the maps. */
export const JOINED = 4

export interface Sockmap {
  /** A descriptor, readable (EPOLLIN) when `events` has something; edge-triggered will do. */
  readonly ring: number
  /**
   * Takes a tunnel: JOINED and the mask of the sides whose bytes the kernel redirects from now on, 1 for the client, 2 for
   * the origin. The others are `user`: bytes wait on them, which must be read first. 0 if the kernel refuses, which it
   * does when a side's FIN has come or gone; then nothing is left of the tunnel here.
   * Nothing of the tunnel may be in the process: no byte that was read and not sent.
   */
  join(slot: number, client: number, origin: number): number
  /**
   * `user` → `kernel`: when recv says EAGAIN, and all that was received has been sent. False if the kernel refuses (a FIN
   * has come, or was sent to this side), if bytes have come, or if much waits for the other side already.
   */
  give(side: number): boolean
  /** Sides (slot * 2 for the client, slot * 2 + 1 for the origin) to `attend`. Some may be of tunnels long gone. */
  events(visit: (side: number) => void): void
  /** Moves the bound on if the other side keeps up, and says how the direction is. */
  attend(side: number): Way
  /** `kernel` → `passed`, for what comes from now on. Send nothing to the other side before `drained`. */
  takeBack(side: number): void
  /** All that was redirected has reached the other socket's send queue: a FIN or other bytes may follow. */
  drained(side: number): boolean
  /** A direction that is drained and will stay so: the other socket's send buffer is as usual again. */
  settle(side: number): void
  /** So many passed bytes were received. */
  took(side: number, size: number): void
  /** Whether all that was passed has been received: otherwise recv's EOF, or its EAGAIN, comes too early. */
  isRead(side: number): boolean
  /** Bytes that the kernel has redirected from this side since `join`. */
  bytes(side: number): number
  /**
   * After both were closed, which takes them out of the maps and drops what waits to be sent: see `drained`. A socket
   * closed with passed bytes unread sends a FIN, where any other would send RST: say so with SO_LINGER.
   */
  leave(slot: number): void
  /**
   * Of a tunnel whose directions are `user` or `passed`, and stay so: whoever gets its descriptors needs nothing of this. But
   * the program goes on with its line, so that the slot must not be another's before they are closed. Gives for each side what
   * has come on its connection and was redirected or received by now.
   */
  release(slot: number): readonly [client: number, origin: number]
  /** Ends this user of the maps; not the maps. */
  close(): void
}

/** Reads how many bytes the kernel has redirected from a side since its `join`, from any thread. */
export function redirectedBytes(handle: SockmapHandle): (side: number) => number {
  const lines = mapMemory(libc(), handle.states, 0, handle.slots * 2 * FIELDS * 8, PROT_READ)
  const fields = new BigInt64Array(lines.bytes)
  // No Atomics: they would want to write. The processor reads 64 bits at once.
  return (side) => Number(fields[side * FIELDS + BYTES])
}

/** For one thread at a time; the relay's. */
export function useSockmap(handle: SockmapHandle): Sockmap {
  const calls = libc()
  const bpf = createBpf(calls)
  const sockets = createSockets(calls)
  const count = handle.slots * 2
  const lines = mapMemory(calls, handle.states, 0, count * FIELDS * 8, PROT_READ | PROT_WRITE)
  const fields = new BigInt64Array(lines.bytes)
  const ring = mapRing(calls, handle.ring, handle.ringBytes)
  /** How many passed bytes may be unread: the window lets a receive buffer hold half of it. */
  const passedBound = mostReceived() * 2 + PASSED_SLACK

  const descriptors = new Int32Array(count).fill(-1)
  const cookies = new BigUint64Array(count)
  /** What the other side's socket had been given when nothing of ours was on its way, less our bytes then. */
  const base = new Float64Array(count)
  /** Bytes and cost at the last look that let it go on. */
  const markBytes = new Float64Array(count)
  const markCost = new Float64Array(count)
  /** TCP's number of the first byte that came on the connection. */
  const firstNumbers = new Float64Array(count)
  /** Passed bytes that have been read. */
  const read = new Float64Array(count)

  const key = new BigUint64Array(1)
  const value = new Int32Array(1)

  function field(side: number, name: number): number {
    return Number(Atomics.load(fields, side * FIELDS + name))
  }

  function setField(side: number, name: number, amount: number): void {
    Atomics.store(fields, side * FIELDS + name, BigInt(amount))
  }

  function socketOf(side: number): number {
    return descriptors[side] as number
  }

  /** For the socket of `side`. False if the kernel does not take it. */
  function put(map: number, side: number, what: number): boolean {
    key[0] = cookies[side] as bigint
    value[0] = what
    return bpf.update(map, key, value) === 0
  }

  function removeAt(map: number, side: number): void {
    key[0] = cookies[side] as bigint
    bpf.remove(map, key)
  }

  function join(slot: number, client: number, origin: number): number {
    const side = slot * 2
    begin(side, client)
    begin(side + 1, origin)
    // Both are in the other maps first: of a side that isn't in `sides` the program passes all and says nothing, and what came
    // for one that isn't in `peers` would be dropped. Each element is memory, which the kernel may not have.
    if ([side, side + 1].every(introduce)) return JOINED | (give(side) ? 1 : 0) | (give(side + 1) ? 2 : 0)
    for (const each of [side, side + 1]) removeAt(handle.peers, each)
    leave(slot)
    return 0
  }

  function introduce(side: number): boolean {
    return put(handle.sides, side, side) && put(handle.peers, side, socketOf(side ^ 1))
  }

  function begin(side: number, fd: number): void {
    descriptors[side] = fd
    cookies[side] = sockets.cookie(fd)
    firstNumbers[side] = sockets.firstNumber(fd)
    for (const name of [BYTES, COST, PASSED, TOLD]) setField(side, name, 0)
    setField(side, CEILING, passedBound)
    read[side] = 0
  }

  /**
   * Only with an empty queue: the program gets packets whole, those that were read in part as well: what was read would
   * come a second time, and the socket be off by as much for good. An empty queue has no such packet.
   */
  function give(side: number): boolean {
    const fd = socketOf(side)
    // What waits on the other side already would come on top of the bound.
    if (sockets.unacknowledged(socketOf(side ^ 1)) > STEP) return false
    const received = sockets.received(fd)
    // All of that has been read, and nothing has come after it.
    if (!sockets.isEmpty(fd)) return false
    setField(side, NEXT, ((firstNumbers[side] as number) + received) % 2 ** 32)
    base[side] = sockets.written(socketOf(side ^ 1))
    markBytes[side] = 0
    markCost[side] = 0
    setField(side, LIMIT, BOUND)
    setField(side, NOTICE, STEP)
    sockets.setSendBuffer(socketOf(side ^ 1), WIDE_BUFFER)
    if (!put(handle.verdicts, side, fd)) {
      settle(side)
      return false
    }
    // What has come since it was empty would wait for the next packet.
    sockets.tellReader(fd)
    return true
  }

  function events(visit: (side: number) => void): void {
    ring.drain(visit)
  }

  function attend(side: number): Way {
    const passed = field(side, PASSED)
    if (passed > field(side, CEILING)) return 'lost'
    if (passed > 0) return 'passed'
    const cost = field(side, COST)
    if (cost <= field(side, NOTICE)) return 'kernel'
    if (acknowledged(side) < (markBytes[side] as number)) {
      setField(side, NOTICE, cost + SHORT_STEP)
      return 'kernel'
    }
    // What went before the last mark has left, so that it isn't counted any more; the next mark is here.
    const moved = bytes(side)
    setField(side, LIMIT, (markCost[side] as number) + BOUND)
    setField(side, NOTICE, cost + STEP)
    markCost[side] = cost
    markBytes[side] = moved
    return 'kernel'
  }

  function takeBack(side: number): void {
    setField(side, LIMIT, 0)
    // Nor does `attend` move the bound on any more, where a notice was not looked at yet.
    setField(side, NOTICE, Number.MAX_SAFE_INTEGER)
    // A packet that is being judged by the old limit is done when the socket's lock was free.
    sockets.awaitLock(socketOf(side))
  }

  function drained(side: number): boolean {
    // What came with a FIN that has just been seen is counted once the socket's lock was free.
    sockets.awaitLock(socketOf(side))
    return sockets.written(socketOf(side ^ 1)) - (base[side] as number) >= bytes(side)
  }

  /** Of the redirected bytes. */
  function acknowledged(side: number): number {
    return sockets.acknowledged(socketOf(side ^ 1)) - (base[side] as number)
  }

  function settle(side: number): void {
    sockets.setSendBuffer(socketOf(side ^ 1), NARROW_BUFFER)
  }

  function took(side: number, amount: number): void {
    const total = (read[side] as number) + amount
    read[side] = total
    setField(side, CEILING, total + passedBound)
  }

  function isRead(side: number): boolean {
    return field(side, PASSED) === read[side]
  }

  function bytes(side: number): number {
    return field(side, BYTES)
  }

  function leave(slot: number): void {
    for (const side of [slot * 2, slot * 2 + 1]) {
      removeAt(handle.sides, side)
      setField(side, BYTES, 0)
    }
  }

  function release(slot: number): readonly [client: number, origin: number] {
    const [client, origin] = [slot * 2, slot * 2 + 1]
    for (const side of [client, origin]) {
      // Nobody may be left who would move it.
      setField(side, CEILING, Number.MAX_SAFE_INTEGER)
      setField(side, BYTES, 0)
    }
    return [goneFrom(client), goneFrom(origin)]
  }

  /** Asked again if a packet has come in between, which only one of the two counts have. */
  function goneFrom(side: number): number {
    for (;;) {
      const passed = field(side, PASSED)
      const received = sockets.received(socketOf(side))
      if (field(side, PASSED) === passed) return received - passed + (read[side] as number)
    }
  }

  function close(): void {
    sockets.close()
    ring.unmap()
    lines.unmap()
  }

  const told = { ring: handle.ring, events, attend, drained, isRead, bytes }
  return { ...told, join, give, takeBack, settle, took, leave, release, close }
}
