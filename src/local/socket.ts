// The WebSocket that other people's code sees here: the shape that browsers have, and Workers with them. What its listeners
// throw is told to somebody and ends this socket, and nobody else's.

export type SocketEventType = 'open' | 'message' | 'close' | 'error'

export interface SocketEvent {
  readonly type: SocketEventType
  readonly target: LocalSocket
  /** Of a message: a text, or what `binaryType` says. */
  readonly data?: unknown
  /** Of a close. 1005: the other side gave none; 1006: it left without one (RFC 6455 section 7.4.1). */
  readonly code?: number
  readonly reason?: string
  readonly wasClean?: boolean
  /** Of an error. */
  readonly error?: unknown
  readonly message?: string
}

export type SocketListener =
  | ((this: LocalSocket, event: SocketEvent) => unknown)
  | { handleEvent(event: SocketEvent): unknown }

/** What stands below: the connection. */
export interface Wire {
  readonly protocol: string
  readonly extensions: string
  /** Bytes that were sent and have not left the process. */
  readonly bufferedAmount: number
  send(data: string | Uint8Array): void
  close(code: number | undefined, reason: string | undefined): void
  /** A listener has failed. */
  failed(error: unknown): void
}

// For whoever has the connection; user code has no business with them.
export const kAttach = Symbol('attach')
export const kMessage = Symbol('message')
export const kClosing = Symbol('closing')
export const kClosed = Symbol('closed')
export const kError = Symbol('error')

/** What may be sent before there is a connection, in bytes. */
const MAX_EARLY_SEND = 1024 * 1024

const CONNECTING = 0
const OPEN = 1
const CLOSING = 2
const CLOSED = 3

/** Not with `new`: a socket comes from `serve`, a session, or a WebSocketPair. */
export class LocalSocket {
  static readonly CONNECTING = CONNECTING
  static readonly OPEN = OPEN
  static readonly CLOSING = CLOSING
  static readonly CLOSED = CLOSED
  static readonly READY_STATE_CONNECTING = CONNECTING
  static readonly READY_STATE_OPEN = OPEN
  static readonly READY_STATE_CLOSING = CLOSING
  static readonly READY_STATE_CLOSED = CLOSED
  readonly CONNECTING = CONNECTING
  readonly OPEN = OPEN
  readonly CLOSING = CLOSING
  readonly CLOSED = CLOSED

  /** What binary messages are; the fastest is `nodebuffer`. */
  binaryType: 'arraybuffer' | 'blob' | 'nodebuffer' = 'arraybuffer'
  onopen: SocketListener | null = null
  onmessage: SocketListener | null = null
  onclose: SocketListener | null = null
  onerror: SocketListener | null = null
  readonly url = ''
  #state: 0 | 1 | 2 | 3 = CONNECTING
  #wire: Wire | null = null
  #early: (string | Uint8Array)[] | null = null
  #earlyBytes = 0
  /** Closed before there was a connection. */
  #closedEarly: { readonly code: number | undefined; readonly reason: string | undefined } | null = null
  readonly #listeners = new Map<string, SocketListener[]>()

  constructor(...given: readonly unknown[]) {
    if (given.length > 0) throw new TypeError('new WebSocket(url): connections to elsewhere are not offered')
  }

  get readyState(): 0 | 1 | 2 | 3 {
    return this.#state
  }

  get bufferedAmount(): number {
    return this.#wire?.bufferedAmount ?? this.#earlyBytes
  }

  get protocol(): string {
    return this.#wire?.protocol ?? ''
  }

  get extensions(): string {
    return this.#wire?.extensions ?? ''
  }

