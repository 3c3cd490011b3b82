// A snapshot as Prometheus reads it, through prom-client.

import type { Registry, RegistryContentType } from 'prom-client'
import type { Labels, MetricName, MetricsSnapshot, Series } from './metrics.ts'
import { BUCKETS_SECONDS, kindOf, METRIC_NAMES } from './metrics.ts'

export interface Rendered {
  /** For Content-Type. */
  readonly type: string
  readonly text: string
}

/** `accept`: the request's field; OpenMetrics if it names it, else the text format 0.0.4. */
export async function renderMetrics(snapshot: MetricsSnapshot, accept = ''): Promise<Rendered> {
  // Only who renders loads it: a worker does not, though its handler imports the library.
  const { AggregatorRegistry, openMetricsContentType, prometheusContentType } = (await import('prom-client'))
    .default
  const type = accept.includes('application/openmetrics-text')
    ? openMetricsContentType
    : prometheusContentType
  const all = METRIC_NAMES.map((name) => metricOf(name, snapshot, type === openMetricsContentType))
  const registry: Registry<RegistryContentType> = AggregatorRegistry.aggregate([all])
  registry.setContentType(type)
  return { type, text: await registry.metrics() }
}

/** As prom-client has them between processes. */
interface Sample {
  readonly labels: Readonly<Record<string, string | number>>
  readonly value: number
  readonly metricName?: string
}

function metricOf(of: MetricName, snapshot: MetricsSnapshot, isOpenMetrics: boolean): object {
  const { kind, help } = kindOf(of)
  // There a counter's name has no suffix, its samples do: prom-client appends it.
  const name = isOpenMetrics && kind === 'counter' ? of.replace(/_total$/, '') : of
  const values = (snapshot[of] ?? []).flatMap((series) => samplesOf(name, series))
  return { name, help, type: kind, aggregator: 'first', values }
}

function samplesOf(name: string, { labels, value, buckets }: Series): Sample[] {
  if (buckets === undefined) return [{ labels, value }]
  let count = 0
  const cumulative = buckets.map((more, at): Sample => {
    count += more
    return { metricName: `${name}_bucket`, labels: { le: le(at), ...labels }, value: count }
  })
  const rest = (suffix: string, total: number, of: Labels): Sample => ({
    metricName: `${name}_${suffix}`,
    labels: of,
    value: total,
  })
  return [...cumulative, rest('sum', value, labels), rest('count', count, labels)]
}

function le(at: number): string {
  return String(BUCKETS_SECONDS[at] ?? '+Inf')
}
