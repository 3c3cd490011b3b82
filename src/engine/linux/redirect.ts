// What the relay does with tunnels that the kernel redirects (sockmap.ts): it moves none of their bytes and is woken for
// none of them, only for their ends and when a direction has to be looked at.
//
//   USER ──empty──▶ KERNEL ──a reader stands still──▶ taken back ──drained──▶ read and sent by the relay, for good
//
// A direction that was taken back is not read before all that was redirected has left: nothing may overtake it. Nobody
// tells of that, so such directions are asked now and then, and so are those whose FIN has come. A tunnel is taken back
// whole, and not given again: bytes that are left to user space (PASSED) on a socket whose send side is blocked are
// counted by nobody (verdict.ts), and a tunnel that carries so much gains nothing from the kernel.

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
  /** The same, but later: never inside this call. */
  soon(side: number): void
  /** The FIN of `side` has come, and all before it has left. */
  ended(side: number): void
  /** Bytes of `side` were read that come next. */
  first(side: number, bytes: Buffer): void
  /** Bytes are gone. */
  lost(side: number): void
}

const NONE = 0
const KERNEL = 1
/** As any other socket. */
const USER = 2
/** Read with recv only (sockmap.ts). */
const PASSED = 3

const POLL_MS = 1
const LONGEST_POLL_MS = 32

export function createRedirect(sockmap: Sockmap, slots: number, hooks: RedirectHooks): Redirect {
  const ways = new Uint8Array(slots * 2)
  /** By slot: 1 from when it was taken back. */
  const retired = new Uint8Array(slots)
  /** Not drained, or not read to the end, when they were asked last. */
  const waiting = new Set<number>()
  let pollMs = POLL_MS

  function join(slot: number): boolean {
    const [client = -1, origin = -1] = hooks.descriptors.subarray(slot * 2, slot * 2 + 2)
    const taken = sockmap.join(slot, client, origin)
    if (taken === 0) return false
    ways[slot * 2] = taken & 1 ? KERNEL : USER
    ways[slot * 2 + 1] = taken & 2 ? KERNEL : USER
    return true
  }

  function mayRead(side: number, hasEnd: boolean): boolean {
    const way = ways[side]
    if (way === NONE) return true
    if (way === KERNEL && hasEnd) look(side)
    // Looking may have found that it is over.
    if (ways[side] === NONE) return false
    if (ways[side] !== KERNEL) return isSettled(side)
    if (hasEnd && isSettled(side)) hooks.ended(side)
    return false
  }

  /** What was passed may still be on its way to where recv finds it, behind which the FIN then only seems to be. */
  function awaits(side: number): boolean {
    if (ways[side] !== PASSED || sockmap.isRead(side)) return false
    wait(side)
    return true
  }

  function isSettled(side: number): boolean {
    if (sockmap.drained(side)) {
      waiting.delete(side)
      return true
    }
    wait(side)
    return false
  }

  function wait(side: number): void {
    if (!waiting.has(side)) pollMs = POLL_MS
    waiting.add(side)
  }

  function hear(): void {
    sockmap.events((side) => {
      if (ways[side] !== KERNEL && ways[side] !== PASSED) return
      look(side)
      if (ways[side] !== KERNEL) hooks.resume(side)
    })
  }

  function look(side: number): void {
    follow(side, sockmap.attend(side))
  }

  function takeBack(side: number): void {
    if (ways[side] === KERNEL) follow(side, sockmap.takeBack(side))
  }

  function follow(side: number, way: ReturnType<Sockmap['attend']>): void {
    if (way === 'kernel') return
    if (way === 'lost') return void hooks.lost(side)
    ways[side] = way === 'user' ? USER : PASSED
    retired[side >> 1] = 1
    const rest = sockmap.rest(side)
    if (rest.length > 0) hooks.first(side, rest)
    watchBoth(side)
    // It may be in the middle of a look itself; its own events go on from here.
    if (ways[side ^ 1] === KERNEL) {
      takeBack(side ^ 1)
      hooks.soon(side ^ 1)
    }
  }

  function watchBoth(side: number): void {
    hooks.watch(side)
    hooks.watch(side ^ 1)
  }

  function emptied(side: number): void {
    if (ways[side] === PASSED) return void pastPassed(side)
    if (ways[side] !== USER || retired[side >> 1] === 1 || !sockmap.give(side)) return
    ways[side] = KERNEL
    watchBoth(side)
  }

  /** What was passed and is still hidden from recv has no edge that one could rely on: it is asked for. */
  function pastPassed(side: number): void {
    if (!sockmap.settle(side)) return void wait(side)
    ways[side] = KERNEL
    takeBack(side)
  }

  function poll(): number {
    if (waiting.size === 0) return -1
    const before = waiting.size
    for (const side of [...waiting]) {
      // What was resumed before it may have ended its tunnel.
      if (!waiting.has(side) || !sockmap.drained(side)) continue
      waiting.delete(side)
      hooks.resume(side)
    }
    pollMs = waiting.size < before ? POLL_MS : Math.min(pollMs * 2, LONGEST_POLL_MS)
    return waiting.size === 0 ? -1 : pollMs
  }

  function leave(slot: number): void {
    for (const side of [slot * 2, slot * 2 + 1]) {
      waiting.delete(side)
      if (ways[side] === NONE && ways[side ^ 1] === NONE) return
    }
    ways.fill(NONE, slot * 2, slot * 2 + 2)
    retired[slot] = 0
    sockmap.leave(slot)
  }

  return {
    ring: sockmap.ring,
    join,
    redirects: (side) => ways[side] === KERNEL,
    allowsBulk: (side) => ways[side] !== PASSED,
    mayRead,
    isDrained: (side) => ways[side] === NONE || isSettled(side),
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
