// What the relay does with tunnels that the kernel redirects (sockmap.ts): it moves none of their bytes and is woken for
// none of them, only for their ends and when a direction has to be looked at.
//
//   USER ── emptied ─▶ KERNEL ── its bound, its FIN, or an operator ─▶ LEAVING ── drained ─▶ PASSED
//
// In USER and PASSED the relay reads and sends as for any tunnel. In LEAVING nothing is read: nothing may overtake what
// was redirected. Nobody tells when that has left, so such directions are asked now and then; it is never long, since
// what is redirected never waits for a window (sockmap.ts). A direction doesn't go back, and doesn't touch the other one.
//
// A tunnel that leaves this relay for one of another process is taken back first. Its sockets keep the program, which passes
// all, and the program its maps; over there such a side is ORPHANED. Whether all that was passed has been read is asked of the
// socket then: what has come on it, less what had gone from it before the tunnel's first byte.

import type { Sockets } from './sockets.ts'
import type { Sockmap } from './sockmap.ts'

/** Of a side that is ORPHANED: bytes that had come on its connection ahead of those that the tunnel counts. Null: it isn't. */
export type Ahead = number | null

export const NO_AHEADS = [null, null] as const

export interface Redirect {
  /** From now on `join` gives tunnels to the kernel. */
  open(sockmap: Sockmap): void
  /** A side that is about to begin was redirected before. */
  adopt(side: number, ahead: number): void
  /**
   * What another relay must be told of a tunnel that leaves this one; null if it can't yet: its directions are being taken
   * back, and it goes on.
   */
  release(slot: number): readonly [client: Ahead, origin: Ahead] | null
  /** Gives a tunnel to the kernel as far as it takes it; false if not at all. */
  join(slot: number): boolean
  /** Whether the kernel moves what comes from `side`. */
  redirects(side: number): boolean
  /** Whether bytes of `side` may be read by splice(2). */
  allowsBulk(side: number): boolean
  /** Asked before `side` is read: false if it must not be, yet or at all. `hasEnd`: its FIN has come. */
  mayRead(side: number, hasEnd: boolean): boolean
  /** Whether all that the kernel has of `side` has reached the other side's send queue. */
  isDrained(side: number): boolean
  /** The relay has received so many bytes. */
  took(side: number, size: number): void
  /**
   * `side` begins, is closed, or reading said that it has ended: true if what was passed has not all been read. Unless it is
   * closed it is resumed then, or found lost.
   */
  awaits(side: number): boolean
  /** Nothing was left to read, and all is sent: the kernel may have it. */
  emptied(side: number): void
  /** From here on `side` is read by the relay. */
  takeBack(side: number): void
  /** The kernel asks for a look at some directions. */
  hear(): void
  /** Looks at those that wait, and says in how many ms to look again; -1: there is no need. */
  poll(): number
  /** Bytes that the kernel has moved from `side`. */
  bytes(side: number): number
  /** When both sides are closed. */
  leave(slot: number): void
}

export interface RedirectHooks {
  readonly descriptors: Int32Array
  /** By side: what the relay has taken from it. */
  readonly bytes: Float64Array
  /** What `side` is watched for has changed. */
  watch(side: number): void
  /** `side` may have become readable. */
  resume(side: number): void
  /** Bytes are gone. */
  lost(side: number): void
}

/** The tunnel is not in the kernel's maps. */
const NONE = 0
const USER = 1
const KERNEL = 2
const LEAVING = 3
/** Read with recv only (sockmap.ts). */
const PASSED = 4
/** The same, by maps of another process. */
const ORPHANED = 5

const POLL_MS = 1

