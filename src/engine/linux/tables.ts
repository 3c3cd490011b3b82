// What the main thread and the relay thread know of each tunnel, in memory that both have. A tunnel has a slot; a side
// of it has an index: slot * 2 for the client, slot * 2 + 1 for the origin, so that `index ^ 1` is the other side.
//
//   main    takes a free slot, writes it         ── begun ──▶  relay  watches both descriptors, moves bytes, counts them
//   main    hears of it, reads the counts, frees the slot  ◀── ended ──  relay  closes both, writes the end
//   main    has it back, to begin it again or to give it to another process  ◀── frozen ──  relay  leaves it as it is
//
// Between them the slot and its descriptors are the relay's alone; main only reads.

import type { Libc } from '../../linux/libc.ts'
import { RLIMIT_NOFILE, systemError } from '../../linux/libc.ts'
import type { SlotRing } from './slot-ring.ts'
import { createSlotRing } from './slot-ring.ts'

export interface Tables {
  /** How many tunnels there can be. */
  readonly slots: number
  /** By side; -1 from the end on. Written by main before the tunnel begins, then by the relay. */
  readonly descriptors: Int32Array
  /** By side: bytes taken from it. Written by main before the tunnel begins, then by the relay alone. */
  readonly bytes: Float64Array
  /** By slot: how often it was taken. An event or order for an earlier tunnel in the same slot is for nobody. */
  readonly generations: Int32Array
  /** By slot: what moves its bytes. Written by main; by the relay if the kernel refuses a tunnel. */
  readonly modes: Uint8Array
  /** By slot: what was before it came to this relay, or until it leaves it (bits.ts). Written by its owner of then. */
  readonly pasts: Uint8Array
  /** By slot: how it ended (see `endWord`). */
  readonly ends: Int32Array
  readonly begun: SlotRing
  readonly ended: SlotRing
  /** One word, 1 while another process may have duplicates of the descriptors. */
  readonly shared: Int32Array
  /** One word, 1: the thread ends. */
  readonly stopped: Int32Array
  /** One word, 1 when it has ended; waited for with Atomics. */
  readonly left: Int32Array
}

/** More tunnels than any process has held yet. */
const SLOTS_LIMIT = 512 * 1024

export const MODE_EPOLL = 0
export const MODE_SOCKMAP = 1

/** Two descriptors for each tunnel: as many as the process may have (getrlimit(2)). Throws the system's error. */
export function slotsOf(calls: Libc): number {
  const limits = new BigUint64Array(2)
  if (calls.getrlimit(RLIMIT_NOFILE, limits) === -1) throw systemError(calls.errno(), 'getrlimit')
  const half = (limits[0] as bigint) / 2n
  return half < BigInt(SLOTS_LIMIT) ? Number(half) : SLOTS_LIMIT
}

export function createTables(slots: number): Tables {
  const words = (count: number) => new Int32Array(new SharedArrayBuffer(count * 4))
  return {
    slots,
    descriptors: words(slots * 2),
    bytes: new Float64Array(new SharedArrayBuffer(slots * 2 * 8)),
    generations: words(slots),
    modes: new Uint8Array(new SharedArrayBuffer(slots)),
    pasts: new Uint8Array(new SharedArrayBuffer(slots)),
    ends: words(slots),
    begun: createSlotRing(slots),
    ended: createSlotRing(slots),
    shared: words(1),
    stopped: words(1),
    left: words(1),
  }
}

/** Who ended a tunnel, in what way, and the number of the system's error: one word. */
export const ENDED_BY_CLIENT = 0
export const ENDED_BY_ORIGIN = 1
export const ENDED_BY_OPERATOR = 2
export const ENDED_BY_EDGE = 3

export function endWord(who: number, isReset: boolean, error: number): number {
  return who | (isReset ? 4 : 0) | (error << 3)
}

export function whoEnded(word: number): number {
  return word & 3
}

export function wasReset(word: number): boolean {
  return (word & 4) !== 0
}

export function errorOfEnd(word: number): number {
  return word >>> 3
}
