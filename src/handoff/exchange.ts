// The giving itself: the head goes to the origin, its answer is read, and what isn't a 101 is relayed whole.

import type { Reached } from '../dial/reach.ts'
import { HeadraceError } from '../errors.ts'
import { withSetCookie } from '../head/cookies.ts'
import type { RequestHead, ResponseHead } from '../head/head.ts'
import { endToEnd, field, requestBytes, responseBytes } from '../head/head.ts'
import type { HeadLimits, MessageParser } from '../head/llhttp.ts'
import { readResponseHead } from '../head/read.ts'
import type { Signal } from '../signal.ts'
import { conclude } from '../transport/conclude.ts'
import type { Reader, Transport } from '../transport/transport.ts'

/** How many 1xx answers an origin may send before its real one. */
const INTERIM_LIMIT = 16
/** How long a relayed answer may stand still, in ms. A tunnel has no such limit; this is not one. */
const STALL_TIMEOUT_MS = 60_000

export interface Answer {
  readonly head: ResponseHead
  /** What came behind the head. */
  readonly rest: Buffer | null
  /** Knows where the body ends. The owner of the answer frees it. */
  readonly parser: MessageParser
  /** Bytes of the request's head, as the origin got it. */
  readonly requestSize: number
}

/**
 * Sends the head to the origin and reads its answer, to which the cookie that is due is added; 1xx ones are passed on to the
 * client (RFC 9110 section 15.2). Both transports stay the caller's. Throws answer-malformed, answer-too-large, answer-closed,
 * answer-reset, or the signal's reason.
 */
export async function ask(
  request: RequestHead,
  client: Transport,
  { origin: { transport: origin }, setCookie }: Pick<Reached, 'origin' | 'setCookie'>,
  limits: HeadLimits,
  signal: Signal,
): Promise<Answer> {
  const asked = requestBytes(request)
  origin.write(asked)
  let first: Buffer | null = null
  for (let count = 0; count <= INTERIM_LIMIT; count += 1) {
    const read = await readResponseHead(origin, first, limits, signal)
    const { head, rest, parser } = read
    const { status, fields } = head
    if (status >= 200 || status === 101) {
      return {
        ...read,
        head: { ...head, fields: withSetCookie(fields, setCookie) },
        requestSize: asked.length,
      }
    }
    parser.free()
    if (status < 100) throw new HeadraceError('answer-malformed', `the status ${status}`)
    client.write(responseBytes({ ...head, fields: endToEnd(fields) }))
    first = rest
  }
  throw new HeadraceError('answer-malformed', `over ${INTERIM_LIMIT} interim answers`)
}

/** The 101 as the client gets it: as it came, but for fields that were meant for this hop only. */
export function switchingBytes({ head }: Answer): string {
  return responseBytes({ ...head, fields: endToEnd(head.fields, ['connection', 'upgrade']) })
}

/**
 * Relays an answer that is not a 101, with `Connection: close`, and closes both transports. What the client has sent or
 * sends is dropped: it must never reach the origin as a second request. Resolves when the answer was handed to the
 * system; rejects when it was cut short (answer-closed, answer-reset, answer-malformed, answer-timeout,
 * answer-stalled, client-closed, client-reset).
 */
export function relayAnswer(answer: Answer, client: Transport, origin: Transport): Promise<void> {
  return new Promise((resolve, reject) => {
    const relay = new AnswerRelay(answer, client, origin, resolve, reject)
    relay.start()
  })
}

class AnswerRelay implements Reader {
  readonly answer: Answer
  readonly client: Transport
  readonly origin: Transport
  readonly resolve: () => void
  readonly reject: (reason: HeadraceError) => void
  readonly timer: NodeJS.Timeout
  isOver = false
  isBlocked = false

  constructor(
    answer: Answer,
    client: Transport,
    origin: Transport,
    resolve: () => void,
    reject: (reason: HeadraceError) => void,
  ) {
    this.answer = answer
    this.client = client
    this.origin = origin
    this.resolve = resolve
    this.reject = reject
    this.timer = setTimeout(stalled, STALL_TIMEOUT_MS, this)
  }

  start(): void {
    const { head, rest } = this.answer
    // A 426 says with Upgrade what it wants (RFC 9110 section 15.5.22).
    const kept = ['transfer-encoding', 'trailer', ...(head.status === 426 ? ['upgrade'] : [])]
    const fields = [...endToEnd(head.fields, kept), field('Connection', 'close')]
    this.client.write(responseBytes({ ...head, fields }))
    this.client.attach(new Unheard(this))
    // Also with no bytes: an answer without a body is complete right behind its head.
    if (!this.isOver) this.data(rest ?? Buffer.alloc(0))
    if (!this.isOver) this.origin.attach(this)
  }

  // What the origin sends.

  data(chunk: Buffer): void {
    const { parser } = this.answer
    this.timer.refresh()
    const taken = parser.feed(chunk)
    if (parser.fault !== null) {
      this.stop(new HeadraceError('answer-malformed', parser.fault.detail))
      return
    }
    if (taken > 0 && !this.client.write(chunk.subarray(0, taken))) {
      this.isBlocked = true
      this.origin.pause()
    }
    if (parser.isComplete) this.stop(null)
  }

  end(): void {
    this.stop(
      this.answer.parser.finish() ? null : new HeadraceError('answer-closed', 'in the middle of the body'),
    )
  }

  drain(): void {}

  closed(error: NodeJS.ErrnoException | undefined): void {
    this.stop(new HeadraceError(error ? 'answer-reset' : 'answer-closed', error?.code ?? '', error))
  }

  /** The client has taken what was written. */
  clientDrained(): void {
    this.timer.refresh()
    this.isBlocked = false
    this.origin.resume()
  }

  /** Once: null when the answer is complete. Short of that the client must not take it for complete: RST. */
  stop(error: HeadraceError | null): void {
    if (this.isOver) return
    this.isOver = true
    clearTimeout(this.timer)
    this.answer.parser.free()
    this.origin.destroy()
    if (error === null) {
      conclude(this.client, '')
      this.resolve()
    } else {
      this.client.reset()
      this.reject(error)
    }
  }
}

function stalled(relay: AnswerRelay): void {
  relay.stop(
    new HeadraceError(relay.isBlocked ? 'answer-stalled' : 'answer-timeout', `${STALL_TIMEOUT_MS} ms`),
  )
}

/** Reads the client so that its leaving is noticed, and drops what it says. */
class Unheard implements Reader {
  readonly relay: AnswerRelay

  constructor(relay: AnswerRelay) {
    this.relay = relay
  }

  data(): void {}

  // A client that sends FIN may well wait for the rest of the answer.
  end(): void {}

  drain(): void {
    this.relay.clientDrained()
  }

  closed(error: NodeJS.ErrnoException | undefined): void {
    this.relay.stop(new HeadraceError(error ? 'client-reset' : 'client-closed', error?.code ?? '', error))
  }
}
