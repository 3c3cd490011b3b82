// Streams that check themselves: a pattern that never looks the same at two near places, so that no byte can be lost, added
// or out of order without being seen; and clients that say and hear it.

import { randomBytes } from 'node:crypto'
import type { Socket } from 'node:net'

/** A prime, so that it fits no buffer. */
const PERIOD = 65_521
const PATTERN = randomBytes(PERIOD)
const REPEATED = Buffer.concat([PATTERN, PATTERN, PATTERN])

/** `size` bytes of the stream from a place on; at most two periods. */
export function piece(from: number, size: number): Buffer {
  const at = from % PERIOD
  return REPEATED.subarray(at, at + size)
}

/** Checks what comes against the stream. */
export class Checker {
  size = 0
  /** Where the first wrong byte was; -1: nowhere. */
  wrongAt = -1

  take(chunk: Buffer): void {
    for (let at = 0; at < chunk.length; at += PERIOD) {
      const part = chunk.subarray(at, at + PERIOD)
      if (this.wrongAt === -1 && !part.equals(piece(this.size + at, part.length)))
        this.wrongAt = this.size + at
    }
    this.size += chunk.length
  }
}

/** A client behind its 101, whose origin sends back what it gets. */
export class Speaker {
  readonly socket: Socket
  readonly checker = new Checker()
  sent = 0
  /** What its answers took, the longest. */
  longestMs = 0
  /** Why it is over; null: it lives. */
  end: string | null = null
  #isStopped = false
  #sentAt = 0
  #heard: () => void = () => {}

  constructor(socket: Socket) {
    this.socket = socket
    socket.removeAllListeners('data')
    socket.on('data', (chunk: Buffer) => {
      this.checker.take(chunk)
      this.#heard()
    })
    socket.on('end', () => this.#over('end'))
    socket.on('error', (error) => this.#over(error.message))
    socket.on('close', () => this.#over('close'))
  }

  #over(why: string): void {
    this.end ??= why
    this.#heard()
  }

  /** A message of 64 bytes, its answer, a pause, and again until `stop`. */
  async talk(everyMs: number): Promise<void> {
    while (!this.#isStopped && this.end === null) {
      await new Promise((resolve) => setTimeout(resolve, Math.random() * everyMs * 2))
      await this.say(64)
    }
  }

  /** Resolves when the answer is here, or the connection is over. */
  async say(size: number): Promise<void> {
    this.#sentAt = performance.now()
    this.socket.write(Buffer.from(piece(this.sent, size)))
    this.sent += size
    while (this.checker.size < this.sent && this.end === null) {
      await new Promise<void>((heard) => {
        this.#heard = heard
      })
    }
    this.longestMs = Math.max(this.longestMs, performance.now() - this.#sentAt)
  }

  /** As much as goes, until `stop`; the answers come meanwhile. */
  async flood(): Promise<void> {
    while (!this.#isStopped && this.end === null) {
      const size = 64 * 1024
      const isTaken = this.socket.write(Buffer.from(piece(this.sent, size)))
      this.sent += size
      if (!isTaken) {
        await new Promise<void>((resolve) => {
          const heard = () => {
            this.socket.off('drain', heard).off('close', heard)
            resolve()
          }
          this.socket.on('drain', heard).on('close', heard)
        })
      } else await new Promise(setImmediate)
    }
    while (this.checker.size < this.sent && this.end === null) {
      await new Promise<void>((heard) => {
        this.#heard = heard
      })
    }
  }

  stop(): void {
    this.#isStopped = true
  }
}
