// The checked traffic: a crowd of tunnels that send in both directions, some of which are closed in order all the time and
// replaced by others. What is wrong with any of them is a failure of the run.

import { addressOf } from '../load/wire.ts'
import type { Mark, Outcome } from './pair.ts'
import { Pair } from './pair.ts'
import type { Random } from './random.ts'

const BEAT_MS = 50
/** One in so many of the open tunnels is closed in order on each beat. */
const LIFETIME_BEATS = 300
const BURST = 256 * 1_024
const MESSAGE = 4_096
/** How many openings are under way at once. */
const LANES = 8
/** So many of the crowd are TLS tunnels, which no kernel engine carries. */
const SECURE = 4
/** A kill may cost the usage of its last second: how far all were is noted a few times in each. */
const LOSS_MS = 1_000
const MARKS_MS = 200
const PATIENCE_MS = 20_000

export interface Opening {
  readonly pair: Pair
  readonly outcome: Outcome
  readonly ms: number
}

export interface Secure {
  readonly address: string
  /** What its certificate is signed by. */
  readonly authority: string
}

export class Traffic {
  /** All that there have ever been, by number. */
  readonly pairs = new Map<number, Pair>()
  /** What an opening may come to, besides a tunnel. */
  allowed: readonly Outcome[] = []
  /** Why those that are dialled now may end. */
  excuse: string | null = null
  /** No TLS tunnel is opened or closed. */
  isSecureHeld = false
  readonly #address: string
  readonly #secure: Secure
  readonly #random: Random
  readonly #fail: (what: string) => void
  readonly #size: number
  readonly #timer = setInterval(() => this.#beat(), BEAT_MS)
  /** The newest last; the first is older than a second. */
  readonly #marks: { readonly at: number; readonly of: ReadonlyMap<Pair, Mark> }[] = []
  #isHeld = true
  #opening = 0
  #count = 0

  constructor(address: string, secure: Secure, size: number, random: Random, fail: (what: string) => void) {
    this.#address = address
    this.#secure = secure
    this.#size = size
    this.#random = random
    this.#fail = fail
  }

  get open(): Pair[] {
    return [...this.pairs.values()].filter(({ state }) => state === 'open')
  }

  /** Of all tunnels, in both directions. */
  get bytes(): number {
    let sum = 0
    for (const { up, down } of this.pairs.values()) sum += up.received + down.received
    return sum
  }

  /** How far those that were open then were, a second ago, or a moment more. */
  aSecondAgo(): ReadonlyMap<Pair, Mark> {
    const until = performance.now() - LOSS_MS
    return this.#marks.findLast(({ at }) => at <= until)?.of ?? new Map()
  }

  /** One tunnel more. What is neither one nor allowed is a failure. */
  async dial(address = this.#address, authority: string | null = null): Promise<Opening> {
    const before = this.allowed
    this.#count += 1
    this.#opening += 1
    const pair = new Pair(this.#count, addressOf(address), this.#fail, authority)
    pair.excuse = this.excuse
    this.pairs.set(pair.id, pair)
    const outcome = await pair.answered
    this.#opening -= 1
    if (outcome !== 101 && !before.includes(outcome) && !this.allowed.includes(outcome)) {
      this.#fail(`tunnel ${pair.id} (client port ${pair.port}) was refused: ${outcome}`)
    }
    return { pair, outcome, ms: performance.now() - pair.startedAt }
  }

  /** The crowd is kept at its size. */
  start(): void {
    this.#isHeld = false
  }

  /** Resolves when no opening is under way, and none is begun. */
  async hold(): Promise<void> {
    this.#isHeld = true
    await this.until(() => this.#opening === 0, 'openings are over')
  }

  async settled(): Promise<void> {
    await this.until(() => this.open.length >= this.#size, 'the crowd is there again')
  }

  /** Closes all in order; resolves when they are over. */
  async leave(): Promise<void> {
    await this.hold()
    for (const pair of this.open) pair.close(this.#side())
    await this.until(() => this.#living === 0, 'tunnels that were closed are over')
    for (const pair of this.pairs.values()) if (pair.state !== 'over') pair.drop()
  }

  stop(): void {
    clearInterval(this.#timer)
    for (const pair of this.pairs.values()) if (pair.state !== 'over') pair.drop()
  }

  /** Fails the run if it is not so after a time that nothing of this takes. */
  async until(isSo: () => boolean, what: string, patienceMs = PATIENCE_MS): Promise<void> {
    const deadline = performance.now() + patienceMs
    while (!isSo()) {
      if (performance.now() > deadline)
        return this.#fail(`in ${patienceMs} ms it did not happen that ${what}`)
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
  }

  get #living(): number {
    return [...this.pairs.values()].filter(({ state }) => state !== 'over').length
  }

  #side(): 'client' | 'origin' {
    return this.#random.oneIn(2) ? 'client' : 'origin'
  }

  #beat(): void {
    const open = this.open
    this.#note(open)
    for (const pair of open) {
      if (this.#random.oneIn(2)) pair.send('client', this.#amount())
      if (this.#random.oneIn(2)) pair.send('origin', this.#amount())
      const isHeld = pair.isStalled || (this.isSecureHeld && pair.isSecure)
      const isIdle = pair.excuse === null && !isHeld
      if (!this.#isHeld && isIdle && this.#random.oneIn(LIFETIME_BEATS)) pair.close(this.#side())
    }
    if (this.#isHeld) return
    const missing = this.#size - open.length - this.#opening
    for (let lane = this.#opening; lane < LANES && lane - this.#opening < missing; lane += 1) this.#dialOne()
  }

  #dialOne(): void {
    const living = [...this.pairs.values()].filter(({ state, isSecure }) => isSecure && state !== 'over')
    if (this.isSecureHeld || living.length >= SECURE) void this.dial()
    else void this.dial(this.#secure.address, this.#secure.authority)
  }

  #note(open: readonly Pair[]): void {
    const at = performance.now()
    if (at - (this.#marks.at(-1)?.at ?? 0) < MARKS_MS) return
    this.#marks.push({ at, of: new Map(open.map((pair) => [pair, pair.mark()])) })
    while ((this.#marks[1]?.at ?? at) < at - LOSS_MS) this.#marks.shift()
  }

  #amount(): number {
    return 1 + this.#random.below(this.#random.oneIn(200) ? BURST : MESSAGE)
  }
}
