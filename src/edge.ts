// One running edge in one process: listeners, services, tunnels. The only door for the library and the program.

import { EventEmitter } from 'node:events'
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import { adopt } from './accept/client.ts'
import type { Arrival, ListenerOptions } from './accept/listener.ts'
import { LAST_HANDSHAKES_MS } from './accept/quiet.ts'
import type { Terms } from './accept/terms.ts'
import type { Limits } from './connection.ts'
import { createWay } from './connection.ts'
import type { Backend } from './dial/backend.ts'
import { addressText } from './dial/backend.ts'
import type { EngineChoice } from './engine/choose.ts'
import { chooseEngine } from './engine/choose.ts'
import { HeadraceError } from './errors.ts'
import type { CountingLedger } from './gate/ledger.ts'
import { createLedger } from './gate/ledger.ts'
import type { Crossing } from './gate/seats.ts'
import type { Handover } from './handover.ts'
import { createHandover } from './handover.ts'
import { fieldsOf } from './head/head.ts'
import { createChecks } from './health/checks.ts'
import type { ListenerGroup } from './listeners.ts'
import { openListeners } from './listeners.ts'
import { createActivity } from './observe/activity.ts'
import type { ServedBackend } from './observe/counts.ts'
import type { LogOptions } from './observe/lines.ts'
import { createLines } from './observe/lines.ts'
import { createMetering } from './observe/metering.ts'
import type { EdgeEvents, Observer } from './observe/observer.ts'
import { createObserver } from './observe/observer.ts'
import type { WebhookOptions } from './observe/webhook.ts'
import { renewableWebhook } from './observe/webhook.ts'
import type { GateReport, Operations } from './operations.ts'
import { createOperations } from './operations.ts'
import type { Passing } from './passing.ts'
import { openPassing } from './passing.ts'
import type { Prepared } from './prepared.ts'
import { loadProgram } from './program/program.ts'
import type { Peer } from './service/places.ts'
import { createPlaces, onlyHere } from './service/places.ts'
import type { Named } from './service/referral.ts'
import type { Service, ServiceMeans, ServiceOptions } from './service/service.ts'
import { createServices, expectations, succeedBackends } from './service/service.ts'
import type { BackendStatus } from './service/status.ts'
import type { Switched } from './service/switch.ts'
import { createSwitches, switchFileIn } from './service/switch.ts'
import { serviceTable } from './service/table.ts'
import type { DrainCounts, DrainProgress, DrainTimes } from './tunnel/drain.ts'
import { createDrain } from './tunnel/drain.ts'
import { Registry } from './tunnel/registry.ts'
import type { Amounts } from './usage/amounts.ts'
import { createUsage } from './usage/usage.ts'

export interface EdgeOptions {
  readonly services: readonly ServiceOptions[]
  readonly limits: Limits
  readonly engine: EngineChoice
  readonly log: LogOptions
  /** Where switch and usage are kept; without it, usage is counted for this process alone. */
  readonly stateDirectory: string | undefined
  /** The name of this process among those that share a state directory; default `main`. */
  readonly writer?: string
  /** Where a fleet counts rates together; undefined: each counts its own. */
  readonly redis: string | undefined
  /** Who is told of spikes. */
  readonly webhook: WebhookOptions | undefined
  /** What `close` waits for tunnels to end if it isn't told, in ms, and the last part of it, in which it closes them. */
  readonly drainTimeoutMs: number
  readonly drainSpreadMs: number
  /** Set for an edge that is one of several processes: there is more of what it is asked for elsewhere. */
  readonly worker?: WorkerIdentity
}

export interface WorkerIdentity {
  /** `worker-0`, `worker-1`, …: the same for whoever takes its place after a fall. */
  readonly name: string
  /** What was switched before, and is kept elsewhere. */
  readonly switched: Switched
  /** All workers, this one included: named sessions are shared out among them. */
  readonly peers: readonly Peer[]
}

