// Counts the open tunnels and the ones that end: minutes and bytes, per service and month, in memory. With many tunnels a
// count must be cheap, so what was counted of each stands in arrays of numbers, in a slot that its tunnel knows.

import type { Tunnel } from '../tunnel/tunnel.ts'
import type { Amounts, Delta } from './amounts.ts'
import { add, isNothing, nothing } from './amounts.ts'
import type { Batch } from './journal.ts'
import { MINUTE_MS, monthOf, startMinutes } from './minutes.ts'

export interface Clock {
  /** Whole milliseconds since whenever, which no setting of the clock changes. */
  elapsed(): number
  /** Epoch milliseconds. */
  now(): number
}

const systemClock: Clock = {
  elapsed: () => Math.floor(performance.now()),
  now: () => Date.now(),
}

const FIRST_CAPACITY = 64
const HOUR_MS = 60 * MINUTE_MS

/** Bytes from each side. */
export interface Moved {
  readonly clientToOrigin: number
  readonly originToClient: number
}

interface Account {
  readonly service: string
  /** What was taken so far. */
  readonly taken: Amounts
  /** What was not, by month. */
  readonly months: Map<string, Amounts>
  /** The one of `months` that was used last. */
  month: string
  amounts: Amounts
}

export class Meter {
  readonly #clock: Clock
  readonly #accounts = new Map<string, Account>()
  /** The month of the hour that was asked for last: within an hour it can't change. */
  #hour = -1
  #month = ''
  // By slot; the first #size are used.
  #size = 0
  readonly #tunnels: Tunnel[] = []
  readonly #accountOf: Account[] = []
  #minuteEndsAt = new Float64Array(FIRST_CAPACITY)
  #clientToOrigin = new Float64Array(FIRST_CAPACITY)
  #originToClient = new Float64Array(FIRST_CAPACITY)
  /** When bytes were counted last, in ms that have elapsed. */
  #movedAt = new Float64Array(FIRST_CAPACITY)

  constructor(clock: Clock = systemClock) {
    this.#clock = clock
  }

