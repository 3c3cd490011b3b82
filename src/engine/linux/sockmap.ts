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
//   user     out of `verdicts`: the socket is as any other, and its window closes when it isn't read. The other
//            direction, and bytes that wait to be sent, are not touched. recv and splice work.
//   passed   in `verdicts`, but the bytes stay on the socket: recv works, splice doesn't see them. It must not be taken
//            out: the kernel then finds unread bytes missing, and recv warns in its log and stalls.
//
// What the relay must know besides is said at each operation.

import type { Libc } from '../../linux/libc.ts'
import {
  IPPROTO_TCP,
  libc,
  PROT_READ,
  PROT_WRITE,
  SIOCOUTQ,
  SO_COOKIE,
  SO_RCVLOWAT,
  SOL_SOCKET,
  TCP_INFO,
} from '../../linux/libc.ts'
import type { Bpf } from './bpf.ts'
import {
  ATTACH_SK_SKB_VERDICT,
  createBpf,
  MAP_MMAPABLE,
  MAP_NO_PREALLOC,
  MAP_TYPE_ARRAY,
  MAP_TYPE_HASH,
  MAP_TYPE_RINGBUF,
  MAP_TYPE_SOCKHASH,
  PROGRAM_TYPE_SK_SKB,
} from './bpf.ts'
import { mapMemory, mapRing, ringSizeFor } from './ring.ts'
import {
  BYTES,
  CEILING,
  COST,
  FIELDS,
  HANDLED,
  LIMIT,
  NOTICE,
  PASSED,
  TOLD,
  type VerdictMaps,
  verdictProgram,
} from './verdict.ts'

/** What a direction may keep waiting in the kernel, payload and PACKET_COST for each packet: nothing else counts it. */
export const BOUND = 4 * 1024 * 1024
/** How much goes through between two looks at whether the other side keeps up. */
const STEP = BOUND / 4
/** Passed bytes that nobody has read: many times what a receive buffer holds, so that only a process that stands still gets there. */
const PASSED_BOUND = 64 * 1024 * 1024
/** More than a direction ever counts. */
const NO_LIMIT = Number.MAX_SAFE_INTEGER

/** Descriptors and sizes: what a worker thread needs to use the maps that the main thread has made. */
export interface SockmapHandle extends VerdictMaps {
  readonly slots: number
  readonly verdicts: number
  readonly program: number
  readonly ringBytes: number
}

/** Way of a direction, as `attend` finds it; `lost` means that bytes are gone and the tunnel must be reset. */
export type Way = 'kernel' | 'user' | 'passed' | 'lost'

/** struct tcp_info as far as it is read: tcpi_state is its first byte, tcpi_bytes_acked 64 bits at 120 (linux/tcp.h). */
const TCP_INFO_BYTES = 128
const BYTES_ACKED = 15
/** States in which more can arrive: FIN_WAIT1 and 2 are those of a side that was sent a FIN (net/tcp_states.h). */
const ESTABLISHED = 1
const CAN_RECEIVE = [ESTABLISHED, 4, 5]

/** An event of one side can be outstanding in three ways (notice, passed, lost), of 16 bytes each. */
const RING_BYTES_PER_SIDE = 48

/** Throws an Error whose message says what is missing, in words. Needs CAP_BPF and CAP_NET_ADMIN; users need neither. */
export function openSockmap(slots: number): SockmapHandle {
  const calls = libc()
  const bpf = createBpf(calls)
  const made: number[] = []
  const keep = (fd: number) => {
    made.push(fd)
    return fd
  }
  try {
    return makeMaps(calls, bpf, slots, keep)
  } catch (error) {
    for (const fd of made) calls.close(fd)
    throw new Error(reasonOf(error as NodeJS.ErrnoException), { cause: error })
  }
}

function makeMaps(calls: Libc, bpf: Bpf, slots: number, keep: (fd: number) => number): SockmapHandle {
  const count = slots * 2
  const sockets = { type: MAP_TYPE_SOCKHASH, key: 8, value: 4, size: count }
  const peers = keep(bpf.createMap({ ...sockets, name: 'headrace_peers' }))
  const verdicts = keep(bpf.createMap({ ...sockets, name: 'headrace_verdic' }))
  const ringBytes = ringSizeFor(calls, count * RING_BYTES_PER_SIDE)
  const ring = keep(
    bpf.createMap({ type: MAP_TYPE_RINGBUF, key: 0, value: 0, size: ringBytes, name: 'headrace_ring' }),
  )
  const sides = keep(
    bpf.createMap({
      type: MAP_TYPE_HASH,
      key: 8,
      value: 4,
      size: count,
      flags: MAP_NO_PREALLOC,
      name: 'headrace_sides',
    }),
  )
  const states = keep(
    bpf.createMap({
      type: MAP_TYPE_ARRAY,
      key: 4,
      value: FIELDS * 8,
      size: count,
      flags: MAP_MMAPABLE,
      name: 'headrace_states',
    }),
  )
  const maps = { peers, sides, states, ring }
  const program = keep(bpf.load(PROGRAM_TYPE_SK_SKB, verdictProgram(maps), 'headrace'))
  bpf.attach(program, verdicts, ATTACH_SK_SKB_VERDICT)
  return { ...maps, slots, verdicts, program, ringBytes }
}

