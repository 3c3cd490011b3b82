// What gates have decided, and whether there are more connections than expected. Who counts connections for several
// processes tells it for all of them.

import type { SpikeState } from '../gate/seats.ts'
import type { MetricsSnapshot } from './metrics.ts'

export interface GateFacts {
  readonly service: string
  /** By the name of a rule, rate or limit. */
  readonly counts: Readonly<Record<string, number>>
  /** Null: it expects no number, nobody has come yet, or another process counts. */
  readonly spike: SpikeState | null
}

export function gateSeries(gates: readonly GateFacts[]): MetricsSnapshot {
  return {
    headrace_gate_decisions_total: gates.flatMap(({ service, counts }) =>
      Object.entries(counts).map(([rule, value]) => ({ labels: { service, rule }, value })),
    ),
    ...spikeSeries(gates.flatMap(({ spike }) => spike ?? [])),
  }
}

export function spikeSeries(states: readonly SpikeState[]): MetricsSnapshot {
  const each = (of: (state: SpikeState) => number) =>
    states.map((state) => ({ labels: { service: state.service }, value: of(state) }))
  return {
    headrace_spike: each(({ isAbove }) => (isAbove ? 1 : 0)),
    headrace_spikes_total: each(({ spikes }) => spikes),
    headrace_expected_connections: each(({ expected }) => expected),
  }
}
