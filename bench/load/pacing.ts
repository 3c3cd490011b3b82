// Playing at a fixed rate: questions leave when they are due, whatever became of those before, and it is told how long each
// answer took.

import { setTimeout as sleep } from 'node:timers/promises'
import type { Loop } from './loop.ts'
import { ownLoop } from './loop.ts'
import type { Player, Tunnel } from './tunnel.ts'

export interface Pace {
  /** Which share of the tunnels talk, at regular distances. */
  readonly share: number
  /** Questions per second, all of these tunnels together. */
  readonly perSecond: number
  readonly ms: number
  /** The tunnels are on node's sockets. */
  readonly tls: boolean
}

export interface Paced {
  /** When each question was asked, in ns of CLOCK_MONOTONIC. */
  readonly askedAt: Float64Array
  /** How many ms its answer took. */
  readonly tookMs: Float64Array
  /** How many ms later than due it left, since this process had no CPU; not counted in its time. */
  readonly lateMs: Float64Array
}

/** performance.now() is the same clock, counted from this process's start. */
const CLOCK_OFFSET_NS = Number(process.hrtime.bigint()) - performance.now() * 1e6

export async function pace(tunnels: readonly Tunnel[], { share, perSecond, ms, tls }: Pace): Promise<Paced> {
  const stride = Math.max(1, Math.round(1 / share))
  const talkers = tunnels.filter((_, index) => index % stride === 0)
  const count = talkers.length === 0 ? 0 : Math.floor((perSecond * ms) / 1_000)
  const pacing = new Pacing(talkers, count, 1_000 / perSecond)
  if (count > 0) await pacing.run(tls ? null : ownLoop())
  return pacing
}

class Pacing implements Player, Paced {
  readonly askedAt: Float64Array
  readonly tookMs: Float64Array
  readonly lateMs: Float64Array
  readonly #talkers: readonly Tunnel[]
  readonly #gapMs: number
  readonly #startedAt = performance.now()
  /** Of tunnels that still wait for an answer, when their next questions should have left. */
  readonly #owed = new Map<Tunnel, number[]>()
  #due = 0
  #answers = 0
  #finish: () => void = () => {}

  constructor(talkers: readonly Tunnel[], count: number, gapMs: number) {
    this.#talkers = talkers
    this.#gapMs = gapMs
    this.askedAt = new Float64Array(count)
    this.tookMs = new Float64Array(count)
    this.lateMs = new Float64Array(count)
    for (const tunnel of talkers) tunnel.player = this
  }

  /** Until every answer has come. */
  async run(loop: Loop | null): Promise<void> {
    const finished = new Promise<void>((resolve) => {
      this.#finish = resolve
    })
    if (loop !== null) loop.tick = () => this.#askDue()
    while (this.#due < this.askedAt.length) {
      this.#askDue()
      await sleep(1)
    }
    if (loop !== null) loop.tick = null
    await finished
  }

  #askDue(): void {
    const now = performance.now()
    for (; this.#due < this.askedAt.length; this.#due += 1) {
      const due = this.#startedAt + this.#due * this.#gapMs
      if (due > now) return
      const tunnel = this.#talkers[this.#due % this.#talkers.length]
      this.lateMs[this.#due] = now - due
      if (tunnel === undefined) continue
      if (tunnel.isBusy) this.#owe(tunnel, now)
      else this.#ask(tunnel, now)
    }
  }

  /** It leaves when it can; its time counts from now on. */
  #owe(tunnel: Tunnel, now: number): void {
    const owed = this.#owed.get(tunnel)
    if (owed === undefined) this.#owed.set(tunnel, [now])
    else owed.push(now)
  }

  #ask(tunnel: Tunnel, since: number): void {
    tunnel.askedAt = since
    tunnel.ask()
  }

  opened(): void {}

  answered(tunnel: Tunnel): void {
    const now = performance.now()
    this.askedAt[this.#answers] = tunnel.askedAt * 1e6 + CLOCK_OFFSET_NS
    this.tookMs[this.#answers] = now - tunnel.askedAt
    this.#answers += 1
    const owedSince = this.#owed.get(tunnel)?.shift()
    if (owedSince !== undefined) this.#ask(tunnel, owedSince)
    else if (this.#answers === this.askedAt.length) this.#finish()
  }

  closed(): void {}
}
