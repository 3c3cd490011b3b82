// What the relay (relay.ts) and its thread (thread.ts) want of each other.

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
  /** Bytes that are sent to a side before any others; before its first event. */
  keep(side: number, bytes: Buffer): void
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
   * False if it has ended, or an operator ends it, or the kernel moves its bytes. `keep` is told what was not sent yet.
   */
  freeze(slot: number, generation: number, keep: (side: number, bytes: Buffer) => void): boolean
}
