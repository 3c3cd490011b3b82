// The end of all tunnels of an edge, spread over a time, so that their clients do not all come back at once.
//
//   ├───────────────────────── drainMs ─────────────────────────┤
//   ├── they end by themselves ──┼────────── spreadMs ──────────┤ finish(): whatever is left
//                                 the rest is closed one by one,
//                                 the one that is idle longest first

import { setTimeout as wait } from 'node:timers/promises'
import { nextStep } from './pace.ts'
import type { Registry } from './registry.ts'
import type { Tunnel } from './tunnel.ts'

export interface DrainTimes {
  /** What all of it may take. */
  readonly drainMs: number
  /** The last part of it, in which the rest is closed; what is longer is all of it. */
  readonly spreadMs: number
}

export const NOW: DrainTimes = { drainMs: 0, spreadMs: 0 }

export interface DrainCounts {
  /** By themselves: by a client, an origin, or an operator who meant just these. */
  readonly ended: number
  /** In its turn, or because its time was over. */
  readonly closed: number
  /** Before its time, since somebody could not wait; or what did not end when it was closed. */
  readonly cut: number
}

export interface DrainProgress extends DrainCounts {
  readonly open: number
  readonly leftMs: number
}

export interface Drain {
  /** Null before it has begun. */
  readonly progress: DrainProgress | null
  /** Resolves when nothing is open any more, or the time is up. A later call may only shorten the time of the first. */
  run(times: DrainTimes): Promise<void>
  /** Closes whatever is left, and resolves when that is over. A second call is the first. */
  finish(): Promise<DrainCounts>
}

/** What is known of the tunnels elsewhere. */
export interface Sight {
  /** Reads the counters of all tunnels. */
  look(): void
  /** When bytes of it were seen last, in ms of some clock; the time of its begin, if there were none. */
  movedAt(tunnel: Tunnel): number
  /** Whether requests are on their way that may become tunnels, or are being answered. */
  isBusy(): boolean
}

/** Between two looks at who is idle, in ms. */
const LOOK_MS = 1_000

/** Between two looks at whether requests are still on their way, in ms. */
const BUSY_MS = 50

/** After the drain, how long the ends of the rest may take, in ms. */
const FINISH_TIMEOUT_MS = 3_000

export function createDrain(registry: Registry, sight: Sight, random = Math.random): Drain {
  /** Those that were not closed here, with what was known of them last: the longest idle first. */
  const order = new Map<Tunnel, number>()
  const counts = { ended: 0, closed: 0, cut: 0 }
  let endsAt = 0
  let spreadAt = 0
  let isCut = false
  let hurry = new AbortController()
  let running: Promise<void> | null = null
  let finishing: Promise<DrainCounts> | null = null

  function run(times: DrainTimes): Promise<void> {
    const at = performance.now() + times.drainMs
    if (running !== null && at >= endsAt) return running
    endsAt = at
    spreadAt = at - Math.min(times.spreadMs, times.drainMs)
    if (running === null) {
      running = closeAll()
      return running
    }
    isCut = times.drainMs === 0
    hurry.abort()
    return running
  }

  function begin(): void {
    sight.look()
    const open = [...registry.all()].map((tunnel) => ({ tunnel, at: sight.movedAt(tunnel) }))
    for (const { tunnel, at } of open.sort((one, other) => one.at - other.at)) order.set(tunnel, at)
    registry.observer = {
      added: (tunnel) => void order.set(tunnel, sight.movedAt(tunnel)),
      removed(tunnel) {
        if (order.delete(tunnel)) counts.ended += 1
      },
    }
  }

  async function closeAll(): Promise<void> {
    begin()
    let lookAt = performance.now() + LOOK_MS
    let due: { readonly at: number; readonly count: number } | null = null
    for (;;) {
      const now = performance.now()
      if (due !== null && now >= due.at) {
        closeFirst(due.count)
        due = null
      }
      if (now >= endsAt || (registry.size === 0 && !sight.isBusy())) return
      if (now >= lookAt) {
        await look()
        lookAt = performance.now() + LOOK_MS
      }
      if (due === null && now >= spreadAt && order.size > 0) {
        const { waitMs, count } = nextStep(order.size, endsAt - now, random())
        due = { at: now + waitMs, count }
      }
      const nextAt = Math.min(lookAt, endsAt, due?.at ?? (now < spreadAt ? spreadAt : endsAt))
      const isHurried = await pause(nextAt - performance.now())
      if (isHurried) due = null
    }
  }

  /** True if the time was shortened meanwhile. */
  async function pause(ms: number): Promise<boolean> {
    const { signal } = hurry
    const leftMs = Math.max(0, ms)
    if (!signal.aborted && registry.size > 0) await registry.empty(leftMs, signal)
    else await wait(Math.min(leftMs, BUSY_MS), undefined, { signal }).catch(() => {})
    if (signal.aborted) hurry = new AbortController()
    return signal.aborted
  }

  /** Those that have moved since are the last ones now. */
  async function look(): Promise<void> {
    sight.look()
    await registry.walk((tunnel) => {
      const before = order.get(tunnel)
      const at = sight.movedAt(tunnel)
      if (before === undefined || before === at) return
      order.delete(tunnel)
      order.set(tunnel, at)
    })
  }

  function closeFirst(count: number): void {
    let left = count
    for (const tunnel of order.keys()) {
      if (left === 0) return
      left -= 1
      order.delete(tunnel)
      counts.closed += 1
      tunnel.splicing?.stop('fin')
    }
  }

  async function finish(): Promise<DrainCounts> {
    const rest = new Set(order.keys())
    order.clear()
    registry.observer = null
    counts[isCut ? 'cut' : 'closed'] += rest.size
    await registry.stop('fin', (tunnel) => rest.has(tunnel))
    await registry.empty(FINISH_TIMEOUT_MS)
    if (!isCut) {
      counts.closed -= registry.size
      counts.cut += registry.size
    }
    return { ...counts }
  }

  return {
    get progress() {
      if (running === null) return null
      return { open: registry.size, ...counts, leftMs: Math.max(0, Math.round(endsAt - performance.now())) }
    },
    run,
    finish() {
      finishing ??= finish()
      return finishing
    },
  }
}
