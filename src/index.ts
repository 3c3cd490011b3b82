// Headrace as a library.
//
//   import { createTunnel, handoff } from 'headrace'
//
//   const tunnel = createTunnel({
//     services: [{ id: 'chat', domains: ['*'], websockets: 'on', backends: [{ name: 'chat', address: '127.0.0.1:9200' }] }],
//   })
//   tunnel.on('closed', ({ client, end, bytes }) => console.log(client.address, end, bytes))
//   const { addresses } = await tunnel.listen([{ address: '127.0.0.1:8080' }])
//   …
//   await tunnel.close({ drain: '10s' })

import type { EventEmitter } from 'node:events'
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import { fixedInEdge } from './config/fixed.ts'
import { parseConfig, parseDuration, parseListeners } from './config/parse.ts'
import { configError } from './config/problems.ts'
import type { ConfigInput, ListenerInput } from './config/schema.ts'
import type { Opened } from './edge.ts'
import { createEdge } from './edge.ts'
import type { EdgeEvents } from './observe/observer.ts'
import type { GateReport, Operations } from './operations.ts'
import type { BackendStatus } from './service/status.ts'
import type { DrainCounts, DrainProgress } from './tunnel/drain.ts'
import type { Amounts } from './usage/amounts.ts'
import type { UsageReport } from './usage/report.ts'

export type { ConfigInput, ListenerInput } from './config/schema.ts'
export type { End, How, Phase, Who } from './end.ts'
export type { ErrorCode } from './errors.ts'
export { errorCodes, HeadraceError } from './errors.ts'
export type { Crossing as SpikeEvent } from './gate/seats.ts'
export type { Decision, ServeOptions, SessionHandle } from './handoff/decision.ts'
export { createWebsocketHandoff, handoff, respond, send, serve, sessions } from './handoff/decision.ts'
export type { Handler, HandlerContext } from './handoff/handler.ts'
export type { HeaderView, RequestView } from './handoff/request-view.ts'
export type { Session } from './local/rooms.ts'
export type { LocalSocket, SocketEvent, SocketListener } from './local/socket.ts'
export type { Account, Activity, Notable, NotableTunnel, RefusalRecord } from './observe/activity.ts'
export type { HealthEvent } from './observe/lines.ts'
export type { Labels, MetricName, MetricsSnapshot, Series } from './observe/metrics.ts'
export { METRICS, mergeSnapshots } from './observe/metrics.ts'
export type {
  AcceptedEvent,
  ClosedEvent,
  EdgeEvents,
  NotedEvent,
  RefusedEvent,
  TroubleEvent,
} from './observe/observer.ts'
export type { Rendered } from './observe/render.ts'
export { renderMetrics } from './observe/render.ts'
export type { GateReport, Operations, ServiceRecord, Switching } from './operations.ts'
export type { BackendStatus } from './service/status.ts'
export type { SwitchState, SwitchValue } from './service/switch.ts'
export type { DrainCounts, DrainProgress } from './tunnel/drain.ts'
export type { TunnelFilter, TunnelPage, TunnelQuery, TunnelRecord } from './tunnel/listing.ts'
export type { Amounts } from './usage/amounts.ts'
export type { ServiceUsage, UsageReport } from './usage/report.ts'

/** `websockets`, `tunnels`, `find`, `end`, `services`, `backends` and `activity` are what the admin API is made of. */
export interface Tunnel extends EventEmitter<EdgeEvents>, Operations {
  /**
   * Opens listeners, all or none; those of the options if none are given. Resolves with their addresses, ports that
   * the system chose included; checks of backends begin with it. Throws HeadraceError `listen-failed` or `config-invalid`;
   * `state-locked` or `state-failed` if usage can't be kept in the `stateDirectory`.
   */
  listen(listeners?: readonly ListenerInput[]): Promise<{ addresses: string[] }>
  /**
   * Hands over an `upgrade` event of any node http or https server: what people use http-proxy's `ws()` for. Headrace
   * answers, tunnels and closes the connection from now on; it never throws because of what a client sent.
   * `backend`: a backend or director of the service that has the request's host; without it that service's routes or
   * handler decide.
   */
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer, backend?: string): void
  /**
   * Takes other options in the place of those of now, in one step: services with their backends, gates and handlers (modules
   * are loaded anew), limits, log, webhook, and `listeners`, if `listen` was called without any. Open tunnels live on, and
   * so does what has not changed of backends. Rejects with HeadraceError `config-invalid` with every problem in its text, also for
   * another engine, stateDirectory or rateStore, or `listen-failed`: then nothing has changed. One at a time.
   */
  reload(options: ConfigInput): Promise<void>
  /** The number of open tunnels. */
  readonly size: number
  /** How the backends do, in the order of the config: health, open connections, failures by kind. */
  backends(): readonly BackendStatus[]
  /** What the gates have decided since this tunnel was created, by rule, and whether there is a spike: for metrics. */
  gates(): readonly GateReport[]
  /**
   * What a UTC month such as `2026-11` cost, up to now: connections, minutes and bytes of each service, or of the one that
   * is named; of this month if none is. With a `stateDirectory` it is the usage of all that ever wrote there; without one,
   * of this tunnel alone. Rejects with HeadraceError `argument-invalid` if that is no month.
   */
  usage(month?: string, service?: string): Promise<UsageReport>
  /** What this tunnel has counted since it was created, by service: for metrics. */
  usageSinceStart(): Readonly<Record<string, Readonly<Amounts>>>
  /**
   * Stops accepting, waits up to `drain` (a duration such as `10s`, or ms; default 0) for the tunnels to end, and closes
   * the rest with FIN: one by one, spread over the last `spread` of that time (default: all of it), the one that is idle
   * longest first. Resolves with how many ended by themselves, were closed, or were cut because a later call could not wait.
   */
  close(options?: CloseOptions): Promise<DrainCounts>
  /** How far that is; null before. */
  readonly draining: DrainProgress | null
}

export interface CloseOptions {
  readonly drain?: string | number
  readonly spread?: string | number
}

/**
 * Creates a tunnel that listens nowhere yet. The options are those of the config file, with functions where it has
 * paths of modules; `listeners` may be left out. `workers` and `admin` are for the program: a library is one process.
 * With a `stateDirectory` it is kept there what is switched. Throws HeadraceError `config-invalid` with every problem in its text.
 */
export function createTunnel(options: ConfigInput): Tunnel {
  let config = parseConfig(options)
  /** Those that the options have. */
  let opened: Opened | null = null
  let last: Promise<unknown> = Promise.resolve()
  const edge = createEdge(config.edge)
  const { listen, close } = edge

  async function replace(input: ConfigInput): Promise<void> {
    const next = parseConfig(input)
    const problems = fixedInEdge(config, next)
    if (problems.length > 0) throw configError(problems)
    const relisten = opened === null ? undefined : { opened, wanted: next.listeners }
    const prepared = await edge.prepare(next.edge, relisten)
    prepared.commit()
    config = next
  }

  return Object.assign(edge, {
    async listen(listeners?: readonly ListenerInput[]) {
      if (listeners !== undefined) return { addresses: (await listen(parseListeners(listeners))).addresses }
      opened = await listen(config.listeners)
      return { addresses: opened.addresses }
    },
    reload(input: ConfigInput) {
      const reloading = last.then(() => replace(input))
      last = reloading.catch(() => {})
      return reloading
    },
    close: ({ drain = 0, spread = drain }: CloseOptions = {}) =>
      close({ drainMs: parseDuration(drain), spreadMs: parseDuration(spread) }),
  })
}
