// What is said: one function per log line, JSON through pino. Field names are the words of the documentation.

import type { Logger } from 'pino'
import { pino } from 'pino'
import type { Client } from '../accept/client.ts'
import type { End } from '../end.ts'
import type { HeadraceError } from '../errors.ts'
import type { Crossing } from '../gate/seats.ts'
import type { Field, RequestHead } from '../head/head.ts'
import type { Tunnel } from '../tunnel/tunnel.ts'

export interface LogOptions {
  /** pino's levels: trace, debug, info, warn, error, fatal, silent. */
  readonly level: string
  /** Request fields that stand in the accept line. */
  readonly headers: readonly string[]
  /** Of those, the ones that are shown as `[redacted]`, besides the ones that always are. */
  readonly redact: readonly string[]
}

/** What lets whoever reads it be somebody, or take over a session. */
const ALWAYS_REDACTED = ['authorization', 'cookie', 'set-cookie', 'proxy-authorization', 'sec-websocket-key']

/** As much as is known of a request. */
export interface RequestFacts {
  readonly id: string
  readonly client: Client | null
  readonly service: string | null
  readonly backend: string | null
  readonly head: RequestHead | null
}

export interface TunnelSummary {
  readonly end: End
  readonly error: string
  readonly durationMs: number
  readonly bytes: { readonly clientToOrigin: number; readonly originToClient: number }
}

/** A backend has become healthy or unhealthy: told once each time. */
export interface HealthEvent {
  readonly service: string
  readonly backend: string
  /** As it is configured: `host:port` or `unix:/path`. */
  readonly address: string
  readonly health: 'healthy' | 'unhealthy'
  readonly reason: string
}

export interface Lines {
  accepted(tunnel: Tunnel, head: RequestHead, extra: Readonly<Record<string, unknown>>): void
  closed(tunnel: Tunnel, summary: TunnelSummary): void
  refused(request: RequestFacts, error: HeadraceError, status: number | null, end: End): void
  /** Its backend could not be reached, and another one is tried: the client notices nothing. */
  passedOver(request: RequestFacts, error: HeadraceError): void
  answered(request: RequestFacts, status: number, durationMs: number): void
  health(event: HealthEvent): void
  /** A rule that only logs has matched. */
  noted(request: RequestFacts, rule: string): void
  spike(crossing: Crossing): void
  /** Something that an operator should mend, and that stopped nothing. */
  trouble(error: HeadraceError): void
  failure(what: string, error: unknown): void
  /** What moves the bytes of plain tunnels, and why it is that. */
  engine(name: string, reason: string): void
  configure(options: LogOptions): void
}

/** `worker`: who of several says it. */
export function createLines(options: LogOptions, worker?: string): Lines {
  const log = createLogger(options.level, worker)
  let { redacted, shown } = namesOf(options)

  return {
    accepted(tunnel, head, extra) {
      if (!log.isLevelEnabled('info')) return
      const headers = shown.size === 0 ? undefined : shownFields(head.fields, shown, redacted)
      const added = Object.keys(extra).length === 0 ? undefined : extra
      log.info({ ...whoAndWhere(tunnel), path: pathOf(head), headers, extra: added }, 'tunnel accepted')
    },
    closed(tunnel, { end, error, durationMs, bytes }) {
      if (!log.isLevelEnabled('info')) return
      log.info({ ...whoAndWhere(tunnel), durationMs, bytes, end, error: error || undefined }, 'tunnel closed')
    },
    refused(request, { code, message, remedy, rule }, status, end) {
      const line = { ...of(request), status, end, code, rule: rule ?? undefined, error: message, remedy }
      // The operator can mend what is wrong at the edge or behind it; what clients do wrong is everyday.
      if (status !== null && status >= 500) log.warn(line, 'request refused')
      else log.info(line, 'request refused')
    },
    passedOver(request, { code, message }) {
      log.info({ ...of(request), code, error: message }, 'backend passed over')
    },
    answered(request, status, durationMs) {
      log.info({ ...of(request), status, durationMs: Math.round(durationMs) }, 'request answered')
    },
    health(event) {
      if (event.health === 'unhealthy') log.warn(event, 'backend unhealthy')
      else log.info(event, 'backend healthy')
    },
    noted(request, rule) {
      log.info({ ...of(request), rule }, 'rule matched')
    },
    spike({ isAbove, ...numbers }) {
      if (isAbove) log.warn(numbers, 'more connections than expected')
      else log.info(numbers, 'connections as expected again')
    },
    trouble({ code, message, remedy }) {
      log.warn({ code, error: message, remedy }, 'trouble')
    },
    failure(what, error) {
      log.error({ err: error }, what)
    },
    engine(name, reason) {
      log.info({ engine: name, reason }, 'engine chosen')
    },
    configure(next) {
      log.level = next.level
      ;({ redacted, shown } = namesOf(next))
    },
  }
}

function namesOf({ headers, redact }: LogOptions) {
  return {
    redacted: new Set([...ALWAYS_REDACTED, ...redact.map((name) => name.toLowerCase())]),
    shown: new Set(headers.map((name) => name.toLowerCase())),
  }
}

export function createLogger(level: string, worker?: string): Logger {
  return pino({
    level,
    base: worker === undefined ? { name: 'headrace' } : { name: 'headrace', worker },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
  })
}

function whoAndWhere({ facts, backend, splicing }: Tunnel) {
  const { id, service, listener, clientAddress: client, originAddress: origin, rule } = facts
  return {
    id,
    service,
    backend: backend.options.name,
    engine: splicing?.engine,
    listener,
    client,
    origin,
    rule: rule ?? undefined,
    phasesMs: inMs(facts.phases),
  }
}

function inMs(phases: Tunnel['facts']['phases']): Record<string, number> {
  return Object.fromEntries(Object.entries(phases).map(([phase, us]) => [phase, us / 1_000]))
}

function of({ id, client, service, backend, head }: RequestFacts) {
  return {
    id,
    client: client?.address,
    listener: client?.listener,
    service: service ?? undefined,
    backend: backend ?? undefined,
    method: head?.method,
    path: head === null ? undefined : pathOf(head),
  }
}

/** Without the query: it often holds tokens. */
export function pathOf({ target }: RequestHead): string {
  const mark = target.indexOf('?')
  return mark === -1 ? target : target.slice(0, mark)
}

function shownFields(fields: readonly Field[], shown: ReadonlySet<string>, redacted: ReadonlySet<string>) {
  const result: Record<string, string> = {}
  for (const { key, value } of fields) {
    if (!shown.has(key)) continue
    const known = result[key]
    const text = redacted.has(key) ? '[redacted]' : value
    result[key] = known === undefined || redacted.has(key) ? text : `${known}, ${text}`
  }
  return result
}
