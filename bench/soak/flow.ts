// One direction of a tunnel: an endless counted pattern of its own, so that a byte that is lost, added or in the wrong place
// is noticed by the next one; and how long bytes that were on their way stood still.

import { matches, piece, startOf } from '../load/pattern.ts'

export class Flow {
  /** Given to the sender's socket. */
  sent = 0
  /** Came out at the other end, each compared. */
  received = 0
  readonly #start: number
  /** Since when bytes are under way and none has come; null: all are there. */
  #waitingSince: number | null = null
  #longestMs = 0

  /** `direction`: a number, so that both of a tunnel differ. */
  constructor(tunnel: number, direction: number) {
    this.#start = startOf(tunnel, direction)
  }

  /** The bytes that are sent next, at most 256 KiB. They never change. */
  next(size: number): Buffer {
    const bytes = piece(this.#start, this.sent, size)
    this.#waitingSince ??= performance.now()
    this.sent += bytes.length
    return bytes
  }

  /** Whether these are the bytes that must come now. */
  accept(bytes: Buffer): boolean {
    const isRight =
      this.received + bytes.length <= this.sent && matches(bytes, bytes.length, this.#start, this.received)
    this.received += bytes.length
    this.#longestMs = this.pauseMs()
    this.#waitingSince = this.isWhole ? null : performance.now()
    return isRight
  }

  get isWhole(): boolean {
    return this.received === this.sent
  }

  /** The longest so far, one that lasts included. */
  pauseMs(): number {
    const lasting = this.#waitingSince === null ? 0 : performance.now() - this.#waitingSince
    return Math.max(this.#longestMs, lasting)
  }

  forgetPauses(): void {
    this.#longestMs = 0
    if (this.#waitingSince !== null) this.#waitingSince = performance.now()
  }
}
