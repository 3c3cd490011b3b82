// An established tunnel: who it is, what it has moved, and its end. As many of these exist as there are tunnels, and an
// idle one should cost little: strings and numbers, no closures, nothing of the heads.

import type { SpliceEnd, SpliceOwner, Splicing } from '../engine/engine.ts'

/** Milliseconds that the phases of the set-up took, in the order of travel. */
export interface Phases {
  accept: number
  tls: number
  head: number
  decide: number
  dial: number
  answer: number
}

export interface TunnelFacts {
  readonly id: string
  readonly service: string
  readonly backend: string
  readonly engine: string
  readonly listener: string
  /** The client's IP address; '' on a Unix socket. */
  readonly clientAddress: string
  /** The address that was dialled, such as `10.0.0.1:443`. */
  readonly originAddress: string
  /** Epoch milliseconds of the 101. */
  readonly startedAt: number
  readonly phases: Readonly<Phases>
}

export class Tunnel implements SpliceOwner {
  readonly facts: TunnelFacts
  /** Told once, when both connections are over. The same function for all tunnels of an edge. */
  readonly settle: (tunnel: Tunnel, end: SpliceEnd) => void
  splicing: Splicing | null = null

  constructor(facts: TunnelFacts, settle: (tunnel: Tunnel, end: SpliceEnd) => void) {
    this.facts = facts
    this.settle = settle
  }

  spliceEnded(end: SpliceEnd): void {
    this.settle(this, end)
  }
}
