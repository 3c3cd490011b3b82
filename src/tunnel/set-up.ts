// The time before a tunnel is one: what is known of a connection on its way, how far it has come, how long each phase took,
// and the one signal that ends it early.

import type { Client } from '../accept/client.ts'
import type { Phase } from '../end.ts'
import type { ErrorCode } from '../errors.ts'
import { HeadraceError } from '../errors.ts'
import type { RequestHead, ResponseHead } from '../head/head.ts'
import { SetUpSignal } from '../signal.ts'
import type { Phases, TunnelFacts } from './tunnel.ts'

/** Of a handoff: from its request to the 101, or to whatever else became of it. */
export interface HandoffSpan {
  /** The request as the origin gets it. */
  carried(request: RequestHead): RequestHead
  /** What the client gets. */
  answered(status: number): void
  failed(error: HeadraceError): void
  /** Once. */
  end(service: string | null, backend: string | null): void
}

/** Whoever has handed it over, and wants to hear what becomes of it. What they do must not throw. */
export interface Referrer {
  /** The origin, at this address, has switched protocols with this answer. */
  switched(answer: ResponseHead, origin: string): void
  /** It goes no further, and the client is about to be told. True: the referrer has told it already. */
  refused(error: HeadraceError): boolean
}

export class SetUp {
  readonly id: string
  readonly phases: Phases = { accept: 0, tls: 0, head: 0, gate: 0, decide: 0, dial: 0, answer: 0 }
  phase: Exclude<Phase, 'tunnel'>
  client: Client | null
  head: RequestHead | null
  /** Its id. */
  service: string | null = null
  /** The name of the last one that was dialled. */
  backend: string | null = null
  /** The rule of the gate that allowed it. */
  rule: string | null = null
  /** Whether the ledger has been asked for seats: they are given back unless a tunnel takes them on. */
  isCounted = false
  referrer: Referrer | null = null
  /** Null: nobody traces it. */
  span: HandoffSpan | null = null
  /** Every step before the tunnel listens to it; its reason is a HeadraceError. */
  readonly signal = new SetUpSignal()
  #enteredAt = performance.now()
  #deadline: NodeJS.Timeout | undefined

  constructor(id: string, phase: Exclude<Phase, 'tunnel'>, client: Client | null, head: RequestHead | null) {
    this.id = id
    this.phase = phase
    this.client = client
    this.head = head
  }

  /** What other people's code gets of it; routes have no use for an AbortSignal: only who asks for it gets one made. */
  context(log: Record<string, unknown>): {
    readonly signal: AbortSignal
    readonly log: Record<string, unknown>
  } {
    const { signal } = this
    let made: AbortSignal | undefined
    return {
      log,
      get signal() {
        made ??= abortSignalOf(signal)
        return made
      },
    }
  }

  enter(phase: Exclude<Phase, 'tunnel'>): void {
    this.leave()
    this.phase = phase
  }

  /** Ends the clock of the current phase. */
  leave(): void {
    const now = performance.now()
    this.phases[this.phase] += Math.round((now - this.#enteredAt) * 1_000)
    this.#enteredAt = now
  }

  /** Of the tunnel that it becomes now. `origin`: the address that was dialled, or `local`. */
  facts(client: Client, origin: string): TunnelFacts {
    return {
      id: this.id,
      service: this.service ?? '',
      listener: client.listener,
      clientAddress: client.address,
      originAddress: origin,
      startedAt: Date.now(),
      phases: this.phases,
      rule: this.rule,
      isCounted: this.isCounted,
    }
  }

  /** From now on the connection has `ms` until `meet`. One deadline at a time. */
  expect(ms: number, code: ErrorCode): void {
    this.#deadline = setTimeout(expire, ms, this, code, ms)
  }

  meet(): void {
    clearTimeout(this.#deadline)
  }

  abort(reason: HeadraceError): void {
    this.signal.abort(reason)
  }
}

function abortSignalOf(signal: SetUpSignal): AbortSignal {
  const controller = new AbortController()
  const abort = () => controller.abort(signal.reason)
  signal.addEventListener('abort', abort)
  if (signal.aborted) abort()
  return controller.signal
}

function expire(setUp: SetUp, code: ErrorCode, ms: number): void {
  setUp.abort(new HeadraceError(code, `${ms} ms`))
}
