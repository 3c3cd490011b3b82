// What the heartbeats of all CPUs write down in shared memory: how many there were, and each that came late.

/** How many late beats of a CPU are kept; in one round there are few. */
const LATE_BEATS = 8_192
/** Two numbers each: due, and woken, in ns of CLOCK_MONOTONIC. */
const BYTES_PER_CPU = 8 + LATE_BEATS * 16

export type Mood = 'idle' | 'beating' | 'over'
const MOODS: readonly Mood[] = ['idle', 'beating', 'over']

/** A stretch of time in which a CPU was not there: from when its heartbeat was due to when it came. */
export interface Stall {
  readonly from: number
  readonly to: number
}

export class Beats {
  readonly memory: SharedArrayBuffer
  readonly #mood: Int32Array
  readonly #counts: Int32Array
  readonly #late: Float64Array

  /** `index`: those of which CPU, counted from 0. */
  constructor(memory: SharedArrayBuffer, index: number) {
    this.memory = memory
    this.#mood = new Int32Array(memory, 0, 1)
    this.#counts = new Int32Array(memory, 8 + index * BYTES_PER_CPU, 2)
    this.#late = new Float64Array(memory, 8 + index * BYTES_PER_CPU + 8, LATE_BEATS * 2)
  }

  static memoryFor(cpus: number): SharedArrayBuffer {
    return new SharedArrayBuffer(8 + cpus * BYTES_PER_CPU)
  }

  get mood(): Mood {
    return MOODS[Atomics.load(this.#mood, 0)] ?? 'over'
  }

  set mood(mood: Mood) {
    Atomics.store(this.#mood, 0, MOODS.indexOf(mood))
  }

  /** Beats so far. */
  get count(): number {
    return Atomics.load(this.#counts, 0)
  }

  beat(): void {
    Atomics.add(this.#counts, 0, 1)
  }

  late(due: number, woken: number): void {
    const count = Atomics.load(this.#counts, 1)
    const at = (count % LATE_BEATS) * 2
    this.#late[at] = due
    this.#late[at + 1] = woken
    Atomics.store(this.#counts, 1, count + 1)
  }

  /** Those of this CPU since `from`. */
  stallsSince(from: number): Stall[] {
    const stalls: Stall[] = []
    const end = Atomics.load(this.#counts, 1)
    for (let index = Math.max(0, end - LATE_BEATS); index < end; index += 1) {
      const at = (index % LATE_BEATS) * 2
      const [due = 0, woken = 0] = this.#late.subarray(at, at + 2)
      if (woken >= from) stalls.push({ from: due, to: woken })
    }
    return stalls
  }
}
