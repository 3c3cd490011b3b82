// The way back: a new release that goes before it is in charge gives what it has got to the release before, which goes on with it as
// if nothing had been.
//
//   worker of the new release, whose primary has gone: giveBack ══ letters ══▶ openReturn, of the worker that had given
//
// That door is open from the first tunnel that is given until the new release is in charge. Whoever finds none there drains, as after
// the death of any primary.

import { setTimeout as pause } from 'node:timers/promises'
import type { Edge } from '../edge.ts'
import type { Arriving, Handover } from '../handover.ts'
import { seatsOf } from '../handover.ts'
import type { Loop } from '../linux/loop.ts'
import type { Giver } from './handover-giver.ts'
import { createGiver } from './handover-giver.ts'
import { doorOf } from './handover-letters.ts'
import { openTaker } from './handover-taker.ts'

/** What has come back. */
export interface Returned {
  readonly tunnels: number
  /** The ids that have seats in the ledger. */
  readonly counted: readonly string[]
  /** Processes that have not gone, and may still give back what they have. */
  readonly silent: readonly number[]
}

export interface Return {
  /** Tunnels are given there. */
  follow(giver: Giver): void
  /** Resolves with what has come back when all that were given to have gone, but for those that are silent, or after `ms`. */
  settled(ms: number): Promise<Returned>
  /** Processes that had not gone then, and have not yet. */
  readonly silent: readonly number[]
  /** Ends these, with what they have. */
  endSilent(): void
  close(): void
}

/** How often it is looked whether the other one has gone, in ms. */
const LOOK_MS = 20

/** What the new release has accepted before its primary went has so long to become a tunnel, in ms. */
const ARRIVALS_TIMEOUT_MS = 1_000

/** `taken`: as a taker's. `late` is told how many have come back after all that `settled` knew of. Throws the system's error. */
export function openReturn(
  loop: Loop,
  handover: Handover,
  folder: string,
  taken: (ids: readonly string[]) => Promise<unknown>,
  late: (tunnels: number) => void,
): Return {
  const givers: Giver[] = []
  const all: Arriving[] = []
  let hanging: readonly Giver[] = []
  const counting: Handover = {
    ...handover,
    async adopt(arriving) {
      // The upgrade is over: nothing is listed as having left.
      for (const giver of givers) giver.settle()
      if (silent().length === 0) all.push(...arriving)
      else late(arriving.length)
      return await handover.adopt(arriving)
    },
  }
  const door = openTaker(loop, counting, folder, doorOf(process.pid), taken)
  const silent = () => hanging.filter(({ isAlone }) => !isAlone)
  return {
    follow: (giver) => void givers.push(giver),
    async settled(ms) {
      const deadline = performance.now() + ms
      const isDone = () => givers.every(({ isAlone, isSilent }) => isAlone || isSilent)
      while (!isDone() && performance.now() < deadline) await pause(LOOK_MS)
      hanging = givers.filter(({ isAlone }) => !isAlone)
      const back = all.splice(0)
      const counted = back.flatMap(({ identity, progress }) => seatsOf(identity, progress))
      return { tunnels: back.length, counted, silent: hanging.map(({ pid }) => pid) }
    },
    get silent() {
      return silent().map(({ pid }) => pid)
    },
    endSilent() {
      for (const one of silent()) one.end()
    },
    close: door.close,
  }
}

/** To the processes with these ids, as many as each takes. Whatever is left goes on here. */
export async function giveBack(
  loop: Loop,
  { handover, settleArrivals }: Pick<Edge, 'handover' | 'settleArrivals'>,
  folder: string,
  pids: readonly number[],
): Promise<void> {
  for (const pid of pids) {
    try {
      const giver = createGiver(loop, handover, folder, doorOf(pid))
      // Whoever goes on with them is not ended for being slow.
      giver.settle()
      await giver.offer()
      await giver.giveAway()
      await settleArrivals(ARRIVALS_TIMEOUT_MS)
      await giver.offer()
      await giver.giveAway()
    } catch {
      // It waits for none.
    }
  }
}
