// What the relay (relay.ts) and its thread (thread.ts) want of each other.

import type { Ahead } from './redirect.ts'
import type { Sockmap } from './sockmap.ts'

export interface RelayHooks {
  /** Somebody has written to the eventfd that is watched as WAKE. */
  woken(): void
  /** The end of a tunnel is in the tables. Once for each that has begun; its slot is not the relay's any more. */
  ended(slot: number): void
}

export interface Relay {
  /** Waits for events, and serves each once. */
  turn(): void
  /** Of a side that is about to begin: bytes that are sent to it before any others; and see redirect.ts. */
  keep(side: number, bytes: Buffer | null, ahead: Ahead): void
  /** Begins a tunnel whose sides are in the tables. */
  begin(slot: number): void
  /** From now on a tunnel is given to the kernel if its mode says so. */
  useSockmap(sockmap: Sockmap): void
  /** FIN to both sides, after what is kept; what comes from now on is dropped. Nothing if the tunnel has ended. */
  finish(slot: number, generation: number): void
  /** Both sides are closed now, with RST or without. Nothing if the tunnel has ended. */
  cut(slot: number, generation: number, isReset: boolean): void
  /**
   * Gives a tunnel back to main as it is, with its past in the tables: nothing more is read or sent, and nothing closed.
   * Null if it has ended, or an operator ends it. 'later': the kernel moves bytes of it, which have to arrive first; it goes on.
   */
  freeze(slot: number, generation: number): Remains | 'later' | null
}

/** What is known of a frozen tunnel besides what the tables have. */
export interface Remains {
  /** What was taken and not sent yet; no copies. */
  readonly toClient: Buffer | null
  readonly toOrigin: Buffer | null
  readonly clientAhead: Ahead
  readonly originAhead: Ahead
}
