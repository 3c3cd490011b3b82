// What two workers write to each other while tunnels go from one to the other. The one who has them asks, the other answers:
//
//   giver                                       taker
//   offer, with two descriptors for each ──▶    holds them, and touches nothing
//                                        ◀──    taken                     … as often as it takes; all tunnels go on
//   (freezes some) kept, batch           ──▶
//                                        ◀──    mine, before it touches the first
//   (they are not its own any more)      ◀──    begun                     … batch by batch; all others go on
//   end, of one that is not its own      ──▶    ends it
//   drop, at last                        ──▶    closes what it holds and has not got
//
// Up to `mine` the giver can take a batch back: whoever dies or is silent before has never touched it. A letter is JSON in one
// line, and bytes behind it.

import type { Identity, Progress } from '../handover.ts'

/** Of all that is said here and in handover.ts. Two releases with different numbers hand over listeners, but no tunnels. */
export const HANDOVER_FORMAT = 3

/** In the state folder, where a worker takes tunnels. */
export const doorOf = (pid: number) => `handover-${pid}.sock`
export const DOOR = /^handover-[0-9]+\.sock$/

export type FromGiver =
  | { readonly kind: 'offer'; readonly tunnels: readonly Identity[] }
  /** The bytes are to be sent to one side before any others; what doesn't fit follows in another letter. */
  | { readonly kind: 'kept'; readonly id: string; readonly side: 'client' | 'origin' }
  /** These are to be taken now, with all that was kept of them. */
  | { readonly kind: 'batch'; readonly tunnels: readonly (readonly [id: string, progress: Progress])[] }
  /** An operator's order that came while it was on its way, or later. */
  | { readonly kind: 'end'; readonly id: string; readonly how: 'fin' | 'reset' }
  /** What else was offered is not to be taken. */
  | { readonly kind: 'drop' }

export type FromTaker =
  /** False: not this letter's, and no more: there is no room, or there are no descriptors. */
  | { readonly kind: 'taken'; readonly isTaken: boolean }
  /** The batch. */
  | { readonly kind: 'mine' }
  /** When the last of it went on, see linux/monotonic.ts. */
  | { readonly kind: 'begun'; readonly at: number }

const LINE_FEED = 10

export function written(letter: FromGiver | FromTaker, bytes?: Uint8Array): Buffer {
  const line = Buffer.from(`${JSON.stringify(letter)}\n`)
  return bytes === undefined ? line : Buffer.concat([line, bytes])
}

/** What the other side has written: a process of the same user and format. */
export function read<From extends FromGiver | FromTaker>(all: Buffer): { letter: From; bytes: Buffer } {
  const end = all.indexOf(LINE_FEED)
  return { letter: JSON.parse(all.toString('utf8', 0, end)) as From, bytes: all.subarray(end + 1) }
}
