// The origin's end of one tunnel: the 101, then what the request's path asks for. It knows no frames.

import { answerTo } from './handshake.ts'
import { matches, piece, startOf } from './pattern.ts'
import type { Traffic } from './traffic.ts'
import { answerSize, answerStart, questionSize, trafficOf } from './traffic.ts'
import type { Reader, Wire } from './wire.ts'

const HEAD_LIMIT = 65_536

/** What all connections of an origin have in common. */
export interface OriginState {
  open: number
  /** The first thing that went wrong. */
  failure: string | null
}

export class Answering implements Reader {
  readonly #wire: Wire
  readonly #state: OriginState
  #head: string | null = ''
  #traffic: Traffic = { kind: 'echo', size: 0 }
  #tunnel = 0
  #transfer = 1
  /** Bytes of the question that have come. */
  #asked = 0
  /** Bytes of the answer that have gone; null while there is none to send. */
  #answered: number | null = null
  /** Of an echo, what there was no room for. */
  #unsent: Buffer | null = null
  #hasEnded = false

  constructor(wire: Wire, state: OriginState) {
    this.#wire = wire
    this.#state = state
    state.open += 1
  }

  /** It is open when it is accepted. */
  opened(): void {}

  received(bytes: Buffer, length: number): void {
    if (this.#head !== null) this.#readHead(this.#head + bytes.toString('latin1', 0, length))
    else if (this.#traffic.kind === 'echo') this.#echo(bytes, length)
    else this.#take(bytes, length)
  }

  writable(): void {
    if (this.#unsent !== null) this.#flush(this.#unsent)
    else if (this.#answered !== null) this.#answer(this.#answered)
  }

  ended(): void {
    this.#hasEnded = true
    if (this.#unsent === null) this.#close()
  }

  /** A tunnel that is lost is missed by its client, and in the count of those that are open. */
  failed(): void {
    this.#state.open -= 1
  }

  #close(): void {
    this.#state.open -= 1
    this.#wire.close()
  }

  #readHead(head: string): void {
    const end = head.indexOf('\r\n\r\n')
    if (end === -1 && head.length < HEAD_LIMIT) {
      this.#head = head
      return
    }
    try {
      const answer = answerTo(head.slice(0, end + 4))
      const { tunnel, ...traffic } = trafficOf(answer.path)
      if (end + 4 < head.length) throw new Error('bytes behind the request, before its 101')
      this.#head = null
      this.#traffic = traffic
      this.#tunnel = tunnel
      const bytes = Buffer.from(answer.head, 'latin1')
      this.#wire.send(bytes, bytes.length)
    } catch (error) {
      this.#fail(String(error))
    }
  }

  #echo(bytes: Buffer, length: number): void {
    const sent = this.#wire.send(bytes, length)
    if (sent === length) return
    this.#unsent = Buffer.from(bytes.subarray(sent, length))
    this.#wire.pause()
  }

  #flush(unsent: Buffer): void {
    const sent = this.#wire.send(unsent, unsent.length)
    this.#unsent = sent === unsent.length ? null : unsent.subarray(sent)
    if (this.#unsent !== null) return
    if (this.#hasEnded) this.#close()
    else this.#wire.resume()
  }

  #take(bytes: Buffer, length: number): void {
    const size = questionSize(this.#traffic)
    const start = startOf(this.#tunnel, this.#transfer)
    if (this.#answered !== null || this.#asked + length > size) {
      this.#fail(`tunnel ${this.#tunnel}: a byte came that nobody sent`)
      return
    }
    if (!matches(bytes, length, start, this.#asked)) {
      this.#fail(`tunnel ${this.#tunnel}: a wrong byte came, in transfer ${this.#transfer}`)
      return
    }
    this.#asked += length
    if (this.#asked === size) this.#answer(0)
  }

  #answer(from: number): void {
    const size = answerSize(this.#traffic)
    const start = answerStart(this.#traffic.kind, this.#tunnel, this.#transfer)
    let at = from
    while (at < size) {
      const bytes = piece(start, at, size - at)
      const sent = this.#wire.send(bytes, bytes.length)
      at += sent
      this.#answered = at
      if (sent < bytes.length) return
    }
    this.#answered = null
    this.#asked = 0
    this.#transfer = (this.#transfer + 1) | 0
  }

  #fail(what: string): void {
    this.#state.failure ??= what
    this.#state.open -= 1
    this.#wire.reset()
  }
}
