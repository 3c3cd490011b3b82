// A report: what came out of one run, as JSON in bench/results/.

import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Result } from '../figures.ts'
import { RESULTS } from '../places.ts'
import type { About } from './about.ts'

export interface Report extends About {
  readonly smoke: boolean
  readonly results: readonly Result[]
  /** What went wrong: a wrong byte, a lost tunnel, a scenario that could not end. */
  readonly failures: readonly string[]
}

/** Returns the path of the file. */
export function save(report: Report): string {
  mkdirSync(RESULTS, { recursive: true })
  const kind = report.smoke ? 'smoke-' : ''
  const file = join(RESULTS, `${kind}${report.date.replaceAll(':', '-')}.json`)
  writeFileSync(file, `${JSON.stringify(report, null, 2)}\n`)
  return file
}

export function read(file: string): Report {
  return JSON.parse(readFileSync(file, 'utf8')) as Report
}

/** The newest first; runs of --smoke say nothing. */
export function filesOfRuns(): string[] {
  const names = readdirSync(RESULTS).filter((name) => /^\d.*\.json$/.test(name))
  return names
    .sort()
    .reverse()
    .map((name) => join(RESULTS, name))
}

/** Results of the same title, in the order in which they came. */
export function byTitle(results: readonly Result[]): Map<string, Result[]> {
  const tables = new Map<string, Result[]>()
  for (const result of results) tables.set(result.title, [...(tables.get(result.title) ?? []), result])
  return tables
}