/** What a reload can change. */
export type ReloadOptions = Pick<
  EdgeOptions,
  'services' | 'limits' | 'log' | 'webhook' | 'drainTimeoutMs' | 'drainSpreadMs'
>

export interface Edge extends EventEmitter<EdgeEvents>, Operations {
  /**
   * Opens listeners, all or none, and resolves with their addresses, ports that the system chose included, and with what
   * closes these alone. The checks of backends begin with it. Throws listen-failed or config-invalid; engine-unavailable
   * if the engine's thread can't start; state-locked or state-failed if usage can't be kept.
   */
  listen(listeners: readonly ListenerOptions[]): Promise<Opened>
  /**
   * Hands over an `upgrade` event of a node http or https server. The connection is answered, tunnelled and closed by
   * the edge from now on, whatever happens. `named`: a backend or director of the service that has the request's
   * host, or a referral; without it the routes or the handler of that service decide.
   */
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer, named?: Named): void
  /**
   * Makes ready what takes the place of the options: services with their handlers, which are loaded anew, and limits, log and
   * webhook; besides, the listeners of `opened`. Open tunnels live on, and a request that is on its way goes on with the
   * service that it has found. Nothing is in effect before `commit`, which does all of it in one step. Throws config-invalid
   * or listen-failed: then nothing has changed.
   */
  prepare(options: ReloadOptions, relisten?: Relisten): Promise<Prepared>
  /** The number of open tunnels. */
  readonly size: number
  /** What moves the bytes of plain tunnels, and why it is that. */
  readonly engine: { readonly name: string; readonly reason: string }
  /** How the backends do, in the order of the config. */
  backends(): BackendStatus[]
  /** What the gates have decided. */
  gates(): readonly GateReport[]
  /** Gives tunnels to another process, and takes them from one. */
  readonly handover: Handover
  /** Accepts no more, and resolves when what was accepted before has become a tunnel or has gone, or after `ms`. */
  settleArrivals(ms: number): Promise<void>
  /** What this process has counted since it started, by service: for metrics. */
  usageSinceStart(): Readonly<Record<string, Readonly<Amounts>>>
  /**
   * Stops accepting, waits up to `drainMs` for the tunnels to end, and closes the rest, spread over the last `spreadMs` of
   * it; then usage is written. A second call with less time shortens the wait. Resolves with what became of them.
   */
  close(times?: CloseTimes): Promise<DrainCounts>
  /** Null before `close`. */
  readonly draining: DrainProgress | null
}

export interface CloseTimes extends DrainTimes {
  /** When the last of usage must be written, for a disk that takes nothing, in ms from now; default: drainMs. */
  readonly usageMs?: number
}

export interface Opened extends Pick<ListenerGroup, 'prepare'> {
  readonly addresses: string[]
  /** Stops accepting there. What was accepted lives on. */
  close(): Promise<void>
}

/** How often those that are on their way are looked for, in ms. */
const LOOK_MS = 20

/** Listeners that were opened together, and those that shall be there instead. */
export interface Relisten {
  readonly opened: Opened
  readonly wanted: readonly ListenerOptions[]
}

/**
 * `shared`: a ledger that counts for several processes. Throws config-invalid, engine-unavailable, or state-failed.
 */
