// Watches a client between its head and the 101: bytes that it sends early are kept for the origin, bounded, and its
// leaving is noticed at once.

import { HeadraceError } from '../errors.ts'
import type { Reader, Transport } from '../transport/transport.ts'

export interface Held {
  /** What has arrived since the head, in order. Whoever attaches to the transport next goes on after it. */
  take(): readonly Buffer[]
  /** The same in one piece; null if nothing has arrived. */
  joined(): Buffer | null
}

/**
 * Reads what the client sends from now on and holds it. Above `limit` bytes reading stops, so that the client's window
 * closes; nothing is lost. `gone` is called once if the client ends or resets the connection: before the 101 nobody
 * can want an answer any more.
 */
export function holdEarlyBytes(
  transport: Transport,
  rest: Buffer | null,
  limit: number,
  gone: (error: HeadraceError) => void,
): Held {
  const held = new EarlyBytes(transport, limit, gone)
  if (rest !== null) held.keep(rest)
  transport.attach(held)
  if (held.size >= limit) transport.pause()
  return held
}

class EarlyBytes implements Reader, Held {
  readonly transport: Transport
  readonly limit: number
  readonly gone: (error: HeadraceError) => void
  readonly chunks: Buffer[] = []
  size = 0
  isGone = false

  constructor(transport: Transport, limit: number, gone: (error: HeadraceError) => void) {
    this.transport = transport
    this.limit = limit
    this.gone = gone
  }

  take(): readonly Buffer[] {
    return this.chunks
  }

  joined(): Buffer | null {
    return this.chunks.length === 0 ? null : Buffer.concat(this.chunks)
  }

  keep(chunk: Buffer): void {
    this.chunks.push(chunk)
    this.size += chunk.length
  }

  data(chunk: Buffer): void {
    this.keep(chunk)
    if (this.size >= this.limit) this.transport.pause()
  }

  end(): void {
    this.#leave(new HeadraceError('client-closed'))
  }

  drain(): void {}

  closed(error: NodeJS.ErrnoException | undefined): void {
    this.#leave(new HeadraceError(error ? 'client-reset' : 'client-closed', error?.code ?? '', error))
  }

  #leave(error: HeadraceError): void {
    if (this.isGone) return
    this.isGone = true
    this.gone(error)
  }
}
