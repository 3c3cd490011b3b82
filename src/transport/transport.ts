// A connection, as the head, the handoff, the dial and the engines see it: not a node socket, so that other things can
// stand below it. One reader at a time is told what arrives; whoever attaches last is it.
//
//            attach          end (FIN in)
//   paused  ──────▶  open  ──────────────▶  half closed  ──┐ end() was called, all was written
//     ▲               │ ▲                                   ▼
//     └── pause() ────┘ └── resume()         reset(), destroy(), an error ──▶  closed   (once, for ever)

import type { Socket } from 'node:net'

/** Who is told what a transport brings. The calls come in order; after `closed` none comes. */
export interface Reader {
  /** Bytes arrived. They belong to the reader from now on. */
  data(chunk: Buffer): void
  /** The other side sent FIN: no more bytes will come, but it may still read. At most once. */
  end(): void
  /** What was written has left the process, after a `write` that returned false. */
  drain(): void
  /** Both directions are over. `error` tells why when it was not orderly (`ECONNRESET`, `EPIPE`, …). */
  closed(error: NodeJS.ErrnoException | undefined): void
}

export interface Transport {
  /**
   * Makes `reader` the one who is told, and starts to read. What is already known to be over (`end`, `closed`) is told
   * at once, inside this call. The reader before it hears nothing more.
   */
  attach(reader: Reader): void
  /** Stops reading: what arrives stays in the system's buffer, the other side's window closes. */
  pause(): void
  resume(): void
  /**
   * Sends bytes, by reference: they must not change afterwards. A string is sent as latin1.
   * False: a high-water mark is reached, `drain` will be told. After the end or close it does nothing and returns true.
   */
  write(bytes: Uint8Array | string): boolean
  /** FIN after all that was written. Reading goes on. */
  end(): void
  /** RST: what was not sent yet is dropped, and the other side is told so (RFC 9293 section 3.10.7.4). */
  reset(): void
  /** Closes both directions at once, without an orderly end. */
  destroy(): void
  /** True from the moment when both directions are over. */
  readonly isClosed: boolean
  /**
   * Gives the connection to somebody who wants a node socket: paused, and with no listener of ours left on it. It is
   * theirs from now on. Bytes that were read already come first when the socket is read.
   */
  release(): Released
  /** True if the system alone can carry it on: TCP, open both ways, and with nothing that still waits to be written. */
  readonly isDetachable: boolean
  /**
   * Gives the connection up as a bare descriptor; only when `isDetachable`. From here on nobody in this process reads or
   * writes it but its new owner, who closes it, and nothing of this goes out on the wire. Null, and nothing has
   * changed, if the process has no descriptor left for it.
   */
  detach(): Detached | null
}

export interface Released {
  readonly socket: Socket
  /** Takes the socket back, paused; whoever had it has left no listener on it. */
  retake(): Transport
  /** RST, also below TLS. */
  reset(): void
}

export interface Detached {
  readonly descriptor: number
  /** What was read from the connection and told to nobody: it comes before what the descriptor still has. */
  readonly unread: readonly Buffer[]
}
