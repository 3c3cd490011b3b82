// Tells what happens on the way of a connection: to the log, and as events to whoever listens. A listener that throws is
// somebody else's trouble; it is logged, and no connection notices.

import type { EventEmitter } from 'node:events'
import type { Client } from '../accept/client.ts'
import type { End, Phase } from '../end.ts'
import { endName } from '../end.ts'
import type { EngineName, SpliceEnd } from '../engine/engine.ts'
import type { ErrorCode, HeadraceError } from '../errors.ts'
import { entry } from '../errors.ts'
import type { Crossing } from '../gate/seats.ts'
import type { RequestHead } from '../head/head.ts'
import type { Tunnel } from '../tunnel/tunnel.ts'
import type { Bytes } from './counts.ts'
import type { HealthEvent, Lines } from './lines.ts'
import type { Webhook } from './webhook.ts'

export interface AcceptedEvent {
  readonly id: string
  readonly service: string
  readonly backend: string
  /** `address` is '' on a Unix socket. */
  readonly client: { readonly address: string }
  /** The address that was dialled, such as `10.0.0.1:443`. */
  readonly origin: string
  /** What moves its bytes. A tunnel that the kernel does not take is `epoll`, from when that is known. */
  readonly engine: EngineName
  /** The rule of the gate that allowed it; null if none did. */
  readonly rule: string | null
}

export interface ClosedEvent extends AcceptedEvent {
  readonly end: End
  /** The name of the system's error, such as ECONNRESET; '' if there was none. */
  readonly error: string
  readonly durationMs: number
  readonly bytes: { readonly clientToOrigin: number; readonly originToClient: number }
}

export interface RefusedEvent {
  readonly id: string
  readonly code: ErrorCode
  /** What the client got; null: no answer. */
  readonly status: number | null
  readonly end: End
  /** Precisely what and where; for the operator. */
  readonly detail: string
  readonly client: { readonly address: string } | null
  readonly service: string | null
  /** The rule, rate or limit of the gate that refused it; null if none did. */
  readonly rule: string | null
}

/** A rule of a gate that only logs has matched. */
export interface NotedEvent {
  readonly id: string
  readonly rule: string
  readonly client: { readonly address: string } | null
  readonly service: string | null
}

/** Something that an operator should mend, and that stopped nothing. */
export interface TroubleEvent {
  readonly code: ErrorCode
  readonly detail: string
  readonly remedy: string
}

export interface EdgeEvents {
  accepted: [event: AcceptedEvent]
  closed: [event: ClosedEvent]
  refused: [event: RefusedEvent]
  health: [event: HealthEvent]
  noted: [event: NotedEvent]
  spike: [event: Crossing]
  trouble: [event: TroubleEvent]
}

/** As much as is known of a request that goes no further. */
export interface Refused {
  readonly id: string
  readonly phase: Phase
  readonly client: Client | null
  readonly service: string | null
  readonly backend: string | null
  readonly head: RequestHead | null
}

export interface Observer {
  /** A valid upgrade request for this service has come. */
  asked(service: string): void
  accepted(tunnel: Tunnel, head: RequestHead, extra: Readonly<Record<string, unknown>>): void
  closed(tunnel: Tunnel, end: SpliceEnd): void
  /** Another process carries it on, or this one what was another's; with the bytes that it had moved then. */
  moved(tunnel: Tunnel, where: 'in' | 'out', bytes: Readonly<Bytes>): void
  /** `status`: what the client got, if not what the error's code has. */
  refused(request: Refused, error: HeadraceError, status?: number): void
  /** The backend of the request could not be reached, and another one is tried. */
  passedOver(request: Refused, error: HeadraceError): void
  answered(request: Refused, status: number, durationMs: number): void
  health(event: HealthEvent): void
  /** A rule that only logs has matched. */
  noted(request: Refused, rule: string): void
  spike(crossing: Crossing): void
  trouble(error: HeadraceError): void
}

export function createObserver(
  lines: Lines,
  events: EventEmitter<EdgeEvents>,
  webhook: Webhook | null = null,
): Observer {
  function emit<Name extends keyof EdgeEvents>(name: Name, ...event: EdgeEvents[Name]): void {
    guard(`a listener of the event ${name} threw`, () => void (events as EventEmitter).emit(name, ...event))
  }

  /** What others have put into a line or an event may throw when it is looked at. */
  function guard(what: string, act: () => void): void {
    try {
      act()
    } catch (error) {
      lines.failure(what, error)
    }
  }

  return {
    // Whatever becomes of it is told.
    asked() {},
    accepted(tunnel, head, extra) {
      guard('what the handler wants to be logged threw', () => lines.accepted(tunnel, head, extra))
      if (events.listenerCount('accepted') > 0) emit('accepted', whoAndWhere(tunnel))
    },
    closed(tunnel, { who, how, error }) {
      const { splicing, facts } = tunnel
      const end = endName(who, how, 'tunnel')
      const durationMs = Date.now() - facts.startedAt
      const bytes = {
        clientToOrigin: splicing?.clientToOrigin ?? 0,
        originToClient: splicing?.originToClient ?? 0,
      }
      lines.closed(tunnel, { end, error, durationMs, bytes })
      if (events.listenerCount('closed') === 0) return
      emit('closed', { ...whoAndWhere(tunnel), end, error, durationMs, bytes })
    },
    // Hundreds at once: whoever moves them says how many.
    moved() {},
    refused(request, error, status) {
      const { who, how, status: usual } = entry(error.code)
      const end = endName(who, how, request.phase)
      const given = status ?? usual
      lines.refused(request, error, given, end)
      const { id, client, service } = request
      const { code, detail } = error
      emit('refused', {
        id,
        code,
        status: given,
        end,
        detail,
        client: client && { address: client.address },
        service,
        rule: error.rule,
      })
    },
    passedOver(request, error) {
      lines.passedOver(request, error)
    },
    answered(request, status, durationMs) {
      lines.answered(request, status, durationMs)
    },
    health(event) {
      lines.health(event)
      emit('health', event)
    },
    noted(request, rule) {
      lines.noted(request, rule)
      const { id, client, service } = request
      emit('noted', { id, rule, client: client && { address: client.address }, service })
    },
    spike(crossing) {
      lines.spike(crossing)
      webhook?.tell({ event: 'spike', ...crossing, at: new Date().toISOString() })
      emit('spike', crossing)
    },
    trouble(error) {
      lines.trouble(error)
      const { code, detail, remedy } = error
      emit('trouble', { code, detail, remedy })
    },
  }
}

function whoAndWhere({ facts, backend, splicing }: Tunnel): AcceptedEvent {
  const { id, service, clientAddress, originAddress, rule } = facts
  return {
    id,
    service,
    backend: backend.options.name,
    client: { address: clientAddress },
    origin: originAddress,
    engine: splicing?.engine ?? 'stream',
    rule,
  }
}
