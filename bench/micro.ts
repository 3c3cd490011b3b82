// Micro-benchmarks: single functions of the product, with tinybench, compared with what was saved. Medians of several
// passes; a mean says nothing here.

import type { Baseline } from './baseline.ts'
import { compare, readBaseline, saveBaseline } from './baseline.ts'
import type { Result } from './figures.ts'
import { figure } from './figures.ts'
import type { MicroCalls, Pass } from './micro/process.ts'
import { startProcess } from './process.ts'
import type { Surroundings } from './scenario.ts'

const SIZES = {
  full: { passes: 5, timeMs: 400 },
  smoke: { passes: 1, timeMs: 30 },
} as const

export async function micro({ options, progress }: Surroundings): Promise<Result[]> {
  const { passes, timeMs } = options.smoke ? SIZES.smoke : SIZES.full
  progress(`micro: single functions, ${passes} ${passes === 1 ? 'pass' : 'passes'}`)
  const byName = await run(passes, timeMs)
  if (options.saveBaseline) saveBaseline(timingsOf(byName))
  const baseline = options.smoke || options.saveBaseline ? null : readBaseline()
  return [...byName].map(([name, passes]) => resultOf(name, passes, baseline))
}

/**
 * All functions in each pass, so that a noisy second is nobody's alone; a process for each, since what the compiler makes of
 * a function is another thing each time, and within one process always the same.
 */
async function run(passes: number, timeMs: number): Promise<Map<string, Pass[]>> {
  const byName = new Map<string, Pass[]>()
  for (let pass = 0; pass < passes; pass += 1) {
    for (const one of await runOnce(timeMs)) byName.set(one.name, [...(byName.get(one.name) ?? []), one])
  }
  return byName
}

async function runOnce(timeMs: number): Promise<Pass[]> {
  const module = new URL('./micro/process.js', import.meta.url)
  const child = await startProcess<MicroCalls>('micro', module, { isMute: true })
  try {
    return await child.call('pass', timeMs)
  } finally {
    await child.stop()
  }
}

function timingsOf(byName: ReadonlyMap<string, readonly Pass[]>): Baseline['micros'] {
  return Object.fromEntries([...byName].map(([name, passes]) => [name, timingOf(passes)]))
}

/** The noise is twice as far as the middle half of the passes are apart: one odd pass must not hide what is slower. */
function timingOf(passes: readonly Pass[]) {
  const values = passes.map(({ p50 }) => p50)
  const { median, low, high } = figure('', values)
  return { us: median, noise: (2 * (high - low)) / median }
}

function resultOf(name: string, passes: readonly Pass[], baseline: Baseline | null): Result {
  const of = (what: string, value: (pass: Pass) => number) => figure(what, passes.map(value))
  const compared = compare(name, timingOf(passes), baseline)
  return {
    scenario: 'micro',
    title: 'micro: one function of the product',
    parameters: {},
    subject: name,
    figures: [
      of('µs p50', ({ p50 }) => p50),
      of('p99', ({ p99 }) => p99),
      of('margin of the mean %', ({ margin }) => margin),
      ...(compared === null
        ? []
        : [figure('× baseline', [compared.ratio]), figure('noise %', [compared.noise * 100])]),
    ],
    ...(compared?.isSlower === true
      ? { note: `${name}: SLOWER than the baseline by more than the noise` }
      : {}),
  }
}
