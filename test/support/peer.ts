// One end of a connection, played byte by byte: a client's, or an origin's. It remembers all that it received.

import { once } from 'node:events'
import type { Socket } from 'node:net'
import { connect } from 'node:net'
import type { ConnectionOptions } from 'node:tls'
import { connect as connectTls } from 'node:tls'
import type { Test } from 'tap'

/** What a test waits for at most, in ms: far more than it takes, so that only a failure ever waits so long. */
const PATIENCE_MS = 15_000

export class Peer {
  readonly socket: Socket
  /** Resolves with the name of the error that ended the connection, or '' after an orderly end. */
  readonly closed: Promise<string>
  /** Resolves when the other side has sent FIN. */
  readonly ended: Promise<void>
  #chunks: Buffer[] = []
  #size = 0
  readonly #waiters = new Set<() => void>()
  #isOver = false

  constructor(socket: Socket) {
    this.socket = socket
    let errorCode = ''
    socket.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk)
      this.#size += chunk.length
      this.#changed()
    })
    socket.on('error', (error: NodeJS.ErrnoException) => {
      errorCode = error.code ?? error.message
    })
    this.ended = new Promise((resolve) => socket.on('end', resolve))
    this.closed = new Promise((resolve) => {
      socket.on('close', () => {
        this.#isOver = true
        resolve(errorCode)
        this.#changed()
      })
    })
    socket.on('end', () => {
      this.#isOver = true
      this.#changed()
    })
  }

  get size(): number {
    return this.#size
  }

  get received(): Buffer {
    const all = Buffer.concat(this.#chunks)
    this.#chunks = [all]
    return all
  }

  /** As latin1. */
  get text(): string {
    return this.received.toString('latin1')
  }

  write(bytes: Uint8Array | string): void {
    this.socket.write(typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes)
  }

  end(bytes: Uint8Array | string = ''): void {
    this.socket.end(typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes)
  }

  reset(): void {
    this.socket.resetAndDestroy()
  }

  /** Resolves with all that was received once it contains `marker`, or is that long. Rejects if the end comes before. */
  async until(marker: string | number): Promise<string> {
    const isThere = () => (typeof marker === 'number' ? this.#size >= marker : this.text.includes(marker))
    await this.#wait(isThere, `${JSON.stringify(marker)}`)
    return this.text
  }

  /** Resolves with all that was received when the other side has ended or closed. */
  async all(): Promise<string> {
    await this.#wait(() => this.#isOver, 'the end')
    return this.text
  }

  /** Several may wait at once; each is asked again whenever something has changed. */
  #wait(isThere: () => boolean, what: string): Promise<void> {
    return new Promise((resolve, reject) => {
      const fail = (why: string) =>
        reject(new Error(`${why} waiting for ${what}; received ${JSON.stringify(this.text.slice(0, 500))}`))
      const timer = setTimeout(() => {
        this.#waiters.delete(look)
        fail('too long')
      }, PATIENCE_MS)
      const look = () => {
        const isHere = isThere()
        if (!isHere && !this.#isOver) return
        clearTimeout(timer)
        this.#waiters.delete(look)
        if (isHere) resolve()
        else fail('the connection ended')
      }
      this.#waiters.add(look)
      look()
    })
  }

  #changed(): void {
    for (const look of this.#waiters) look()
  }
}

/** Connects to `127.0.0.1:PORT`, `[::1]:PORT` or `unix:PATH`; with `tls`, over TLS without looking at the certificate. */
export async function connectTo(t: Test, address: string, tls?: ConnectionOptions): Promise<Peer> {
  const socket = connect({ ...placeOf(address), allowHalfOpen: true, noDelay: true })
  const secured = tls === undefined ? socket : connectTls({ socket, rejectUnauthorized: false, ...tls })
  t.teardown(() => {
    secured.destroy()
    socket.destroy()
  })
  const peer = new Peer(secured)
  await once(secured, tls === undefined ? 'connect' : 'secureConnect')
  return peer
}

export function placeOf(address: string): { host: string; port: number } | { path: string } {
  if (address.startsWith('unix:')) return { path: address.slice('unix:'.length) }
  const at = address.lastIndexOf(':')
  return { host: address.slice(0, at).replace(/^\[|\]$/g, ''), port: Number(address.slice(at + 1)) }
}
