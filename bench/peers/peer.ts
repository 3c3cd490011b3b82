// A proxy under test, as the scenarios see it: an address in front of the origin, and the processes that it is made of.

export interface Peer {
  /** host:port of its listener. */
  readonly address: string
  readonly pids: readonly number[]
  /** Gives back what memory it doesn't need any more, as far as it can be told to; takes `patienceMs` at most. */
  settle(patienceMs: number): Promise<void>
  stop(): Promise<void>
}

/** PEM. */
export interface Certificate {
  readonly certificate: string
  readonly key: string
}

export interface PeerOptions {
  /** host:port */
  readonly origin: string
  /** Accept TLS with it; null: plain TCP. */
  readonly tls: Certificate | null
  /** Which engine of Headrace; others have no choice. */
  readonly engine?: string
  /** Write a CPU profile when it stops, if it is a node process. */
  readonly withProfile: boolean
  /** Where it runs. */
  readonly cpus: string | null
}

export interface PeerKind {
  readonly name: string
  /** False: there is none, client and origin are back to back. */
  readonly isProxy: boolean
  /** Why it can't run here; null if it can. */
  missing(): string | null
  /** And the engine that moves the bytes, where there is a choice. */
  version(): string
  /** Above how many tunnels it is left out, and why. */
  readonly hopelessAbove?: { readonly most: number; readonly why: string }
  /** One process, in front of one origin. */
  start(options: PeerOptions): Promise<Peer>
}
