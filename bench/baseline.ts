// What the micro-benchmarks were when somebody saved them, in bench/baseline.json, and whether one is slower now by more
// than the noise of both.

import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { BASELINE } from './places.ts'
import { nameOfMachine } from './report/about.ts'

export interface Timing {
  /** Microseconds, the median. */
  readonly us: number
  /** How far the passes were apart, as a share of it (micro.ts). */
  readonly noise: number
}

export interface Baseline {
  /** Times of another machine or node say nothing. */
  readonly machine: string
  readonly node: string
  readonly date: string
  readonly micros: Readonly<Record<string, Timing>>
}

export interface Comparison {
  readonly ratio: number
  /** What counts as noise. */
  readonly noise: number
  readonly isSlower: boolean
}

/** Below that nothing is called slower, however quiet the passes were: the next run may lie in memory in another way. */
const LEAST_NOISE = 0.1

/** Null if there is none for this machine and this major version of node. */
export function readBaseline(): Baseline | null {
  if (!existsSync(BASELINE)) return null
  const baseline = JSON.parse(readFileSync(BASELINE, 'utf8')) as Baseline
  const isOurs = baseline.machine === nameOfMachine() && majorOf(baseline.node) === majorOf(process.version)
  return isOurs ? baseline : null
}

function majorOf(version: string): string | undefined {
  return version.split('.')[0]
}

export function saveBaseline(micros: Baseline['micros']): void {
  const baseline: Baseline = {
    machine: nameOfMachine(),
    node: process.version,
    date: new Date().toISOString(),
    micros,
  }
  writeFileSync(BASELINE, `${JSON.stringify(baseline, null, 2)}\n`)
}

/** Null if there is nothing to compare with. */
export function compare(name: string, now: Timing, baseline: Baseline | null): Comparison | null {
  const before = baseline?.micros[name]
  if (before === undefined) return null
  const ratio = now.us / before.us
  const noise = Math.max(LEAST_NOISE, now.noise, before.noise)
  return { ratio, noise, isSlower: ratio > 1 + noise }
}
