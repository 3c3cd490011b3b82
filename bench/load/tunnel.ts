// A client's end of one tunnel: the handshake, then messages there and back, each byte compared.

import type { Socket } from 'node:net'
import { connect } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { isRightAnswer, newRequest } from './handshake.ts'

export interface Target {
  /** host:port */
  readonly address: string
  readonly tls: boolean
}

/** All tunnels read into it, one after the other: what arrives is compared at once and never kept. */
const scratch = Buffer.allocUnsafeSlow(65_536)

export class Tunnel {
  readonly socket: Socket
  readonly message: Buffer
  /** Told of each message that came back whole. */
  onEcho: (tunnel: Tunnel) => void = () => {}
  /** Told once, of whatever goes wrong: a wrong byte, an error, an end that nobody asked for. */
  onFailure: (error: Error) => void
  onOpen: () => void
  onClosed: (() => void) | null = null
  #answer: string | null = ''
  readonly #accept: string
  #sequence = 0
  #received = 0

  constructor(
    { address, tls }: Target,
    messageSize: number,
    id: number,
    onOpen: () => void,
    onFailure: (error: Error) => void,
  ) {
    this.onOpen = onOpen
    this.onFailure = onFailure
    const [host = '', port] = address.split(':')
    const { head, accept } = newRequest(address)
    this.#accept = accept
    this.message = Buffer.alloc(messageSize, `tunnel ${id} `)
    const place = { host, port: Number(port), noDelay: true }
    if (tls) {
      // The certificate is the benchmark's own, made for this run.
      this.socket = connectTls({ ...place, rejectUnauthorized: false, ALPNProtocols: ['http/1.1'] })
      this.socket.setNoDelay(true)
      this.socket.on('data', (chunk: Buffer) => this.#receive(chunk, chunk.length))
    } else {
      const callback = (length: number) => {
        this.#receive(scratch, length)
        return true
      }
      this.socket = connect({ ...place, onread: { buffer: scratch, callback } })
    }
    this.socket.on('error', (error) => this.onFailure(error))
    this.socket.on('close', () => {
      if (this.onClosed === null) this.onFailure(new Error('the tunnel was closed'))
      else this.onClosed()
    })
    this.socket.write(head, 'latin1')
  }

  /** Sends the next message; each is different from the one before. */
  ping(): void {
    this.#sequence = (this.#sequence + 1) >>> 0
    this.message.writeUInt32LE(this.#sequence, 0)
    this.#received = 0
    this.socket.write(this.message)
  }

  /** FIN; resolves when both directions are over. */
  close(): Promise<void> {
    return new Promise((resolve) => {
      this.onClosed = resolve
      this.socket.end()
    })
  }

  #receive(bytes: Buffer, length: number): void {
    if (this.#answer === null) this.#compare(bytes, length)
    else this.#readAnswer(this.#answer + bytes.toString('latin1', 0, length))
  }

  #compare(bytes: Buffer, length: number): void {
    const end = this.#received + length
    if (end > this.message.length || bytes.compare(this.message, this.#received, end, 0, length) !== 0) {
      this.onFailure(new Error(`a wrong byte came back, or one too many, in message ${this.#sequence}`))
      return
    }
    this.#received = end
    if (end === this.message.length) this.onEcho(this)
  }

  #readAnswer(answer: string): void {
    this.#answer = answer
    const end = answer.indexOf('\r\n\r\n')
    if (end === -1) return
    this.#answer = null
    if (end + 4 < answer.length || !isRightAnswer(answer, this.#accept)) {
      this.onFailure(new Error(`not the right 101: ${answer.slice(0, 300)}`))
    } else {
      this.onOpen()
    }
  }
}
