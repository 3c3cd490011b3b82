// One tunnel with both its ends: a client that asks for it, the origin's connection that belongs to it, and a pattern in each
// direction. It may end only as the script has said before.

import type { Socket } from 'node:net'
import { connect } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { isRightAnswer, newRequest } from '../load/handshake.ts'
import type { Address } from '../load/wire.ts'
import { Flow } from './flow.ts'

/** No more waits in a sender, so that a reader that stands still costs no memory. */
const UNSENT_LIMIT = 512 * 1_024
/** What a refused client waits for its answer. */
const ANSWER_TIMEOUT_MS = 15_000

/** A status, or how the connection ended before there was one. */
export type Outcome = number | 'reset' | 'closed' | 'timeout'

/** How far a tunnel is. */
export interface Mark {
  readonly at: number
  readonly up: number
  readonly down: number
}

export const pathOf = (id: number) => `/soak/${id}`
export const idOf = (path: string) => Number(path.slice('/soak/'.length))

type State = 'opening' | 'open' | 'closing' | 'over'

export class Pair {
  readonly id: number
  readonly up: Flow
  readonly down: Flow
  /** Of the 101, or what came instead. */
  readonly answered: Promise<Outcome>
  readonly startedAt = performance.now()
  /** When the 101 was there, and when the first end was over. */
  openedAt = 0
  overAt = 0
  state: State = 'opening'
  /** Why it may end, if the script has brought that about. */
  excuse: string | null = null
  /** One of its readers stands still because the script wants it. */
  isStalled = false
  readonly client: Socket
  readonly isSecure: boolean
  /** Below `client`, or the same. */
  readonly #connection: Socket
  origin: Socket | null = null
  /** The client's port, for as long as it lives and after. */
  port = 0
  readonly #fail: (what: string) => void
  #settle: (outcome: Outcome) => void = () => {}
  #isHalfClosed = false

  /** `authority`: with TLS, the certificate that the edge's must be signed by. */
  constructor(id: number, to: Address, fail: (what: string) => void, authority: string | null = null) {
    this.id = id
    this.isSecure = authority !== null
    this.up = new Flow(id, 1)
    this.down = new Flow(id, 2)
    this.#fail = (what) => fail(`tunnel ${id} (client port ${this.port}): ${what}`)
    this.answered = new Promise((resolve) => {
      this.#settle = resolve
    })
    const connection = connect({ ...to, noDelay: true, allowHalfOpen: true })
    this.#connection = connection
    // What goes wrong is told by the client's.
    connection.on('error', () => {})
    const { host } = to
    this.client = authority === null ? connection : connectTls({ socket: connection, host, ca: authority })
    this.#begin(`${to.host}:${to.port}`)
  }

  /** `rest`: what came behind the request's head. */
  attach(origin: Socket, rest: Buffer): void {
    this.origin = origin
    this.#watch(origin, 'origin', this.up)
    if (rest.length > 0) this.#received('origin', this.up, rest)
  }

  /** Sends so many bytes, or as many as there is room for. */
  send(from: 'client' | 'origin', size: number): void {
    const socket = from === 'client' ? this.client : this.origin
    if (this.state !== 'open' || socket === null || socket.writableLength > UNSENT_LIMIT) return
    socket.write((from === 'client' ? this.up : this.down).next(size))
  }

  /** In order, begun by one side: FIN after all bytes, and the other side's FIN after all of its own. */
  close(by: 'client' | 'origin'): void {
    if (this.state !== 'open') return
    this.state = 'closing'
    if (by === 'client') this.client.end()
    else this.origin?.end()
  }

  reset(by: 'client' | 'origin'): void {
    this.excuse = `reset by its ${by}`
    if (by === 'client') this.#connection.resetAndDestroy()
    else this.origin?.resetAndDestroy()
  }

  /** Takes no part any more, whatever becomes of it. */
  drop(): void {
    this.excuse ??= 'dropped by the script'
    this.#over()
  }

  mark(): Mark {
    return { at: performance.now(), up: this.up.received, down: this.down.received }
  }

  pauseMs(): number {
    return Math.max(this.up.pauseMs(), this.down.pauseMs())
  }

  forgetPauses(): void {
    this.up.forgetPauses()
    this.down.forgetPauses()
  }

  #begin(host: string): void {
    const { client } = this
    const connection = this.#connection
    const { head, accept } = newRequest(host, pathOf(this.id))
    connection.once('connect', () => {
      this.port = connection.localPort ?? 0
    })
    client.write(head)
    client.setTimeout(ANSWER_TIMEOUT_MS, () => this.#refused('timeout'))
    let text = ''
    const read = (bytes: Buffer) => {
      text += bytes.toString('latin1')
      const end = text.indexOf('\r\n\r\n')
      if (end === -1) return
      client.off('data', read)
      const status = Number(text.split(' ', 2)[1])
      if (status !== 101) return this.#refused(status)
      if (!isRightAnswer(text.slice(0, end + 4), accept)) this.#fail(`a wrong 101: ${text.slice(0, 300)}`)
      this.#open(Buffer.from(text.slice(end + 4), 'latin1'))
    }
    client.on('data', read)
    client.on('error', () => this.#refused('reset'))
    client.on('end', () => this.#refused('closed'))
  }

  #refused(outcome: Outcome): void {
    if (this.state !== 'opening') return
    this.#over()
    this.#settle(outcome)
  }

  #open(rest: Buffer): void {
    this.client.setTimeout(0)
    this.state = 'open'
    this.openedAt = performance.now()
    this.#watch(this.client, 'client', this.down)
    if (rest.length > 0) this.#received('client', this.down, rest)
    this.#settle(101)
  }

  #watch(socket: Socket, side: 'client' | 'origin', incoming: Flow): void {
    socket.on('data', (bytes: Buffer) => this.#received(side, incoming, bytes))
    socket.on('end', () => this.#ended(side, incoming))
    socket.on('error', (error: NodeJS.ErrnoException) => this.#broken(side, error.code ?? error.message))
    // One that is closed in order is told by `end`.
    socket.on('close', () => {
      if (!socket.readableEnded) this.#broken(side, 'closed')
    })
  }

  #received(side: string, flow: Flow, bytes: Buffer): void {
    if (this.state === 'over' || flow.accept(bytes)) return
    this.#fail(
      `a wrong byte came to the ${side}, at ${flow.received - bytes.length} to ${flow.received} of ${flow.sent}`,
    )
    this.drop()
  }

  #ended(side: 'client' | 'origin', incoming: Flow): void {
    // Of one that does not come to be the client's answer tells.
    if (this.state === 'over' || this.state === 'opening') return
    if (this.state !== 'closing') {
      if (this.excuse === null) this.#fail(`FIN came to the ${side}, nobody had ended it`)
      this.#over()
      return
    }
    if (!incoming.isWhole && this.excuse === null) {
      this.#fail(`FIN came to the ${side} with ${incoming.received} of ${incoming.sent} bytes`)
    }
    if (this.#isHalfClosed) {
      this.#over()
      return
    }
    this.#isHalfClosed = true
    ;(side === 'client' ? this.client : this.origin)?.end()
  }

  #broken(side: string, what: string): void {
    if (this.state === 'over' || this.state === 'opening') return
    if (this.excuse === null) this.#fail(`${what} at the ${side} while ${this.state}`)
    this.#over()
  }

  #over(): void {
    this.state = 'over'
    this.overAt = performance.now()
    this.client.destroy()
    this.origin?.destroy()
  }
}
