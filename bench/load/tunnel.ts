// A client's end of one tunnel: the handshake, then questions and their answers, each byte compared.

import { isRightAnswer, newRequest } from './handshake.ts'
import { matches, piece, startOf } from './pattern.ts'
import type { Traffic } from './traffic.ts'
import { answerSize, answerStart, pathOf, questionSize } from './traffic.ts'
import type { Reader, Wire } from './wire.ts'

/** Whoever plays on a tunnel at the time. */
export interface Player {
  opened(tunnel: Tunnel): void
  answered(tunnel: Tunnel): void
  closed(tunnel: Tunnel): void
}

export interface TunnelOptions {
  /** host:port, for the request's Host. */
  readonly address: string
  readonly id: number
  readonly traffic: Traffic
  readonly player: Player
  /** Told of a wrong byte, an error, an end that nobody asked for. */
  readonly fail: (error: Error) => void
}

export class Tunnel implements Reader {
  readonly id: number
  traffic: Traffic
  player: Player
  /** Milliseconds of this process's clock: when the 101, or the latest answer, was asked for. */
  askedAt = performance.now()
  /** A question was asked and not answered yet. */
  isBusy = false
  #wire: Wire | null = null
  readonly #fail: (error: Error) => void
  /** Until the 101 has come. */
  #request: { readonly head: string; readonly accept: string } | null
  #answer = ''
  #transfer = 0
  #sent = 0
  #received = 0
  #isClosing = false

  /** `dial` opens its connection. */
  constructor({ address, id, traffic, player, fail }: TunnelOptions, dial: (reader: Reader) => Wire) {
    this.id = id
    this.traffic = traffic
    this.player = player
    this.#fail = fail
    this.#request = newRequest(address, pathOf(traffic, id))
    this.#wire = dial(this)
  }

  opened(): void {
    const head = Buffer.from(this.#request?.head ?? '', 'latin1')
    if (this.#wire?.send(head, head.length) !== head.length) this.#failed('the request did not fit')
  }

  /** The next question; its answer must have come to the one before. */
  ask(): void {
    this.#transfer = (this.#transfer + 1) | 0
    this.#sent = 0
    this.#received = 0
    this.isBusy = true
    this.writable()
  }

  writable(): void {
    const size = questionSize(this.traffic)
    const start = startOf(this.id, this.#transfer)
    while (this.isBusy && this.#sent < size) {
      const bytes = piece(start, this.#sent, size - this.#sent)
      const sent = this.#wire?.send(bytes, bytes.length) ?? 0
      this.#sent += sent
      if (sent < bytes.length) return
    }
  }

  received(bytes: Buffer, length: number): void {
    if (this.#request !== null) {
      this.#readAnswer(bytes.toString('latin1', 0, length), this.#request.accept)
      return
    }
    const size = answerSize(this.traffic)
    const start = answerStart(this.traffic.kind, this.id, this.#transfer)
    if (!this.isBusy || this.#received + length > size) {
      this.#failed('a byte came that nobody sent')
      return
    }
    if (!matches(bytes, length, start, this.#received)) {
      this.#failed('a wrong byte came back')
      return
    }
    this.#received += length
    if (this.#received < size) return
    this.isBusy = false
    this.player.answered(this)
  }

  /** FIN; the player is told when both directions are over. */
  close(): void {
    this.#isClosing = true
    this.#wire?.end()
  }

  /** At once, and nobody is told. */
  reset(): void {
    this.#wire?.reset()
  }

  ended(): void {
    if (!this.#isClosing) {
      this.#failed('the tunnel was ended by the other side')
      return
    }
    this.#wire?.close()
    this.player.closed(this)
  }

  failed(error: Error): void {
    this.#failed(error.message)
  }

  #failed(what: string): void {
    const where = this.#request === null ? `transfer ${this.#transfer}` : 'its handshake'
    this.#fail(new Error(`tunnel ${this.id}, ${where}: ${what}`))
  }

  #readAnswer(text: string, accept: string): void {
    this.#answer += text
    const end = this.#answer.indexOf('\r\n\r\n')
    if (end === -1) return
    if (end + 4 < this.#answer.length || !isRightAnswer(this.#answer, accept)) {
      this.#failed(`not the right 101: ${this.#answer.slice(0, 300)}`)
      return
    }
    this.#request = null
    this.#answer = ''
    this.player.opened(this)
  }
}
