// The pictures of a report: memory of a tunnel, and how long an answer takes, against the number of tunnels.

import type { Result } from '../figures.ts'
import type { Chart } from './chart.ts'
import { svgOf } from './chart.ts'

export interface Picture {
  /** Of its file. */
  readonly name: string
  /** For those who can't see it. */
  readonly text: string
  readonly svg: string
}

const CHARTS = [
  {
    name: 'bench-memory',
    title: 'Memory of the proxy for each idle tunnel',
    unit: 'KiB',
    figure: 'process KiB per tunnel',
  },
  {
    name: 'bench-p99',
    title: 'p99 round trip while one tunnel in ten talks, at a fixed rate',
    unit: 'ms',
    figure: '10 %: ms p99',
  },
] as const

/** Of plain tunnels; empty if nothing was measured. */
export function picturesOf(results: readonly Result[]): Picture[] {
  const plain = results.filter(
    ({ scenario, parameters }) => scenario === 'concurrency' && parameters.tls === false,
  )
  return CHARTS.flatMap(({ name, title, unit, figure }) => {
    const chart = { title, unit, ...linesOf(plain, figure) }
    if (chart.lines.length === 0) return []
    return [{ name, text: `${title}, by number of tunnels`, svg: svgOf(chart) }]
  })
}

function linesOf(results: readonly Result[], figure: string): Pick<Chart, 'counts' | 'lines'> {
  const values = new Map<string, Map<number, number>>()
  for (const { subject, parameters, figures } of results) {
    const median = figures.find(({ name }) => name === figure)?.median
    if (median === undefined) continue
    const line = values.get(subject) ?? new Map<number, number>()
    values.set(subject, line.set(Number(parameters.tunnels), median))
  }
  const counts = [...new Set([...values.values()].flatMap((line) => [...line.keys()]))].sort((a, b) => a - b)
  return {
    counts,
    lines: [...values].map(([name, line]) => ({
      name,
      values: counts.map((count) => line.get(count) ?? null),
    })),
  }
}
