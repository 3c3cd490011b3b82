// The micro-benchmarks as a process of their own: nothing else is on its heap, and its standard output goes nowhere.

import { Bench } from 'tinybench'
import { answerCalls } from '../process.ts'
import { acceptLine } from './accept-line.ts'
import { checks } from './check-upgrade.ts'
import { decisions } from './decide.ts'
import { gates } from './gate.ts'
import type { Micro } from './micro.ts'
import { proxyHeaders } from './proxy-header.ts'
import { readHead } from './read-head.ts'
import { usage } from './usage.ts'

/** In the order of travel. A new one is one more here. */
const micros: readonly Micro[] = [
  ...proxyHeaders,
  ...readHead,
  ...checks,
  ...gates,
  ...decisions,
  ...usage,
  ...acceptLine,
]

/** Of one function in one pass, in microseconds. */
export interface Pass {
  readonly name: string
  readonly p50: number
  readonly p99: number
  /** Margin of error of the mean, in percent. */
  readonly margin: number
}

const calls = {
  /** All functions one after the other, each for so long. */
  async pass(timeMs: number): Promise<Pass[]> {
    const bench = new Bench({ time: timeMs, throws: true })
    for (const { name, run } of micros) bench.add(name, run)
    await bench.run()
    return bench.tasks.map(({ name, result }) => {
      if (!('latency' in result)) throw new Error(`${name}: ${result.state}`)
      const { p50, p99, rme } = result.latency
      return { name, p50: p50 * 1_000, p99: p99 * 1_000, margin: rme }
    })
  },
}

export type MicroCalls = typeof calls
answerCalls(calls)