  /** A tunnel is open: its first minute has started, and these bytes of heads were sent. */
  begin(tunnel: Tunnel, headToOrigin: number, headToClient: number): void {
    const account = this.#accountFor(tunnel.facts.service)
    const amounts = amountsIn(account, this.#monthAt(this.#clock.now()))
    amounts.connections += 1
    amounts.minutes += 1
    amounts.headToOrigin += headToOrigin
    amounts.headToClient += headToClient
    this.#watch(tunnel, account, MINUTE_MS, 0, 0)
  }

  /**
   * A tunnel that was counted elsewhere until now, or was released here: its last started minute is over in `restMs`, and
   * `counted` is what it had moved then. It may have moved more since.
   */
  adopt(tunnel: Tunnel, restMs: number, { clientToOrigin, originToClient }: Moved): void {
    this.#watch(tunnel, this.#accountFor(tunnel.facts.service), restMs, clientToOrigin, originToClient)
  }

  /** Counts a tunnel up to now and no further. Returns what `adopt` has to know: the rest of its last started minute. */
  release(tunnel: Tunnel): number {
    const slot = tunnel.meterSlot
    if (slot === -1) return 0
    const now = this.#clock.now()
    const elapsed = this.#clock.elapsed()
    this.#count(slot, elapsed, now, this.#monthAt(now))
    const restMs = (this.#minuteEndsAt[slot] as number) - elapsed
    tunnel.meterSlot = -1
    this.#free(slot)
    return restMs
  }

  /** A tunnel is over: its last bytes. A second call does nothing. */
  settle(tunnel: Tunnel): void {
    this.release(tunnel)
  }

  /** Counts what the open tunnels did since the last time. Bytes belong to the month in which they are counted. */
  tick(): void {
    const now = this.#clock.now()
    const elapsed = this.#clock.elapsed()
    const month = this.#monthAt(now)
    for (let slot = 0; slot < this.#size; slot += 1) this.#count(slot, elapsed, now, month)
  }

  /** When bytes of an open tunnel were counted last, or it began: ms of a clock of its own. */
  movedAt({ meterSlot }: Tunnel): number {
    return this.#movedAt[meterSlot] ?? 0
  }

  /** What was counted and not taken yet of the earliest month; null if there is nothing. The caller's from now on. */
  take(): Batch | null {
    const month = this.#earliestMonth()
    if (month === undefined) return null
    const deltas: Delta[] = []
    for (const account of this.#accounts.values()) {
      const amounts = account.months.get(month)
      if (amounts === undefined || isNothing(amounts)) continue
      deltas.push({ service: account.service, amounts })
      add(account.taken, amounts)
      account.months.delete(month)
      // The next amounts are new ones.
      if (account.month === month) account.month = ''
    }
    return { month, deltas }
  }

  /** What was counted in a month and not taken yet. */
  pending(month: string): Delta[] {
    return [...this.#accounts.values()].flatMap(({ service, months }) => {
      const amounts = months.get(month)
      return amounts === undefined ? [] : [{ service, amounts: { ...amounts } }]
    })
  }

  /** Everything that was counted, by service. */
  totals(): Record<string, Amounts> {
    return Object.fromEntries(
      [...this.#accounts.values()].map(({ service, taken, months }) => {
        const total = { ...taken }
        for (const amounts of months.values()) add(total, amounts)
        return [service, total]
      }),
    )
  }

  #count(slot: number, elapsed: number, now: number, month: string): void {
    const account = this.#accountOf[slot] as Account
    const endsAt = this.#minuteEndsAt[slot] as number
    if (elapsed > endsAt) {
      this.#minuteEndsAt[slot] = startMinutes(endsAt, elapsed, (startedAt) => {
        amountsIn(account, this.#monthAt(now - elapsed + startedAt)).minutes += 1
      })
    }
    const splicing = (this.#tunnels[slot] as Tunnel).splicing
    if (splicing === null) return
    const { clientToOrigin, originToClient } = splicing
    const toOrigin = clientToOrigin - (this.#clientToOrigin[slot] as number)
    const toClient = originToClient - (this.#originToClient[slot] as number)
    if (toOrigin > 0 || toClient > 0) this.#movedAt[slot] = elapsed
    if (toOrigin > 0) {
      amountsIn(account, month).clientToOrigin += toOrigin
      this.#clientToOrigin[slot] = clientToOrigin
    }
    if (toClient > 0) {
      amountsIn(account, month).originToClient += toClient
      this.#originToClient[slot] = originToClient
    }
  }

  #watch(tunnel: Tunnel, account: Account, restMs: number, toOrigin: number, toClient: number): void {
    const slot = this.#size
    if (slot === this.#minuteEndsAt.length) this.#grow()
    this.#size += 1
    this.#tunnels[slot] = tunnel
    this.#accountOf[slot] = account
    const elapsed = this.#clock.elapsed()
    this.#minuteEndsAt[slot] = elapsed + restMs
    this.#movedAt[slot] = elapsed
    this.#clientToOrigin[slot] = toOrigin
    this.#originToClient[slot] = toClient
    tunnel.meterSlot = slot
  }

  /** The last slot's tunnel moves into the free one. */
  #free(slot: number): void {
    const last = this.#size - 1
    const moved = this.#tunnels.pop() as Tunnel
    const account = this.#accountOf.pop() as Account
    this.#size = last
    if (slot === last) return
    this.#tunnels[slot] = moved
    this.#accountOf[slot] = account
    for (const numbers of [this.#minuteEndsAt, this.#clientToOrigin, this.#originToClient, this.#movedAt]) {
      numbers[slot] = numbers[last] as number
    }
    moved.meterSlot = slot
  }

  #grow(): void {
    this.#minuteEndsAt = doubled(this.#minuteEndsAt)
    this.#clientToOrigin = doubled(this.#clientToOrigin)
    this.#originToClient = doubled(this.#originToClient)
    this.#movedAt = doubled(this.#movedAt)
  }

  #monthAt(at: number): string {
    const hour = Math.floor(at / HOUR_MS)
    if (hour !== this.#hour) this.#month = monthOf(at)
    this.#hour = hour
    return this.#month
  }

  #accountFor(service: string): Account {
    const known = this.#accounts.get(service)
    if (known !== undefined) return known
    const account = { service, taken: nothing(), months: new Map(), month: '', amounts: nothing() }
    this.#accounts.set(service, account)
    return account
  }

  #earliestMonth(): string | undefined {
    let earliest: string | undefined
    for (const { months } of this.#accounts.values()) {
      for (const [month, amounts] of months) {
        if (!isNothing(amounts) && (earliest === undefined || month < earliest)) earliest = month
      }
    }
    return earliest
  }
}

function amountsIn(account: Account, month: string): Amounts {
  if (account.month === month) return account.amounts
  const known = account.months.get(month)
  const amounts = known ?? nothing()
  if (known === undefined) account.months.set(month, amounts)
  account.month = month
  account.amounts = amounts
  return amounts
}

function doubled(numbers: Float64Array<ArrayBuffer>): Float64Array<ArrayBuffer> {
  const larger = new Float64Array(numbers.length * 2)
  larger.set(numbers)
  return larger
}
