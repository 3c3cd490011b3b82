// The snapshot of one edge: made of its counts and of what stands open, when somebody asks. Tunnels are looked at some at a
// time, so that nobody waits for it, however many there are.

import { createRequire } from 'node:module'
import type { Terms } from '../accept/terms.ts'
import type { Backend } from '../dial/backend.ts'
import type { Registry } from '../tunnel/registry.ts'
import type { Tunnel } from '../tunnel/tunnel.ts'
import type { ByService, Bytes, Counts, Distribution, ServedBackend, Traffic } from './counts.ts'
import { forgetBackends, trafficOf } from './counts.ts'
import type { EventLoopDelay } from './event-loop.ts'
import type { GateFacts } from './gate-series.ts'
import { gateSeries } from './gate-series.ts'
import type { Labels, MetricName, MetricsSnapshot, Series } from './metrics.ts'

/** What a snapshot is made of. */
export interface Sources {
  /** The name of this process. */
  readonly worker: string
  readonly engine: string
  readonly counts: Counts
  readonly tunnels: Registry
  readonly backends: readonly ServedBackend[]
  readonly listeners: readonly { readonly terms: Pick<Terms, 'address' | 'certificates'> }[]
  readonly isDraining: boolean
  /** Since the start, by service. */
  readonly usage: Readonly<Record<string, { readonly minutes: number }>>
  readonly gates: readonly GateFacts[]
  eventLoopDelay(): EventLoopDelay
}

type Snapshot = Partial<Record<MetricName, readonly Series[]>>

const { version } = createRequire(import.meta.url)('headrace/package.json') as { readonly version: string }

export async function collect(sources: Sources): Promise<MetricsSnapshot> {
  const { counts } = sources
  const closed = new Map([...counts.traffic.values()].map((traffic) => [traffic, { ...traffic.bytes }]))
  const open = await countOpen(sources)
  return {
    ...programSeries(sources),
    ...processSeries(sources),
    ...countSeries(counts),
    ...trafficSeries(counts, closed, open),
    ...healthSeries(sources),
    ...gateSeries(sources.gates),
    headrace_minutes_total: plain(minutesOf(sources), (service) => ({ service })),
  }
}

/** The open tunnels of one backend. */
interface Open extends Bytes {
  readonly byEngine: Map<string, number>
}

/** What was removed by a reload is shown until its last tunnel is over. */
async function countOpen({
  tunnels,
  backends,
  listeners,
  engine,
  counts,
}: Sources): Promise<ReadonlyMap<Traffic, Open>> {
  const open = new Map<Traffic, Open>()
  for (const { service, backend } of backends) {
    open.set(trafficOf(counts, service, backend), noneOpen(engine))
  }
  await tunnels.walk((tunnel) => {
    add(open, trafficOf(counts, tunnel.facts.service, tunnel.backend), tunnel)
  })
  forgetBackends(counts, backends, open)
  const addresses = new Set(listeners.map(({ terms }) => terms.address))
  for (const address of counts.accepted.keys()) if (!addresses.has(address)) counts.accepted.delete(address)
  return open
}

function add(open: Map<Traffic, Open>, traffic: Traffic, { splicing }: Tunnel): void {
  let one = open.get(traffic)
  if (one === undefined) {
    one = noneOpen('stream')
    open.set(traffic, one)
  }
  const engine = splicing?.engine ?? 'stream'
  one.byEngine.set(engine, (one.byEngine.get(engine) ?? 0) + 1)
  one.clientToOrigin += splicing?.clientToOrigin ?? 0
  one.originToClient += splicing?.originToClient ?? 0
}

function noneOpen(engine: string): Open {
  return { clientToOrigin: 0, originToClient: 0, byEngine: new Map([[engine, 0]]) }
}

function programSeries({ worker, engine, isDraining, listeners }: Sources): Snapshot {
  const certificates = listeners.flatMap(({ terms: { address, certificates } }) =>
    certificates === null ? [] : certificates.expiries.map((one) => ({ listener: address, ...one })),
  )
  return {
    headrace_build_info: [{ labels: { version, node: process.version }, value: 1 }],
    headrace_engine_info: [{ labels: { worker, engine }, value: 1 }],
    headrace_draining: [{ labels: {}, value: isDraining ? 1 : 0 }],
    headrace_certificate_expiry_timestamp_seconds: certificates.map(({ listener, name, expiresAt }) => ({
      labels: { listener, name },
      value: expiresAt,
    })),
  }
}

function processSeries({ worker, eventLoopDelay }: Sources): Snapshot {
  const { mean, p50, p99, max } = eventLoopDelay()
  const { user, system } = process.cpuUsage()
  const { rss, heapUsed } = process.memoryUsage()
  const each = (label: string, values: Readonly<Record<string, number>>) =>
    Object.entries(values).map(([word, value]) => ({ labels: { worker, [label]: word }, value }))
  return {
    headrace_worker_up: [{ labels: { worker }, value: 1 }],
    headrace_event_loop_delay_seconds: each('statistic', { mean, p50, p99, max }),
    headrace_worker_cpu_seconds_total: each('mode', { user: user / 1e6, system: system / 1e6 }),
    headrace_worker_memory_bytes: each('kind', { rss, heap: heapUsed }),
  }
}

