// The metrics: one table of all there are, and the snapshot that a process gives of them. A snapshot is JSON, and those of
// several processes add up to one.
//
// Labels have values that are configured, or from a closed list; never what a client sends. So there are as many series
// as the config has services, backends, listeners and workers, times a constant.

export type Labels = Readonly<Record<string, string>>

export interface Series {
  readonly labels: Labels
  /** Of a histogram: the sum of what was observed. */
  readonly value: number
  /** Of a histogram: how many fell between two of its buckets' bounds; the last one: how many lay above all. */
  readonly buckets?: readonly number[]
}

/** How the values of several processes become one. */
type Merge = 'sum' | 'min' | 'max'

export interface MetricKind {
  readonly kind: 'counter' | 'gauge' | 'histogram'
  readonly help: string
  readonly labels: readonly string[]
  readonly merge: Merge
}

export const METRICS = {
  headrace_build_info: gauge('What runs; always 1', ['version', 'node'], 'max'),
  headrace_engine_info: gauge('What moves the bytes of plain tunnels; always 1', ['worker', 'engine'], 'max'),
  headrace_draining: gauge('1 while it accepts no more and waits for tunnels to end', [], 'max'),
  headrace_connections_accepted_total: counter('Connections that a listener accepted', ['listener']),
  headrace_upgrades_total: counter('Upgrade requests that were valid and for a known service', ['service']),
  headrace_requests_answered_total: counter('Plain requests that were answered', ['service', 'status']),
  headrace_refusals_total: counter('Requests and connections that went no further', ['service', 'code']),
  headrace_tunnels_open: gauge('Tunnels that are open', ['service', 'backend', 'engine'], 'sum'),
  headrace_tunnels_moved_total: counter('Tunnels that a new release has taken over', []),
  headrace_tunnels_left: gauge('Tunnels that stay with the release before until they end', [], 'sum'),
  headrace_tunnels_opened_total: counter('Tunnels that have been opened', ['service', 'backend']),
  headrace_ends_total: counter('Tunnels and refused requests by their end', ['service', 'end']),
  headrace_bytes_total: counter('Bytes that tunnels took from a side', ['service', 'backend', 'direction']),
  headrace_minutes_total: counter('Started minutes of tunnels, as usage counts them', ['service']),
  headrace_dial_seconds: histogram('The dial of tunnels: DNS, TCP, TLS', ['service', 'backend']),
  headrace_handshake_seconds: histogram('From accept, or the next request, to the 101', ['service']),
  headrace_phase_seconds: histogram("Each phase of the tunnels' set-up", ['phase']),
  headrace_backend_connections: gauge('Dialled and not over', ['service', 'backend'], 'sum'),
  headrace_backend_healthy: gauge(
    '0 if any worker passes it by: ejected, or its checks fail',
    ['service', 'backend'],
    'min',
  ),
  headrace_backend_unhealthy_total: counter('How often it became unhealthy, on each worker', [
    'service',
    'backend',
  ]),
  headrace_backend_failures_total: counter('Dials and answers that failed, noticed or not', [
    'service',
    'backend',
    'code',
  ]),
  headrace_backend_checks_total: counter('Health checks', ['service', 'backend', 'outcome']),
  headrace_gate_decisions_total: counter('Requests that a rule, rate or limit decided or noted', [
    'service',
    'rule',
  ]),
  headrace_spike: gauge('1 while there are more connections than expected', ['service'], 'max'),
  headrace_spikes_total: counter('How often that has begun', ['service']),
  headrace_expected_connections: gauge(
    '`expectedConnections`, from the first connection on',
    ['service'],
    'max',
  ),
  headrace_certificate_expiry_timestamp_seconds: gauge(
    'When it expires, since the epoch',
    ['listener', 'name'],
    'min',
  ),
  headrace_event_loop_delay_seconds: gauge('How late the event loop is', ['worker', 'statistic'], 'max'),
  headrace_worker_up: gauge('1 if the worker has answered this scrape', ['worker'], 'max'),
  headrace_worker_silent_seconds: gauge('For how long it has not answered; 0: it does', ['worker'], 'max'),
  headrace_worker_restarts_total: counter('How often it had to be replaced', ['worker']),
  headrace_worker_cpu_seconds_total: counter('CPU time of all its threads', ['worker', 'mode']),
  headrace_worker_memory_bytes: gauge('Memory of the process', ['worker', 'kind'], 'sum'),
} as const satisfies Readonly<Record<string, MetricKind>>