/** When no tunnel is left and every user of it has been closed. */
export function closeSockmap(handle: SockmapHandle): void {
  const { program, verdicts, peers, sides, states, ring } = handle
  for (const fd of [program, verdicts, peers, sides, states, ring]) libc().close(fd)
}

function reasonOf({ code, message, syscall = '' }: NodeJS.ErrnoException): string {
  switch (code) {
    case 'EPERM':
    case 'EACCES':
      return `${syscall}: not permitted, it needs the capabilities CAP_BPF and CAP_NET_ADMIN`
    case 'ENOSYS':
      return `${syscall}: the kernel has no bpf(2) (CONFIG_BPF_SYSCALL)`
    case 'EINVAL':
      return `${syscall}: unknown to this kernel, it needs Linux 5.13 with CONFIG_BPF_STREAM_PARSER`
    default:
      return message
  }
}

export interface Sockmap {
  /** A descriptor, readable (EPOLLIN) when `events` has something; edge-triggered will do. */
  readonly ring: number
  /** The two directions of `slot`: the mask of those the kernel has taken, 1 for the client's, 2 for the origin's. */
  join(slot: number, client: number, origin: number): number
  /** Sides (slot * 2 for the client, slot * 2 + 1 for the origin) to `attend`. Some may be of tunnels long gone. */
  events(visit: (side: number) => void): void
  attend(side: number): Way
  drained(side: number): boolean
  took(side: number, size: number): void
  settle(side: number): boolean
  give(side: number): boolean
  /** Bytes that the kernel has redirected from this side since `join`. */
  bytes(side: number): number
  leave(slot: number): void
  /** Ends this user of the maps; not the maps. */
  close(): void
}

/** For one thread at a time; the relay's. */
export function useSockmap(handle: SockmapHandle): Sockmap {
  const calls = libc()
  const bpf = createBpf(calls)
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
  /** Passed bytes that have been read since the last `settle`. */
  const read = new Float64Array(count)

  const key = new BigUint64Array(1)
  const value = new Int32Array(1)
  const size = new Uint32Array(1)
  const info = new BigUint64Array(TCP_INFO_BYTES / 8)

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
    const taken = error ? 0 : insert(side) | (insert(side + 1) << 1)
    if (taken === 0) {
      for (const each of [side, side + 1]) removeAt(handle.peers, each)
      leave(slot)
    }
    return taken
  }

  function begin(side: number, fd: number): void {
    descriptors[side] = fd
    inserted[side] = 0
    size[0] = 8
    calls.getsockopt(fd, SOL_SOCKET, SO_COOKIE, key, size)
    cookies[side] = key[0] as bigint
    for (const name of [BYTES, COST, PASSED, TOLD, HANDLED]) setField(side, name, 0)
    setField(side, CEILING, PASSED_BOUND)
    read[side] = 0
    start(side)
    value[0] = side
    bpf.update(handle.sides, key, value)
  }

  /** From here the program runs for `side`, and first for what had come before. 1, or 0 if the kernel refuses. */
  function insert(side: number): number {
    if (putSocket(handle.verdicts, side, side) !== 0) return 0
    inserted[side] = 1
    // Tells the socket's reader, which is the program now, that there is something (tcp_set_rcvlowat).
    value[0] = 1
    calls.setsockopt(descriptors[side] as number, SOL_SOCKET, SO_RCVLOWAT, value, 4)
    return 1
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
    // From here it can't begin to pass; a packet that is being judged by the old limit is done when TCP_INFO has had the
    // socket's lock.
    setField(side, LIMIT, NO_LIMIT)
    const state = stateOf(side)
    if (field(side, PASSED) !== field(side, HANDLED)) return 'passed'
    if (!CAN_RECEIVE.includes(state)) return 'kernel'
    removeAt(handle.verdicts, side)
    inserted[side] = 0
    // Its recv is still the one for sockets with a program; putting it in a map once more gives it the plain one back.
    if (state === ESTABLISHED) putSocket(handle.peers, side ^ 1, side)
    // A half-closed one can't be put in: but nothing is sent to it any more, so it can leave altogether.
    else removeAt(handle.peers, side ^ 1)
    return 'user'
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

  /** All that the socket was ever given to send: acknowledged (read first, so that none counts twice) and not yet. */
  function written(side: number): number {
    stateOf(side)
    const acknowledged = Number(info[BYTES_ACKED])
    calls.ioctl(descriptors[side] as number, SIOCOUTQ, value)
    return acknowledged + (value[0] as number)
  }

  function stateOf(side: number): number {
    size[0] = TCP_INFO_BYTES
    calls.getsockopt(descriptors[side] as number, IPPROTO_TCP, TCP_INFO, info, size)
    return Number((info[0] as bigint) & 0xffn)
  }

  function rebase(side: number): void {
    base[side] = written(side ^ 1) - bytes(side)
  }

  function took(side: number, amount: number): void {
    const total = (read[side] as number) + amount
    read[side] = total
    setField(side, CEILING, field(side, HANDLED) + total + PASSED_BOUND)
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
    return insert(side) === 1
  }

  function bytes(side: number): number {
    return field(side, BYTES)
  }

  function leave(slot: number): void {
    for (const side of [slot * 2, slot * 2 + 1]) {
      removeAt(handle.sides, side)
      inserted[side] = 0
    }
  }

  function close(): void {
    ring.unmap()
    lines.unmap()
  }

  return { ring: handle.ring, join, events, attend, drained, took, settle, give, bytes, leave, close }
}