function countSeries(counts: Counts): Snapshot {
  const { accepted, upgrades, answered, refusals, ends, handshakes, phases } = counts
  return {
    headrace_connections_accepted_total: plain(accepted, (listener) => ({ listener })),
    headrace_upgrades_total: plain(upgrades, (service) => ({ service })),
    headrace_requests_answered_total: nested(answered, (service, status) => ({ service, status })),
    headrace_refusals_total: nested(refusals, (service, code) => ({ service, code })),
    headrace_ends_total: nested(ends, (service, end) => ({ service, end })),
    headrace_handshake_seconds: [...handshakes].map(([service, one]) => histogram({ service }, one)),
    headrace_phase_seconds: Object.entries(phases).map(([phase, one]) => histogram({ phase }, one)),
  }
}

/** `closed`: the bytes of tunnels that were over before the open ones were looked at. */
function trafficSeries(
  counts: Counts,
  closed: ReadonlyMap<Traffic, Bytes>,
  open: ReadonlyMap<Traffic, Open>,
): Snapshot {
  const counted = [...counts.traffic.values()]
  for (const traffic of counted) show(traffic, open.get(traffic) ?? NO_BYTES, closed.get(traffic))
  const all = counted.map(({ service, backend, opened, dials, shown }) => ({
    labels: { service, backend },
    opened,
    dials,
    shown,
  }))
  return {
    headrace_tunnels_open: [...open].flatMap(([{ service, backend }, { byEngine }]) =>
      plain(byEngine, (engine) => ({ service, backend, engine })),
    ),
    headrace_tunnels_opened_total: all.map(({ labels, opened }) => ({ labels, value: opened })),
    headrace_dial_seconds: all.map(({ labels, dials }) => histogram(labels, dials)),
    headrace_bytes_total: all.flatMap(({ labels, shown }) => [
      { labels: { ...labels, direction: 'clientToOrigin' }, value: shown.clientToOrigin },
      { labels: { ...labels, direction: 'originToClient' }, value: shown.originToClient },
    ]),
  }
}

const NO_BYTES: Readonly<Bytes> = { clientToOrigin: 0, originToClient: 0 }

/** A tunnel that ended while others were looked at is in neither sum until the next time; no total goes back for it. */
function show({ shown }: Traffic, open: Readonly<Bytes>, closed: Readonly<Bytes> = NO_BYTES): void {
  shown.clientToOrigin = Math.max(shown.clientToOrigin, closed.clientToOrigin + open.clientToOrigin)
  shown.originToClient = Math.max(shown.originToClient, closed.originToClient + open.originToClient)
}

function healthSeries({ backends, counts }: Sources): Snapshot {
  const each = <Value>(valuesOf: (backend: Backend, service: string) => Value, series: SeriesOf<Value>) =>
    backends.flatMap(({ service, backend }) => {
      const labels = { service, backend: backend.options.name }
      return series(labels, valuesOf(backend, service))
    })
  const one: SeriesOf<number> = (labels, value) => [{ labels, value }]
  const several =
    (label: string): SeriesOf<Iterable<readonly [string, number]>> =>
    (labels, values) =>
      [...values].map(([word, value]) => ({ labels: { ...labels, [label]: word }, value }))
  return {
    headrace_backend_connections: each(({ connections }) => connections, one),
    headrace_backend_healthy: each(({ health }) => (health.isHealthy ? 1 : 0), one),
    headrace_backend_failures_total: each(({ health }) => health.failures, several('code')),
    headrace_backend_checks_total: each(({ health }) => Object.entries(health.checks), several('outcome')),
    headrace_backend_unhealthy_total: each((backend, service) => unhealthyOf(counts, service, backend), one),
  }
}

type SeriesOf<Value> = (labels: Labels, value: Value) => Series[]

function unhealthyOf({ unhealthy }: Counts, service: string, backend: Backend): number {
  return unhealthy.get(service)?.get(backend.options.name) ?? 0
}

/** Of all services, those without a tunnel included. */
function minutesOf({ backends, usage }: Sources): ReadonlyMap<string, number> {
  return new Map(backends.map(({ service }) => [service, usage[service]?.minutes ?? 0]))
}

function plain<Key>(counts: ReadonlyMap<Key, number>, labels: (key: Key) => Labels): Series[] {
  return [...counts].map(([key, value]) => ({ labels: labels(key), value }))
}

function nested<Word extends string>(
  counts: ByService<Word>,
  labels: (service: string, word: Word) => Labels,
): Series[] {
  return [...counts].flatMap(([service, words]) => plain(words, (word) => labels(service, word)))
}

function histogram(labels: Labels, { buckets, sum }: Distribution): Series {
  return { labels, value: sum / 1e6, buckets: [...buckets] }
}
