// What the main thread and the relay thread know of each tunnel, in memory that both have. A tunnel has a slot; a side
// of it has an index: slot * 2 for the client, slot * 2 + 1 for the origin, so that `index ^ 1` is the other side.
//
//   main    takes a free slot, writes it, registers both descriptors ─▶ relay  moves bytes, counts them
//   main    hears of the end, reads counts, frees the slot  ◀─ ring ──  relay  closes both descriptors, writes the end

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
  /** By slot: how it ended (see `endWord`). */
  readonly ends: Int32Array
  /** Slots whose tunnels have ended, as a ring: one place for each slot, so that it is never too full. */
  readonly ended: Int32Array
  /** The ring's head and tail, and two words between the threads. */
  readonly cursor: Int32Array
}

export const MODE_EPOLL = 0
export const MODE_SOCKMAP = 1

/** Where the relay writes in the ring. */
export const HEAD = 0
/** Where main reads. */
export const TAIL = 1
/** 1 from when the relay has told main of ended tunnels to when main looks. */
export const SIGNALLED = 2
/** 1: the thread ends. */
export const STOPPED = 3

export function createTables(slots: number): Tables {
  const words = (count: number) => new Int32Array(new SharedArrayBuffer(count * 4))
  return {
    slots,
    descriptors: words(slots * 2),
    bytes: new Float64Array(new SharedArrayBuffer(slots * 2 * 8)),
    generations: words(slots),
    modes: new Uint8Array(new SharedArrayBuffer(slots)),
    ends: words(slots),
    ended: words(slots),
    cursor: words(4),
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

/** By the relay, once for each tunnel. */
export function pushEnded({ ended, cursor, slots }: Tables, slot: number): void {
  const head = Atomics.load(cursor, HEAD)
  ended[head % slots] = slot
  Atomics.store(cursor, HEAD, (head + 1) % (slots * 2))
}

/** By main: a slot, or -1 if nothing more has ended. */
export function takeEnded({ ended, cursor, slots }: Tables): number {
  const tail = Atomics.load(cursor, TAIL)
  if (tail === Atomics.load(cursor, HEAD)) return -1
  const slot = ended[tail % slots] as number
  Atomics.store(cursor, TAIL, (tail + 1) % (slots * 2))
  return slot
}