export function createRedirect(sockets: Sockets, slots: number, hooks: RedirectHooks): Redirect {
  const ways = new Uint8Array(slots * 2)
  /** By slot: it is in the maps. */
  const joined = new Uint8Array(slots)
  const aheads = new Map<number, number>()
  let maps: Sockmap | null = null
  /** Not drained, or not read to the end, when they were asked last. */
  const waiting = new Set<number>()

  function join(slot: number): boolean {
    const [client = -1, origin = -1] = hooks.descriptors.subarray(slot * 2, slot * 2 + 2)
    const taken = maps?.join(slot, client, origin) ?? 0
    if (taken === 0) return false
    joined[slot] = 1
    ways[slot * 2] = taken & 1 ? KERNEL : USER
    ways[slot * 2 + 1] = taken & 2 ? KERNEL : USER
    return true
  }

  function adopt(side: number, ahead: number): void {
    // It is passed already where it only comes back to the relay that has released it.
    if (ways[side] !== NONE) return
    ways[side] = ORPHANED
    aheads.set(side, ahead)
  }

  function release(slot: number): readonly [client: Ahead, origin: Ahead] | null {
    const [client, origin] = [slot * 2, slot * 2 + 1]
    for (const side of [client, origin]) takeBack(side)
    const canLeave = [client, origin].map((side) => isDrained(side) && !isLost(side))
    if (canLeave.includes(false)) return null
    const moved = [bytes(client), bytes(origin)] as const
    const gone = joined[slot] === 1 ? maps?.release(slot) : undefined
    for (const side of [client, origin]) {
      waiting.delete(side)
      if (ways[side] === USER) ways[side] = NONE
    }
    const result = [aheadOf(client, moved[0], gone?.[0]), aheadOf(origin, moved[1], gone?.[1])] as const
    // Nothing of it is passed: the maps' part in it is over.
    if (ways[client] === NONE && ways[origin] === NONE) leave(slot)
    return result
  }

  /** `moved`: bytes by the kernel, which count as the relay's from here on; `gone`: see Sockmap's `release`. */
  function aheadOf(side: number, moved: number, gone = 0): Ahead {
    const total = (hooks.bytes[side] as number) + moved
    hooks.bytes[side] = total
    return ways[side] === PASSED ? gone - total : (aheads.get(side) ?? null)
  }

  function mayRead(side: number, hasEnd: boolean): boolean {
    if (hasEnd) takeBack(side)
    return ways[side] !== KERNEL && isDrained(side)
  }

  function takeBack(side: number): void {
    if (ways[side] !== KERNEL) return
    maps?.takeBack(side)
    ways[side] = LEAVING
    watchBoth(side)
  }

  function isDrained(side: number): boolean {
    if (ways[side] !== LEAVING) return ways[side] !== KERNEL
    if (maps?.drained(side) === false) {
      waiting.add(side)
      return false
    }
    maps?.settle(side)
    ways[side] = PASSED
    return true
  }

  function watchBoth(side: number): void {
    hooks.watch(side)
    hooks.watch(side ^ 1)
  }

  function hear(): void {
    maps?.events((side) => {
      if (!isCounted(side)) return
      const way = maps?.attend(side)
      if (way === 'lost') return void hooks.lost(side)
      if (way === 'kernel' || ways[side] !== KERNEL) return
      takeBack(side)
      hooks.resume(side)
    })
  }

  /** The maps' program counts what comes from it. */
  function isCounted(side: number): boolean {
    return ways[side] === KERNEL || ways[side] === LEAVING || ways[side] === PASSED
  }

  function isLost(side: number): boolean {
    return isCounted(side) && maps?.attend(side) === 'lost'
  }

  /** What was passed may still be on its way to where recv finds it: behind it a FIN only seems to be next. */
  function awaits(side: number): boolean {
    if (isRead(side)) return false
    waiting.add(side)
    return true
  }

  function isRead(side: number): boolean {
    if (isCounted(side)) return maps?.isRead(side) !== false
    if (ways[side] !== ORPHANED) return true
    const received = sockets.received(hooks.descriptors[side] as number)
    return received - (aheads.get(side) as number) <= (hooks.bytes[side] as number)
  }

  function emptied(side: number): void {
    if (ways[side] === PASSED || ways[side] === ORPHANED) return void awaits(side)
    if (ways[side] !== USER || maps?.give(side) !== true) return
    ways[side] = KERNEL
    watchBoth(side)
  }

  function poll(): number {
    if (waiting.size === 0) return -1
    const before = [...waiting]
    waiting.clear()
    for (const side of before) {
      // Each may end its tunnel; resuming a side tells whether it still waits.
      if (isLost(side)) hooks.lost(side)
      else if (ways[side] !== NONE) hooks.resume(side)
    }
    return waiting.size === 0 ? -1 : POLL_MS
  }

  function bytes(side: number): number {
    return ways[side] === NONE || ways[side] === ORPHANED ? 0 : (maps?.bytes(side) ?? 0)
  }

  function leave(slot: number): void {
    if (joined[slot] === 1) maps?.leave(slot)
    joined[slot] = 0
    for (const side of [slot * 2, slot * 2 + 1]) {
      waiting.delete(side)
      aheads.delete(side)
      ways[side] = NONE
    }
  }

  return {
    open(sockmap) {
      maps = sockmap
    },
    adopt,
    release,
    join,
    redirects: (side) => ways[side] === KERNEL,
    allowsBulk: (side) => ways[side] === NONE || ways[side] === USER,
    mayRead,
    isDrained,
    took(side, size) {
      if (ways[side] === PASSED) maps?.took(side, size)
    },
    awaits,
    emptied,
    takeBack,
    hear,
    poll,
    bytes,
    leave,
  }
}