  /** As Workers ask for it: from now on it may be used. What is sent before there is a connection waits for it. */
  accept(): void {
    if (this.#state === CONNECTING) this.#state = OPEN
  }

  /**
   * Nothing happens when it is closing or closed. A client that reads too slowly is ended: see `local.maxBuffered`. Throws
   * TypeError for what is no text and no bytes, and Error before `accept`.
   */
  send(data: string | ArrayBuffer | ArrayBufferView): void {
    const bytes = sendable(data)
    if (this.#state === CONNECTING) throw new Error('send: the WebSocket is not accepted yet')
    if (this.#state !== OPEN) return
    if (this.#wire !== null) this.#wire.send(bytes)
    else this.#keep(bytes)
  }

  /** Throws TypeError or RangeError for a code or a reason that can't be sent. */
  close(code?: number, reason?: string): void {
    if (this.#state >= CLOSING) return
    checkClose(code, reason)
    this.#state = CLOSING
    if (this.#wire !== null) this.#wire.close(code, reason)
    else this.#closedEarly = { code, reason }
  }

  addEventListener(
    type: string,
    listener: SocketListener | null,
    options?: { once?: boolean } | boolean,
  ): void {
    if (listener === null) return
    const known = this.#listeners.get(type) ?? []
    if (known.includes(listener)) return
    const isOnce = typeof options === 'object' && options.once === true
    const added = isOnce ? this.#onceOf(type, listener) : listener
    this.#listeners.set(type, [...known, added])
  }

  removeEventListener(type: string, listener: SocketListener | null): void {
    const known = this.#listeners.get(type) ?? []
    this.#listeners.set(
      type,
      known.filter((one) => one !== listener && (one as { of?: SocketListener }).of !== listener),
    )
  }

  [kAttach](wire: Wire): void {
    this.#wire = wire
    const isOver = this.#state === CLOSING
    this.#state = OPEN
    for (const data of this.#early ?? []) wire.send(data)
    this.#early = null
    if (isOver && this.#closedEarly !== null) {
      this.#state = CLOSING
      wire.close(this.#closedEarly.code, this.#closedEarly.reason)
    }
  }

  [kMessage](data: Buffer, isBinary: boolean): void {
    this.#dispatch({ type: 'message', target: this, data: isBinary ? this.#binary(data) : data.toString() })
  }

  [kClosing](): void {
    if (this.#state < CLOSING) this.#state = CLOSING
  }

  [kClosed](code: number, reason: string): void {
    this.#state = CLOSED
    this.#dispatch({ type: 'close', target: this, code, reason, wasClean: code !== 1006 })
  }

  [kError](error: Error): void {
    this.#dispatch({ type: 'error', target: this, error, message: error.message })
  }

  #dispatch(event: SocketEvent): void {
    const own = this[`on${event.type}`]
    if (own !== null) this.#call(own, event)
    const listeners = this.#listeners.get(event.type)
    if (listeners !== undefined) for (const listener of listeners) this.#call(listener, event)
  }

  #call(listener: SocketListener, event: SocketEvent): void {
    try {
      const result = typeof listener === 'function' ? listener.call(this, event) : listener.handleEvent(event)
      if (isThenable(result)) result.then(undefined, (error: unknown) => this.#wire?.failed(error))
    } catch (error) {
      this.#wire?.failed(error)
    }
  }

  #onceOf(type: string, listener: SocketListener): SocketListener {
    const once = (event: SocketEvent) => {
      this.removeEventListener(type, listener)
      return typeof listener === 'function' ? listener.call(this, event) : listener.handleEvent(event)
    }
    return Object.assign(once, { of: listener })
  }

  #keep(data: string | Uint8Array): void {
    this.#earlyBytes += data.length
    if (this.#earlyBytes > MAX_EARLY_SEND) throw new Error('send: too much before there is a connection')
    this.#early = [...(this.#early ?? []), data]
  }

  #binary(data: Buffer): unknown {
    if (this.binaryType === 'nodebuffer') return data
    if (this.binaryType === 'blob') return new Blob([new Uint8Array(data)])
    return data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength)
  }
}

function sendable(data: unknown): string | Uint8Array {
  if (typeof data === 'string') return data
  if (data instanceof Uint8Array) return data
  if (ArrayBuffer.isView(data)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  if (data instanceof ArrayBuffer) return new Uint8Array(data)
  throw new TypeError('send: the data is neither a text nor bytes')
}

/** RFC 6455 sections 7.4 and 5.5: codes that may be sent, and a reason that has room in a control frame. */
function checkClose(code: number | undefined, reason: string | undefined): void {
  if (reason !== undefined && Buffer.byteLength(reason) > 123)
    throw new RangeError('close: the reason is longer than 123 bytes')
  if (code === undefined) return
  const isKnown = code >= 1000 && code <= 1014 && ![1004, 1005, 1006].includes(code)
  const isPrivate = code >= 3000 && code <= 4999
  if (!Number.isInteger(code) || !(isKnown || isPrivate))
    throw new TypeError(`close: ${code} is no code to send`)
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof (value as PromiseLike<unknown> | null | undefined)?.then === 'function'
}
