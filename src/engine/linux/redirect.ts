// What the relay does with tunnels that the kernel redirects (sockmap.ts): it moves none of their bytes and is woken for
// none of them, only for their ends and when a direction has to be looked at.
//
//   USER ── emptied ─▶ KERNEL ── its bound, its FIN, or an operator ─▶ LEAVING ── drained ─▶ PASSED
//
// In USER and PASSED the relay reads and sends as for any tunnel. In LEAVING nothing is read: nothing may overtake what
// was redirected. Nobody tells when that has left, so such directions are asked now and then; it is never long, since
// what is redirected never waits for a window (sockmap.ts). A direction doesn't go back, and doesn't touch the other one.

import type { Sockmap } from './sockmap.ts'

export interface Redirect {
  /** Readable when `hear` has something. */
  readonly ring: number
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
  /** Reading said that `side` has ended: true if there is more to come all the same. It is resumed then. */
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

const POLL_MS = 1

export function createRedirect(sockmap: Sockmap, slots: number, hooks: RedirectHooks): Redirect {
  const ways = new Uint8Array(slots * 2)
  /** Not drained, or not read to the end, when they were asked last. */
  const waiting = new Set<number>()

  function join(slot: number): boolean {
    const [client = -1, origin = -1] = hooks.descriptors.subarray(slot * 2, slot * 2 + 2)
    const taken = sockmap.join(slot, client, origin)
    if (taken === 0) return false
    ways[slot * 2] = taken & 1 ? KERNEL : USER
    ways[slot * 2 + 1] = taken & 2 ? KERNEL : USER
    return true
  }

  function mayRead(side: number, hasEnd: boolean): boolean {
    if (hasEnd) takeBack(side)
    return ways[side] !== KERNEL && isDrained(side)
  }

  function takeBack(side: number): void {
    if (ways[side] !== KERNEL) return
    sockmap.takeBack(side)
    ways[side] = LEAVING
    watchBoth(side)
  }

  function isDrained(side: number): boolean {
    if (ways[side] !== LEAVING) return ways[side] !== KERNEL
    if (!sockmap.drained(side)) {
      waiting.add(side)
      return false
    }
    sockmap.settle(side)
    ways[side] = PASSED
    return true
  }

  function watchBoth(side: number): void {
    hooks.watch(side)
    hooks.watch(side ^ 1)
  }

  function hear(): void {
    sockmap.events((side) => {
      if (ways[side] === NONE || ways[side] === USER) return
      const way = sockmap.attend(side)
      if (way === 'lost') return void hooks.lost(side)
      if (way === 'kernel' || ways[side] !== KERNEL) return
      takeBack(side)
      hooks.resume(side)
    })
  }

  /** What was passed may still be on its way to where recv finds it: behind it a FIN only seems to be next. */
  function awaits(side: number): boolean {
    if (ways[side] !== PASSED || sockmap.isRead(side)) return false
    waiting.add(side)
    return true
  }

  function emptied(side: number): void {
    if (ways[side] === PASSED) return void awaits(side)
    if (ways[side] !== USER || !sockmap.give(side)) return
    ways[side] = KERNEL
    watchBoth(side)
  }

  function poll(): number {
    if (waiting.size === 0) return -1
    const before = [...waiting]
    waiting.clear()
    // Resuming a side tells whether it still waits, and may end its tunnel.
    for (const side of before) if (ways[side] !== NONE) hooks.resume(side)
    return waiting.size === 0 ? -1 : POLL_MS
  }

  function leave(slot: number): void {
    for (const side of [slot * 2, slot * 2 + 1]) waiting.delete(side)
    if (ways[slot * 2] === NONE) return
    ways.fill(NONE, slot * 2, slot * 2 + 2)
    sockmap.leave(slot)
  }

  return {
    ring: sockmap.ring,
    join,
    redirects: (side) => ways[side] === KERNEL,
    allowsBulk: (side) => ways[side] === NONE || ways[side] === USER,
    mayRead,
    isDrained,
    took: (side, size) => ways[side] === PASSED && sockmap.took(side, size),
    awaits,
    emptied,
    takeBack,
    hear,
    poll,
    bytes: (side) => (ways[side] === NONE ? 0 : sockmap.bytes(side)),
    leave,
  }
}
