// Slots on their way from one thread to the other: a ring in shared memory with one writer and one reader. It has a place
// for every slot, and no slot is in it twice, so that it is never too full.

export interface SlotRing {
  readonly entries: Int32Array
  readonly cursor: Int32Array
}

/** Where the writer goes on, and the reader. They go round twice as far as there are places: equal is empty. */
const HEAD = 0
const TAIL = 1
/** 1 from when the reader was woken to when it looks. */
const SIGNALLED = 2

export function createSlotRing(slots: number): SlotRing {
  const words = (count: number) => new Int32Array(new SharedArrayBuffer(count * 4))
  return { entries: words(slots), cursor: words(3) }
}

/** True if the reader has to be woken: it has looked since it was woken last. */
export function push({ entries, cursor }: SlotRing, slot: number): boolean {
  const head = Atomics.load(cursor, HEAD)
  entries[head % entries.length] = slot
  Atomics.store(cursor, HEAD, (head + 1) % (entries.length * 2))
  return Atomics.exchange(cursor, SIGNALLED, 1) === 0
}

/** Gives the reader all that is there. What comes from now on wakes it again. */
export function takeAll({ entries, cursor }: SlotRing, visit: (slot: number) => void): void {
  Atomics.store(cursor, SIGNALLED, 0)
  let tail = Atomics.load(cursor, TAIL)
  while (tail !== Atomics.load(cursor, HEAD)) {
    const slot = entries[tail % entries.length] as number
    tail = (tail + 1) % (entries.length * 2)
    Atomics.store(cursor, TAIL, tail)
    visit(slot)
  }
}