export function createEdge(options: EdgeOptions, shared: CountingLedger | null = null): Edge {
  const events = new EventEmitter<EdgeEvents>()
  const { worker } = options
  const lines = createLines(options.log, worker?.name)
  const tunnels = new Registry()
  const groups = new Set<ListenerGroup>()
  const { engine, loop, reason } = chooseEngine(options.engine)
  const trouble = (what: HeadraceError) => observer.trouble(what)
  const webhook = renewableWebhook(options.webhook, trouble)
  const usage = createUsage(options, trouble)
  const newId = idSource(worker?.name)
  const onCrossing = (crossing: Crossing) => observer.spike(crossing)
  const ledger = shared ?? createLedger({ redis: options.redis, onCrossing, onTrouble: trouble })
  const counter = { ledger, newId }
  const means: ServiceMeans = {
    places: worker === undefined ? onlyHere : createPlaces(worker.name, worker.peers),
    loadProgram: (program, service) => loadProgram(program, service, trouble),
  }
  let services = createServices(options.services, counter, undefined, means)
  const metering = createMetering(servedBy(services))
  const activity = createActivity(worker?.name ?? 'main', newId(), tunnels, metering.eventLoopDelay)
  const observer = metering.observing(activity.counting(createObserver(lines, events, webhook)))
  const checks = createChecks(watchHealth(servedBy(services), observer))
  const { stateDirectory } = options
  const switches = createSwitches({
    services: options.services,
    // Of several workers, the program keeps it.
    file: worker !== undefined || stateDirectory === undefined ? null : switchFileIn(stateDirectory),
    switched: worker?.switched ?? {},
  })
  const way = createWay({
    services: serviceTable(services),
    switches,
    tunnels,
    usage,
    ledger,
    engine,
    loop,
    observer,
    limits: options.limits,
    newId,
  })

  let passing: Promise<Passing> | null = null

  /** Where others pass on what is for sessions that live here. */
  async function openPassingOnce(some: readonly Service[]): Promise<void> {
    const own = worker?.peers.find(({ name }) => name === worker.name)
    const isUseless = worker === undefined || worker.peers.length < 2 || !some.some(hasCode)
    if (own === undefined || isUseless) return
    const serviceOf = (id: string) => services.find(({ options }) => options.id === id)
    passing ??= openPassing(own.path, { serviceOf, limits: options.limits, newId, trouble })
    await passing
  }

  function serve(arrival: Arrival, terms: Terms): void {
    metering.accepted(terms)
    void way.serve(arrival, terms)
  }

  async function open(wanted: readonly ListenerOptions[]): Promise<Opened> {
    await Promise.all([
      usage.open(),
      ledger.ready(),
      ...services.flatMap(({ handler, program }) => [handler, program]),
    ])
    await engine.ready.catch(engineFailed)
    await openPassingOnce(services)
    const group = await openListeners(wanted, { serve, trouble, loop })
    // Behind whatever the program says of the addresses. Of several workers, the program says it once.
    if (groups.size === 0 && worker === undefined) setImmediate(() => lines.engine(engine.name, reason))
    groups.add(group)
    checks.start()
    return {
      addresses: group.listeners.map(({ address }) => address),
      prepare: group.prepare,
      async close() {
        if (groups.delete(group)) await group.close()
      },
    }
  }

  async function prepare(next: ReloadOptions, relisten?: Relisten): Promise<Prepared> {
    const renewed = createServices(next.services, counter, services, means)
    await Promise.all(renewed.flatMap(({ handler, program }) => [handler, program]))
    await openPassingOnce(renewed)
    const listening = await relisten?.opened.prepare(relisten.wanted)
    return {
      commit() {
        lines.configure(next.log)
        webhook.configure(next.webhook)
        follow(renewed)
        way.follow({ services: serviceTable(renewed), limits: next.limits })
        switches.configure(next.services)
        usual = usualOf(next)
        listening?.commit()
      },
      drop: () => listening?.drop(),
    }
  }

  function follow(renewed: readonly Service[]): void {
    for (const { backend } of servedBy(services)) backend.health.changed = null
    succeedBackends(services, renewed)
    const served = servedBy(renewed)
    checks.follow(watchHealth(served, observer))
    metering.serve(served)
    ledger.expect(expectations(renewed.map(({ options }) => options)))
    services = [...renewed]
  }

  function upgrade(request: IncomingMessage, socket: Duplex, head: Buffer, named?: Named): void {
    const { method = '', url = '', httpVersion, rawHeaders } = request
    const asked = { method, target: url, version: httpVersion, fields: fieldsOf(rawHeaders) }
    void way.upgrade(adopt(socket, request.socket), asked, head.length > 0 ? head : null, named ?? null)
  }

  const { look, movedAt } = usage
  const drain = createDrain(tunnels, { look, movedAt, isBusy: way.isBusy })
  let usual = usualOf(options)

  async function close(times: CloseTimes = usual): Promise<DrainCounts> {
    const { usageMs = times.drainMs } = times
    const usageEndsAt = performance.now() + usageMs
    const lastMs = Math.min(LAST_HANDSHAKES_MS, times.drainMs)
    const closing = Promise.all([...groups].map((group) => group.close(lastMs)))
    groups.clear()
    checks.stop()
    way.drain()
    void passing?.then((one) => one.close())
    await drain.run(times)
    way.abort()
    const counts = await drain.finish()
    await (await passing)?.end()
    await closing
    await usage.close(usageEndsAt - performance.now())
    ledger.close()
    webhook.close()
    metering.close()
    return counts
  }

  const metrics = async () =>
    await metering.snapshot({
      worker: worker?.name ?? 'main',
      engine: engine.name,
      tunnels,
      listeners: [...groups].flatMap(({ listeners }) => listeners),
      isDraining: drain.progress !== null,
      usage: usage.sinceStart(),
      gates: await operations.gates(),
    })
  const operations = createOperations({
    services: () => services,
    registry: tunnels,
    switches,
    ledger,
    refuse: way.refuse,
    metrics,
    usage: usage.report,
    activity: activity.report,
  })
  const known = () => services
  const handover = createHandover({ tunnels, usage, observer, counter, services: known, settle: way.settle })

  async function settleArrivals(ms: number): Promise<void> {
    await Promise.all([...groups].map((group) => group.close()))
    groups.clear()
    const closedAt = performance.now()
    while (way.isBusy(closedAt) && performance.now() < closedAt + ms) {
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS))
    }
  }

  const own = {
    listen: open,
    upgrade,
    handover,
    settleArrivals,
    prepare,
    engine: { name: engine.name, reason },
    usageSinceStart: usage.sinceStart,
    close,
  }
  return Object.defineProperties(Object.assign(events, operations, own), {
    size: { get: () => tunnels.size },
    draining: { get: () => drain.progress },
  }) as unknown as Edge
}

