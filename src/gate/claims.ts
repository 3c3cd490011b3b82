// What is counted across connections: rates and open connections. A gate writes down what a request would take, a ledger
// grants or refuses all of it. Both sides are plain data, so that the ledger may be in another process.

/** One point of a rate. */
export interface RateClaim {
  /** The name of the rate. */
  readonly rule: string
  /** What it is counted by: a client's network, or a digest of a field. */
  readonly key: string
  readonly limit: number
  readonly windowMs: number
}

/** One of the connections that may be open at once. */
export interface SeatClaim {
  readonly rule: string
  readonly key: string
  /** How many there are; null for no limit. */
  readonly limit: number | null
  /** How many are expected; above it somebody is told, and nobody is refused. */
  readonly expected: number | null
  /** What a refusal is. */
  readonly code: 'service-full' | 'client-full' | 'backend-full'
}

export interface Claims {
  /** Of the request, or of its connection to a backend; no other has it. */
  readonly id: string
  readonly service: string
  readonly rates: readonly RateClaim[]
  readonly seats: readonly SeatClaim[]
}

export type Verdict = { readonly isGranted: true } | Denial

export interface Denial {
  readonly isGranted: false
  readonly code: 'rate-limited' | SeatClaim['code']
  /** What refused it. */
  readonly rule: string
  readonly detail: string
  /** When it may be worth another try. */
  readonly retryAfterMs: number
}

export interface Ledger {
  /**
   * Grants all, or refuses and keeps no seat. A promise only where rates are asked, or another process is; it never
   * rejects.
   */
  take(claims: Claims): Verdict | Promise<Verdict>
  /**
   * Gives the seats of a request back. May be said whenever the request is over: also twice, before `take` has answered,
   * or if nothing was granted.
   */
  give(id: string): void
}
