// What comes out: tables on the terminal, and one JSON file per run.

import { mkdirSync, writeFileSync } from 'node:fs'
import { cpus, release, totalmem } from 'node:os'
import { join } from 'node:path'
import { CPU_ACCOUNTING } from './cpu.ts'
import type { Figure, Result } from './figures.ts'
import type { Options } from './options.ts'
import { RESULTS } from './places.ts'

export interface Report {
  readonly date: string
  readonly machine: string
  readonly kernel: string
  readonly node: string
  readonly cpuAccounting: string
  readonly options: Options
  /** By name: version and engine. */
  readonly proxies: Readonly<Record<string, string>>
  /** By name, why. */
  readonly missing: Readonly<Record<string, string>>
  readonly results: readonly Result[]
}

export function reportOf(
  options: Options,
  proxies: Report['proxies'],
  missing: Report['missing'],
  results: readonly Result[],
): Report {
  const [cpu] = cpus()
  return {
    date: new Date().toISOString(),
    machine: `${cpus().length} × ${cpu?.model ?? 'unknown CPU'}, ${Math.round(totalmem() / 1024 ** 3)} GiB`,
    kernel: release(),
    node: process.version,
    cpuAccounting: CPU_ACCOUNTING,
    options,
    proxies,
    missing,
    results,
  }
}

/** Returns the path of the file. */
export function save(report: Report): string {
  mkdirSync(RESULTS, { recursive: true })
  const file = join(RESULTS, `${report.date.replaceAll(':', '-')}.json`)
  writeFileSync(file, `${JSON.stringify(report, null, 2)}\n`)
  return file
}

export function textOf({ results, missing, ...about }: Report): string {
  const titles = [...new Set(results.map(({ title }) => title))]
  const tables = titles.map((title) =>
    table(
      title,
      results.filter((one) => one.title === title),
    ),
  )
  const absent = Object.entries(missing).map(([name, why]) => `${name} did not take part: ${why}`)
  const proxies = Object.entries(about.proxies).map(([name, what]) => `${name} ${what}`.trim())
  return [
    ...tables,
    '',
    ...absent,
    `${about.machine}; Linux ${about.kernel}; node ${about.node}; ${proxies.join(', ')}`,
    `CPU: ${about.cpuAccounting}`,
  ].join('\n')
}

function table(title: string, results: readonly Result[]): string {
  // The fullest row first: it has the columns in their order.
  const fullest = [...results].sort((a, b) => b.figures.length - a.figures.length)
  const names = [...new Set(fullest.flatMap(({ figures }) => figures.map(({ name }) => name)))]
  const rows = results.map(({ subject, figures }) => [
    subject,
    ...names.map((name) => cell(figures.find((one) => one.name === name))),
  ])
  const lines = [['', ...names], ...rows]
  const widths = ['', ...names].map((_, at) => Math.max(...lines.map((line) => line[at]?.length ?? 0)))
  const text = lines.map((line) =>
    line
      .map((word, at) => (at === 0 ? word.padEnd(widths[at] ?? 0) : word.padStart(widths[at] ?? 0)))
      .join('  '),
  )
  return `\n${title}\n${text.join('\n')}`
}

function cell(one: Figure | undefined): string {
  if (one === undefined) return '-'
  if (one.count === 1) return short(one.median)
  return `${short(one.median)} (${short(one.low)}–${short(one.high)})`
}

/** Three digits that count; whole numbers from 100 on. */
function short(value: number): string {
  return Math.abs(value) >= 100
    ? Math.round(value).toLocaleString('en')
    : String(Number(value.toPrecision(3)))
}
