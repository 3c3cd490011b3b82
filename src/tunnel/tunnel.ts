// An established tunnel: who it is, what it has moved, and its end. As many of these exist as there are tunnels, and an
// idle one should cost little: strings and numbers, no closures, nothing of the heads.

import type { Backend } from '../dial/backend.ts'
import type { SpliceEnd, SpliceOwner, Splicing } from '../engine/engine.ts'

/** Microseconds that the phases of the set-up took, in the order of travel; whole numbers, which cost no memory. */
export interface Phases {
  accept: number
  tls: number
  head: number
  gate: number
  decide: number
  dial: number
  answer: number
}

export interface TunnelFacts {
  readonly id: string
  readonly service: string
  readonly listener: string
  /** The client's IP address; '' on a Unix socket. */
  readonly clientAddress: string
  /** The address that was dialled, such as `10.0.0.1:443`. */
  readonly originAddress: string
  /** Epoch milliseconds of the 101. */
  readonly startedAt: number
  /** The rule of the gate that allowed it; null if none did. */
  readonly rule: string | null
  /** Whether the ledger has seats for this id, which are given back when the tunnel is over. */
  readonly isCounted: boolean
  readonly phases: Readonly<Phases>
}

export interface TunnelOwner {
  /** The end of a tunnel, also of one that another process has opened. Once for each. */
  settle(tunnel: Tunnel, end: SpliceEnd): void
}

export class Tunnel implements SpliceOwner {
  readonly facts: TunnelFacts
  /** Its permit is given back when the tunnel is over. */
  readonly backend: Backend
  /** Told once, when both connections are over. The same function for all tunnels of an edge. */
  readonly settle: (tunnel: Tunnel, end: SpliceEnd) => void
  splicing: Splicing | null = null
  /** Where its usage is counted; -1 while it is not. */
  meterSlot = -1
  /** What whoever watches has seen of its bytes. */
  seenToOrigin = 0
  seenToClient = 0

  constructor(facts: TunnelFacts, backend: Backend, settle: (tunnel: Tunnel, end: SpliceEnd) => void) {
    this.facts = facts
    this.backend = backend
    this.settle = settle
  }

  spliceEnded(end: SpliceEnd): void {
    this.settle(this, end)
  }
}