export type MetricName = keyof typeof METRICS

export type MetricsSnapshot = Readonly<Partial<Record<MetricName, readonly Series[]>>>

export const METRIC_NAMES = Object.keys(METRICS) as readonly MetricName[]

/** Upper bounds of the buckets of all histograms, in seconds: from one machine to the time limits of a handoff. */
export const BUCKETS_SECONDS = [
  0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
] as const

export function kindOf(name: MetricName): MetricKind {
  return METRICS[name]
}

function counter(help: string, labels: readonly string[]): MetricKind {
  return { kind: 'counter', help, labels, merge: 'sum' }
}

function gauge(help: string, labels: readonly string[], merge: Merge): MetricKind {
  return { kind: 'gauge', help, labels, merge }
}

function histogram(help: string, labels: readonly string[]): MetricKind {
  return { kind: 'histogram', help, labels, merge: 'sum' }
}

/** One snapshot of those of several processes. */
export function mergeSnapshots(snapshots: readonly MetricsSnapshot[]): MetricsSnapshot {
  const merged: Partial<Record<MetricName, readonly Series[]>> = {}
  for (const name of METRIC_NAMES) {
    const all = snapshots.flatMap((snapshot) => snapshot[name] ?? [])
    if (all.length > 0) merged[name] = mergeSeries(all, kindOf(name))
  }
  return merged
}

/** What of a process that has gone still counts: all that only grows. */
export function countersOf(snapshot: MetricsSnapshot): MetricsSnapshot {
  const names = METRIC_NAMES.filter((name) => kindOf(name).kind !== 'gauge')
  return Object.fromEntries(names.map((name) => [name, snapshot[name] ?? []]))
}

/** The same, without what is still zero: little, however long the config is. */
export function grown(snapshot: MetricsSnapshot): MetricsSnapshot {
  const all = Object.entries(countersOf(snapshot)) as [MetricName, readonly Series[]][]
  const isGrown = ({ value, buckets = [] }: Series) => value > 0 || buckets.some((count) => count > 0)
  return Object.fromEntries(
    all.flatMap(([name, series]) => (series.some(isGrown) ? [[name, series.filter(isGrown)]] : [])),
  )
}

function mergeSeries(all: readonly Series[], { labels, merge }: MetricKind): Series[] {
  const known = new Map<string, Series>()
  for (const series of all) {
    // A label's value may hold anything but this.
    const key = labels.map((label) => series.labels[label]).join('\0')
    const other = known.get(key)
    known.set(key, other === undefined ? series : mergeTwo(other, series, merge))
  }
  return [...known.values()]
}

const MERGES: Readonly<Record<Merge, (one: number, other: number) => number>> = {
  sum: (one, other) => toMicros(one + other),
  min: Math.min,
  max: Math.max,
}

/**
 * Seconds are counted in whole microseconds. Rounded to them a sum is the same in whatever order it is made; otherwise it
 * could go back by the last bit when a worker dies, which is a reset to whoever reads it.
 */
function toMicros(value: number): number {
  return Number.isInteger(value) ? value : Math.round(value * 1e6) / 1e6
}

function mergeTwo(one: Series, other: Series, merge: Merge): Series {
  const value = MERGES[merge](one.value, other.value)
  if (one.buckets === undefined) return { labels: one.labels, value }
  const buckets = one.buckets.map((count, at) => count + (other.buckets?.[at] ?? 0))
  return { labels: one.labels, value, buckets }
}
