// Micro-benchmarks: single functions of the product, in this process, with tinybench. p50 and p99; a mean says nothing here.

import { Bench } from 'tinybench'
import type { Result } from './figures.ts'
import { figure } from './figures.ts'
import { checks } from './micro/check-upgrade.ts'
import { decisions } from './micro/decide.ts'
import { gates } from './micro/gate.ts'
import { readHead } from './micro/read-head.ts'
import type { Options } from './options.ts'
import type { PeerKind } from './peers/peer.ts'

const TIME_MS = 1_000
const SMOKE_TIME_MS = 50

export async function micro(
  _kinds: readonly PeerKind[],
  { smoke }: Options,
  progress: (line: string) => void,
): Promise<Result[]> {
  progress('micro: head, checks, decision')
  const bench = new Bench({ time: smoke ? SMOKE_TIME_MS : TIME_MS, throws: true })
  for (const { name, run } of [...readHead, ...checks, ...gates, ...decisions]) bench.add(name, run)
  await bench.run()
  return bench.tasks.map(({ name, result }) => {
    if (!('latency' in result)) throw new Error(`${name}: ${result.state}`)
    const { p50, p99, rme, samplesCount } = result.latency
    return {
      title: 'micro: one function of the product',
      subject: name,
      figures: [
        figure('µs p50', [p50 * 1_000]),
        figure('p99', [p99 * 1_000]),
        figure('margin of the mean %', [rme]),
        figure('calls', [samplesCount]),
      ],
    }
  })
}