function engineFailed(error: unknown): never {
  throw new HeadraceError(
    'engine-unavailable',
    `its thread did not start: ${(error as Error).message}`,
    error,
  )
}

/** Tells of what becomes of the backends' health from now on. */
function watchHealth(served: readonly ServedBackend[], observer: Observer): Backend[] {
  for (const { backend, service } of served) {
    const { health, options } = backend
    const who = { service, backend: options.name, address: addressText(options.address) }
    health.changed = () => {
      observer.health({
        ...who,
        health: health.isHealthy ? 'healthy' : 'unhealthy',
        reason: health.reason,
      })
    }
  }
  return served.map(({ backend }) => backend)
}

function usualOf({ drainTimeoutMs, drainSpreadMs }: ReloadOptions): DrainTimes {
  return { drainMs: drainTimeoutMs, spreadMs: drainSpreadMs }
}

/** All backends of all services, and what stands for one where code may be the origin. */
function servedBy(services: readonly Service[]): ServedBackend[] {
  return services.flatMap((service) => {
    const { options, backends, here } = service
    const all = [...backends.values(), ...(hasCode(service) ? [here] : [])]
    return all.map((backend) => ({ service: options.id, backend }))
  })
}

function hasCode({ handler, program }: Service): boolean {
  return handler !== null || program !== null
}

/** Ids that are short, and unlike those of other workers and earlier runs. */
function idSource(worker = ''): () => string {
  const random = Math.floor(Math.random() * 36 ** 5)
    .toString(36)
    .padStart(5, '0')
  const run = random + Number(worker.replace(/[^0-9]/g, '')).toString(36)
  let count = 0
  return () => {
    count += 1
    return `${run}-${count.toString(36)}`
  }
}
