// The kernel's half of the engine sockmap: redirecting what arrives on one socket of a tunnel to the other (bpf(2),
// SOCKHASH). Two maps hold the sockets, both by cookie (SO_COOKIE, the kernel's number for a socket):
//
//   peers      X → the other socket. No program. While it is there, bytes can be redirected to it.
//   verdicts   X → X. The program of verdict.ts runs for what arrives on X while it is there.
//
// Each direction, named by the side its bytes come from, is in one of these ways:
//
//   kernel ── notice, and the other side is behind ─▶ user ── give() ─▶ kernel
//   kernel ── limit, since nobody answered the notice ─▶ passed ── settle() ─▶ kernel
//
//   kernel   redirected. Nobody is woken for data. What waits to be sent is at most BOUND.
//   user     out of `verdicts`: a socket like others, and its window closes when it isn't read. The other
//            direction, and bytes that wait to be sent, are not touched. recv and splice work.
//   passed   in `verdicts`, but the bytes stay on the socket: recv works, splice doesn't see them. It must not be taken
//            out: the kernel then finds unread bytes missing, and recv warns in its log and stalls.
//
// What the relay must know besides is said at each operation.

import { readFileSync } from 'node:fs'
import { libc, PROT_READ, PROT_WRITE } from '../../linux/libc.ts'
import { createBpf } from './bpf.ts'
import type { SockmapHandle } from './maps.ts'
import { mapMemory, mapRing } from './ring.ts'
import { CAN_RECEIVE, createSockets, ESTABLISHED } from './sockets.ts'
import { BYTES, CEILING, COST, FIELDS, HANDLED, LIMIT, NOTICE, PASSED, TOLD } from './verdict.ts'

/** What a direction may keep waiting in the kernel, payload and PACKET_COST for each packet: nothing else counts it. */
export const BOUND = 4 * 1024 * 1024
/** How much goes through between two looks at whether the other side keeps up. */
const STEP = BOUND / 4
/** More than a direction ever counts. */
const NO_LIMIT = Number.MAX_SAFE_INTEGER

/** Way of a direction, as `attend` finds it; `lost` means that bytes are gone and the tunnel must be reset. */
export type Way = 'kernel' | 'user' | 'passed' | 'lost'

/** In what `join` returns: the tunnel is in the maps. */
export const JOINED = 4

const NO_BYTES = Buffer.alloc(0)

export interface Sockmap {
  /** A descriptor, readable (EPOLLIN) when `events` has something; edge-triggered will do. */
  readonly ring: number
  /**
   * Takes a tunnel: JOINED and the mask of the sides whose bytes the kernel redirects from now on, 1 for the client, 2 for
   * the origin. The others are as `user`: bytes wait on them, which must be read first. 0 if the kernel refuses, which it
   * does when a side's FIN has come or gone; then nothing is left of the tunnel here.
   * Nothing of the tunnel may be in the process: no byte that was read and not sent.
   */
  join(slot: number, client: number, origin: number): number
  /** Sides (slot * 2 for the client, slot * 2 + 1 for the origin) to `attend`. Some may be of tunnels long gone. */
  events(visit: (side: number) => void): void
  /**
   * Lets the direction go on if the other side keeps up, else takes it back, and says how it is now. For `user` and
   * `passed`: send nothing to the other side before `drained`, and then `rest` first.
   */
  attend(side: number): Way
  /** Takes a direction of the way `kernel` back, whatever the other side does; see `attend`. */
  takeBack(side: number): Way
  /** What was read in taking it back; nearly always nothing. It is given out once. */
  rest(side: number): Buffer
  /** All that was redirected has reached the other socket's send queue: a FIN or other bytes may follow. Nobody is woken for it. */
  drained(side: number): boolean
  /** So many bytes were received; counts in the way `passed`. */
  took(side: number, size: number): void
  /** Whether all that was passed has been received: otherwise recv's EOF comes too early. */
  isRead(side: number): boolean
  /** `passed` → `kernel`, if all that was passed has been received and sent: try it when recv says EAGAIN. */
  settle(side: number): boolean
  /**
   * `user` → `kernel`: when recv says EAGAIN, and all that was received has been sent. False if the kernel refuses (a FIN
   * has come, or was sent to this side), if bytes have come, or if it isn't drained.
   */
  give(side: number): boolean
  /** Bytes that the kernel has redirected from this side since `join`. */
  bytes(side: number): number
  /**
   * After both were closed, which takes them out of the maps and drops what waits to be sent: see `drained`. A socket
   * closed with passed bytes unread sends a FIN, where any other would send RST: say so with SO_LINGER.
   */
  leave(slot: number): void
  /** Ends this user of the maps; not the maps. */
  close(): void
}

