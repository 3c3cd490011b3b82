// Reads a head from a transport. Bytes come in, `{ head, rest }` goes out: what came behind the head is part of the
// result, and the transport is paused. Nobody is closed here.

import type { ErrorCode } from '../errors.ts'
import { HeadraceError } from '../errors.ts'
import type { Signal } from '../signal.ts'
import type { Reader, Transport } from '../transport/transport.ts'
import type { RequestHead, ResponseHead } from './head.ts'
import type { Fault, HeadLimits } from './llhttp.ts'
import { MessageParser } from './llhttp.ts'

/** The same trouble has another name on each side. */
type Troubles = Readonly<Record<Fault['kind'] | 'closed' | 'reset', ErrorCode>>

const REQUEST_TROUBLES: Troubles = {
  malformed: 'head-malformed',
  'too-large': 'head-too-large',
  'too-many-fields': 'head-too-many-fields',
  closed: 'client-closed',
  reset: 'client-reset',
}

const RESPONSE_TROUBLES: Troubles = {
  malformed: 'answer-malformed',
  'too-large': 'answer-too-large',
  'too-many-fields': 'answer-too-large',
  closed: 'answer-closed',
  reset: 'answer-reset',
}

/**
 * Reads the head of a request.
 * Throws head-malformed, head-too-large, head-too-many-fields, client-closed, client-reset, or the signal's reason.
 */
export async function readRequestHead(
  transport: Transport,
  limits: HeadLimits,
  signal: Signal,
): Promise<{ head: RequestHead; rest: Buffer | null }> {
  const parser = new MessageParser('request', limits)
  try {
    const rest = await readHead(transport, parser, null, REQUEST_TROUBLES, signal)
    return { head: parser.requestHead(), rest }
  } finally {
    parser.free()
  }
}

/**
 * Reads the head of a response; `first` are bytes that were read before. The parser goes with it, since only it knows
 * where the body will end: the caller frees it.
 * Throws answer-malformed, answer-too-large, answer-closed, answer-reset, or the signal's reason.
 */
export async function readResponseHead(
  transport: Transport,
  first: Buffer | null,
  limits: HeadLimits,
  signal: Signal,
): Promise<{ head: ResponseHead; rest: Buffer | null; parser: MessageParser }> {
  const parser = new MessageParser('response', limits)
  try {
    const rest = await readHead(transport, parser, first, RESPONSE_TROUBLES, signal)
    return { head: parser.responseHead(), rest, parser }
  } catch (error) {
    parser.free()
    throw error
  }
}

function readHead(
  transport: Transport,
  parser: MessageParser,
  first: Buffer | null,
  troubles: Troubles,
  signal: Signal,
): Promise<Buffer | null> {
  return new Promise((resolve, reject) => {
    const reader = new HeadReader(transport, parser, troubles, signal, resolve, reject)
    if (signal.aborted) return reader.handleEvent()
    signal.addEventListener('abort', reader)
    if (first !== null) reader.data(first)
    if (!reader.isDone) transport.attach(reader)
  })
}

class HeadReader implements Reader {
  isDone = false
  readonly transport: Transport
  readonly parser: MessageParser
  readonly troubles: Troubles
  readonly signal: Signal
  readonly resolve: (rest: Buffer | null) => void
  readonly reject: (reason: unknown) => void

  constructor(
    transport: Transport,
    parser: MessageParser,
    troubles: Troubles,
    signal: Signal,
    resolve: (rest: Buffer | null) => void,
    reject: (reason: unknown) => void,
  ) {
    this.transport = transport
    this.parser = parser
    this.troubles = troubles
    this.signal = signal
    this.resolve = resolve
    this.reject = reject
  }

  data(chunk: Buffer): void {
    if (this.isDone) return
    const { parser } = this
    const taken = parser.feed(chunk)
    if (parser.fault !== null) {
      this.#fail(new HeadraceError(this.troubles[parser.fault.kind], parser.fault.detail))
    } else if (parser.isHeadComplete) {
      this.#stop()
      this.resolve(taken < chunk.length ? chunk.subarray(taken) : null)
    }
  }

  end(): void {
    if (!this.isDone) this.#fail(new HeadraceError(this.troubles.closed))
  }

  drain(): void {}

  closed(error: NodeJS.ErrnoException | undefined): void {
    if (this.isDone) return
    const kind = error === undefined ? 'closed' : 'reset'
    this.#fail(new HeadraceError(this.troubles[kind], error?.code ?? '', error))
  }

  /** The signal's abort. */
  handleEvent(): void {
    this.#fail(this.signal.reason)
  }

  #fail(reason: unknown): void {
    this.#stop()
    this.reject(reason)
  }

  #stop(): void {
    this.isDone = true
    this.signal.removeEventListener('abort', this)
    this.transport.pause()
  }
}
