// How well a backend does: what its dials and answers say of it, and what its checks say. Pure but for the clock; who tells
// it comes from outside. It keeps nobody from dialling: directors ask it whom to pass by.
//
//            failures in a row                 the time is over: one attempt at a time
//   healthy ──────────────────▶ ejected ──────────────────────────────────▶ on trial ──▶ healthy   an answer came
//      ▲                           ▲                                            │
//      │                           └──────── failed: twice the time ────────────┘
//      └── rise ── down ◀── fall, from anywhere                    what comes back by `rise` is not ejected either

import type { ErrorCode, HeadraceError } from '../errors.ts'
import { entry } from '../errors.ts'

export interface EjectionOptions {
  /** Failures in a row that eject. */
  readonly failures: number
  /** How long the first ejection lasts, in ms; each that follows it lasts twice as long as the one before. */
  readonly forMs: number
  readonly maxMs: number
  /** Whether an answer that doesn't come or is malformed is a failure, as a dial that fails is. */
  readonly answers: boolean
}

export interface CheckOptions {
  readonly kind: 'tcp' | 'tls' | 'http'
  /** What is asked for by GET, and the answers that are good; for `http`. */
  readonly path: string
  readonly statuses: readonly number[]
  readonly intervalMs: number
  /** For one check, in ms. */
  readonly timeoutMs: number
  /** Good checks in a row that bring a backend back, and bad ones that take it out. */
  readonly rise: number
  readonly fall: number
}

/** `ejected`: passed by while others do better. `down`: passed by unless no other is left that is not down. */
export type Standing = 'healthy' | 'ejected' | 'down'

/** What says that nobody can be reached there. */
const DIAL_FAILURES: ReadonlySet<ErrorCode> = new Set([
  'name-unresolved',
  'address-forbidden',
  'dial-refused',
  'dial-failed',
  'dial-reset',
  'dial-timeout',
  'origin-tls-failed',
  'certificate-rejected',
])

/** What says that whoever was reached is hung, or no origin. */
const ANSWER_FAILURES: ReadonlySet<ErrorCode> = new Set([
  'answer-timeout',
  'answer-closed',
  'answer-reset',
  'answer-malformed',
])

/** Of the edge's own troubles, those that are about one backend. */
const OWN_TROUBLES: ReadonlySet<ErrorCode> = new Set(['backend-full', 'ports-exhausted', 'address-forbidden'])

export class Health {
  /** Null: it is never ejected. */
  readonly ejection: EjectionOptions | null
  readonly check: CheckOptions | null
  /** By code, since the start. */
  readonly failures: Map<ErrorCode, number>
  readonly checks: { passed: number; failed: number }
  /** Why it is as it is; '' if it never was unhealthy. */
  reason = ''
  /** Told when it becomes healthy or unhealthy. */
  changed: (() => void) | null = null
  #isDown = false
  #isChecked = false
  /** Checks in a row that speak against what it is. */
  #against = 0
  /** Failures since the last answer. */
  #row = 0
  /** 0: not ejected. */
  #ejectedUntil = 0
  #ejectedForMs = 0
  #isOnTrial = false
  readonly #now: () => number

  /** `now`: a clock that is never set back, in ms. `before`: whose counts go on. */
  constructor(
    check: CheckOptions | null,
    ejection: EjectionOptions | null,
    now: () => number = () => performance.now(),
    before: Pick<Health, 'failures' | 'checks'> = { failures: new Map(), checks: { passed: 0, failed: 0 } },
  ) {
    this.failures = before.failures
    this.checks = before.checks
    this.check = check
    this.ejection = ejection
    this.#now = now
  }

  get isHealthy(): boolean {
    return !this.#isDown && this.#ejectedUntil === 0
  }

  /** Epoch milliseconds of the next attempt after an ejection; null if it isn't ejected. */
  get ejectedUntil(): number | null {
    if (this.#ejectedUntil === 0) return null
    return Math.round(Date.now() + this.#ejectedUntil - this.#now())
  }

  get standing(): Standing {
    if (this.#isDown) return 'down'
    return this.#ejectedUntil > this.#now() ? 'ejected' : 'healthy'
  }

  /** An attempt begins. The first after an ejection is a trial: until its outcome is known others are spared it. */
  tried(): void {
    const now = this.#now()
    if (this.ejection === null || this.#ejectedUntil === 0 || this.#ejectedUntil > now) return
    this.#ejectedUntil = now + this.ejection.forMs
    this.#isOnTrial = true
  }

  dialled(): void {
    if (this.ejection?.answers === false) this.#proven('it accepts connections again')
  }

  /** An answer's head came, whatever it says. */
  answered(): void {
    this.#proven('it answers again')
  }

  /** A dial or an answer failed. What is no business of the backend is passed over. */
  failed(error: HeadraceError): void {
    const { code } = error
    if (entry(code).who !== 'origin' && !OWN_TROUBLES.has(code)) return
    this.failures.set(code, (this.failures.get(code) ?? 0) + 1)
    const { ejection } = this
    if (ejection === null) return
    if (!DIAL_FAILURES.has(code) && !(ejection.answers && ANSWER_FAILURES.has(code))) return
    this.#row += 1
    if (this.#ejectedUntil === 0 ? this.#row < ejection.failures : !this.#isOnTrial) return
    const forMs = this.#isOnTrial ? this.#ejectedForMs * 2 : ejection.forMs
    const count = `${this.#row} failure${this.#row === 1 ? '' : 's'} in a row`
    this.#turn(`${count}, the last: ${error.message}`, () => {
      this.#ejectedForMs = Math.min(forMs, ejection.maxMs)
      this.#ejectedUntil = this.#now() + this.#ejectedForMs
      this.#isOnTrial = false
    })
  }

  /** The outcome of a check: what is wrong, null if nothing is. The first one decides alone. */
  checked(wrong: string | null): void {
    const { check, checks } = this
    if (check === null) return
    const isGood = wrong === null
    checks[isGood ? 'passed' : 'failed'] += 1
    const isFirst = !this.#isChecked
    this.#isChecked = true
    if (isGood !== this.#isDown) {
      this.#against = 0
      return
    }
    this.#against += 1
    if (!isFirst && this.#against < (isGood ? check.rise : check.fall)) return
    this.#against = 0
    this.#turn(isGood ? 'its checks pass' : `check ${check.kind}: ${wrong}`, () => {
      this.#isDown = !isGood
      if (isGood) this.#pardon()
    })
  }

  #proven(reason: string): void {
    if (this.#row === 0 && this.#ejectedUntil === 0) return
    if (this.#ejectedUntil === 0) this.#pardon()
    else this.#turn(reason, () => this.#pardon())
  }

  #pardon(): void {
    this.#row = 0
    this.#ejectedUntil = 0
    this.#isOnTrial = false
  }

  /** The only place where it becomes something else. */
  #turn(reason: string, change: () => void): void {
    const wasHealthy = this.isHealthy
    change()
    this.reason = reason
    if (this.isHealthy !== wasHealthy) this.changed?.()
  }
}
