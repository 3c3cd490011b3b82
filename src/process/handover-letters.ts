// What two workers write to each other while tunnels go from one to the other. The one who has them asks, the other answers:
//
//   giver                                       taker
//   offer, with two descriptors for each ──▶    holds them, and touches nothing
//                                        ◀──    taken                     … as often as it takes; all tunnels go on
//   (freezes them) kept, progress        ──▶
//   complete                             ──▶    has all that it needs
//                                        ◀──    complete
//   commit                               ──▶
//   (they are not its own any more)      ◀──    mine, before it touches the first
//                                        ◀──    begun
//
// Up to `mine` the giver can take them back: whoever dies or is silent before has never touched them. A letter is JSON in one
// line, and bytes behind it.

import type { Identity, Progress } from '../handover.ts'

/** Of all that is said here and in handover.ts. Two releases with different numbers hand over listeners, but no tunnels. */
export const HANDOVER_FORMAT = 1

/** In the state folder, where a worker takes tunnels. */
export const doorOf = (pid: number) => `handover-${pid}.sock`
export const DOOR = /^handover-[0-9]+\.sock$/

export type FromGiver =
  | { readonly kind: 'offer'; readonly tunnels: readonly Identity[] }
  /** The bytes are to be sent to one side before any others; what doesn't fit follows in another letter. */
  | { readonly kind: 'kept'; readonly id: string; readonly side: 'client' | 'origin' }
  | { readonly kind: 'progress'; readonly tunnels: readonly (readonly [id: string, progress: Progress])[] }
  /** So many tunnels have been told of. */
  | { readonly kind: 'complete'; readonly count: number }
  | { readonly kind: 'commit' }
  /** All that was offered is not to be taken. */
  | { readonly kind: 'drop' }

export type FromTaker =
  /** False: not this letter's, and no more: there is no room, or there are no descriptors. */
  | { readonly kind: 'taken'; readonly isTaken: boolean }
  /** Null, or in words what is missing. */
  | { readonly kind: 'complete'; readonly trouble: string | null }
  | { readonly kind: 'mine' }
  /** When the last of them went on, see linux/monotonic.ts. */
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
