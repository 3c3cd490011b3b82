// The contract of an engine: two transports in, a splicing out. It moves bytes both ways with backpressure until both
// connections are over. It knows no HTTP, no service, no log, no policy.
//
// What an end of one side does to the other; `stop` stands for both sides at once:
//
//   seen on one side             done to the other           the splicing
//   FIN                          FIN, after all its bytes    goes on, the other direction lives
//   FIN, the other had sent its  FIN, after all its bytes    over once both are closed: fin, by whoever was first
//   RST, or a failed write       RST, unsent bytes dropped   over: reset
//   any other error              RST                         over: error
//   stop('fin')                  FIN to both, then closed    over: operator, fin
//   stop('reset')                RST to both                 over: operator, reset

import type { How, Who } from '../end.ts'
import type { Transport } from '../transport/transport.ts'

export type EngineName = 'stream' | 'epoll' | 'sockmap'

export interface Engine {
  readonly name: EngineName
  /** Resolves when it can be given tunnels; rejects with an Error that says in words why it never can. */
  readonly ready: Promise<void>
  /**
   * Takes over both transports and closes them in the end. The early bytes of each side are delivered first, in order.
   * `owner.spliceEnded` is called exactly once, never inside this call.
   */
  splice(client: Transport, origin: Transport, early: EarlyBytes, owner: SpliceOwner): Splicing
}

/** What had arrived before the splice began. */
export interface EarlyBytes {
  readonly fromClient: readonly Buffer[]
  readonly fromOrigin: readonly Buffer[]
}

export interface SpliceOwner {
  spliceEnded(end: SpliceEnd): void
}

export interface SpliceEnd {
  readonly who: Who
  readonly how: How
  /** The name of the system's error, such as ECONNRESET; '' if there was none. */
  readonly error: string
}

/** After stop('fin'), how long the other sides may take to close as well, in ms. */
export const STOP_TIMEOUT_MS = 2_000

export interface Splicing {
  /** What moves its bytes: a kernel engine leaves to `stream` what the system alone can't carry, such as TLS. */
  readonly engine: EngineName
  /** Bytes taken from each side so far, early ones included. */
  readonly clientToOrigin: number
  readonly originToClient: number
  /** Ends it from outside: in order (FIN to both, what is buffered is still sent) or at once (RST). */
  stop(how: 'fin' | 'reset'): void
}

/** What the system's error says about an end. */
export function howOf(error: string): How {
  switch (error) {
    case 'ECONNRESET':
    // A write that met the RST first, or a RST behind a FIN.
    case 'EPIPE':
      return 'reset'
    // TCP keep-alive, or bytes that were never acknowledged: the other side is dead.
    case 'ETIMEDOUT':
      return 'timeout'
    default:
      return 'error'
  }
}