/**
 * How many passed bytes may lie on a socket: twice what a receive buffer can hold (tcp(7)). The window keeps them below
 * that, but for one case: while bytes of the other direction wait to be sent on the same socket, what is passed queues
 * up behind them and is counted by nobody (sk_psock_verdict_apply in net/core/skmsg.c).
 */
function passedBoundOf(): number {
  const [, , most = 0] = readFileSync('/proc/sys/net/ipv4/tcp_rmem', 'latin1').split('\t').map(Number)
  return most * 2
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

  const descriptors = new Int32Array(count).fill(-1)
  const cookies = new BigUint64Array(count)
  /** 1 while the side is in `verdicts`. */
  const inserted = new Uint8Array(count)
  /** What the other side's socket had been given when nothing of ours was on its way, less our bytes then. */
  const base = new Float64Array(count)
  /** Bytes and cost at the last look that let it go on. */
  const markBytes = new Float64Array(count)
  const markCost = new Float64Array(count)
  const rests = new Map<number, Buffer>()
  const passedBound = passedBoundOf()
  /** Passed bytes that have been read since the last `settle`. */
  const read = new Float64Array(count)

  const key = new BigUint64Array(1)
  const value = new Int32Array(1)

  function field(side: number, name: number): number {
    return Number(Atomics.load(fields, side * FIELDS + name))
  }

  function setField(side: number, name: number, amount: number): void {
    Atomics.store(fields, side * FIELDS + name, BigInt(amount))
  }

  /** 0 or the error's number. */
  function putSocket(map: number, at: number, side: number): number {
    key[0] = cookies[at] as bigint
    value[0] = descriptors[side] as number
    return bpf.update(map, key, value)
  }

  function removeAt(map: number, side: number): void {
    key[0] = cookies[side] as bigint
    bpf.remove(map, key)
  }

  function join(slot: number, client: number, origin: number): number {
    const side = slot * 2
    begin(side, client)
    begin(side + 1, origin)
    // Both are in `peers` first: what came for a side that isn't there would be dropped.
    const error = putSocket(handle.peers, side, side + 1) || putSocket(handle.peers, side + 1, side)
    rebase(side)
    rebase(side + 1)
    if (error) {
      for (const each of [side, side + 1]) removeAt(handle.peers, each)
      leave(slot)
      return 0
    }
    return JOINED | (insert(side) ? 1 : 0) | (insert(side + 1) ? 2 : 0)
  }

  function begin(side: number, fd: number): void {
    descriptors[side] = fd
    inserted[side] = 0
    cookies[side] = sockets.cookie(fd)
    for (const name of [BYTES, COST, PASSED, TOLD, HANDLED]) setField(side, name, 0)
    setField(side, CEILING, passedBound)
    read[side] = 0
    start(side)
    key[0] = cookies[side] as bigint
    value[0] = side
    bpf.update(handle.sides, key, value)
  }

  /**
   * From here the program runs for what arrives on `side`: true, or false if the kernel refuses, or bytes are there. For it
   * gets packets whole, those that were read in part as well: what was read would come a second time, and the socket be
   * off by as much for good. An empty queue has no such packet.
   */
  function insert(side: number): boolean {
    const fd = descriptors[side] as number
    if (!sockets.isEmpty(fd) || putSocket(handle.verdicts, side, side) !== 0) return false
    inserted[side] = 1
    // What has come since it was empty would wait for the next packet.
    sockets.tellReader(fd)
    return true
  }

  /** Nothing is on its way: all of the bound is free. */
  function start(side: number): void {
    markCost[side] = field(side, COST)
    advance(side)
  }

  /** What went before the last mark has left, so that it isn't counted any more; the next mark is here. */
  function advance(side: number): void {
    const cost = field(side, COST)
    setField(side, LIMIT, (markCost[side] as number) + BOUND)
    setField(side, NOTICE, cost + STEP)
    markCost[side] = cost
    markBytes[side] = bytes(side)
  }

  function events(visit: (side: number) => void): void {
    ring.drain(visit)
  }

  function attend(side: number): Way {
    if (inserted[side] === 0) return 'user'
    const passed = field(side, PASSED)
    if (passed > field(side, CEILING)) return 'lost'
    if (passed !== field(side, HANDLED)) return 'passed'
    if (field(side, COST) <= field(side, NOTICE)) return 'kernel'
    if (leftFor(side) < (markBytes[side] as number)) return takeBack(side)
    advance(side)
    return 'kernel'
  }

  function takeBack(side: number): Way {
    if (inserted[side] === 0) return 'user'
    // From here it can't begin to pass; a packet that is being judged by the old limit is done when TCP_INFO has had the
    // socket's lock.
    setField(side, LIMIT, NO_LIMIT)
    const state = stateOf(side)
    if (field(side, PASSED) !== field(side, HANDLED)) return 'passed'
    if (!CAN_RECEIVE.includes(state)) return 'kernel'
    removeAt(handle.verdicts, side)
    inserted[side] = 0
    // Its recv is still the one for sockets with a program; putting it in a map once more gives it the plain one back.
    if (state === ESTABLISHED) return putSocket(handle.peers, side ^ 1, side) === 0 ? 'user' : readRest(side)
    // A half-closed one can't be put in: but nothing is sent to it any more, so it can leave altogether.
    removeAt(handle.peers, side ^ 1)
    return 'user'
  }

  /**
   * Its FIN came while it was being taken back, so that it can't be put into a map again, and the recv that it has left
   * sees no bytes that the program didn't pass. Splice does: a few, since it was a moment.
   */
  function readRest(side: number): Way {
    const bytes = sockets.spliceAll(descriptors[side] as number)
    if (bytes === null) return 'lost'
    rests.set(side, bytes)
    return 'user'
  }

  function rest(side: number): Buffer {
    const bytes = rests.get(side) ?? NO_BYTES
    rests.delete(side)
    return bytes
  }

  function drained(side: number): boolean {
    // What came with a FIN that has just been seen is counted once the socket's lock was free.
    stateOf(side)
    return leftFor(side) >= bytes(side)
  }

  /** How many of the redirected bytes are in the other socket's send queue, or further. */
  function leftFor(side: number): number {
    return written(side ^ 1) - (base[side] as number)
  }

  function written(side: number): number {
    return sockets.written(descriptors[side] as number)
  }

  function stateOf(side: number): number {
    return sockets.state(descriptors[side] as number)
  }

  function rebase(side: number): void {
    base[side] = written(side ^ 1) - bytes(side)
  }

  function took(side: number, amount: number): void {
    if (inserted[side] === 0) return
    const total = (read[side] as number) + amount
    read[side] = total
    setField(side, CEILING, field(side, HANDLED) + total + passedBound)
  }

  function isRead(side: number): boolean {
    return field(side, PASSED) === field(side, HANDLED) + (read[side] as number)
  }

  function settle(side: number): boolean {
    const total = field(side, HANDLED) + (read[side] as number)
    if (field(side, PASSED) !== total) return false
    rebase(side)
    start(side)
    read[side] = 0
    // The program compares for each packet: one that was passed meanwhile keeps the direction as it is.
    setField(side, HANDLED, total)
    stateOf(side)
    return field(side, PASSED) === total
  }

  function give(side: number): boolean {
    if (!drained(side)) return false
    rebase(side)
    start(side)
    return insert(side)
  }

  function bytes(side: number): number {
    return field(side, BYTES)
  }

  function leave(slot: number): void {
    for (const side of [slot * 2, slot * 2 + 1]) {
      removeAt(handle.sides, side)
      setField(side, BYTES, 0)
      inserted[side] = 0
    }
  }

  function close(): void {
    sockets.close()
    ring.unmap()
    lines.unmap()
  }

  return {
    ring: handle.ring,
    join,
    events,
    attend,
    takeBack,
    isRead,
    rest,
    drained,
    took,
    settle,
    give,
    bytes,
    leave,
    close,
  }
}
