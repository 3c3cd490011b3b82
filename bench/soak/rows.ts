// The table of a run: a row for each fault.

import type { IntervalHistogram } from 'node:perf_hooks'

interface Row {
  times: number
  affected: number
  bytes: number
  pauseMs: number
  /** A pause may be the script's own. */
  ownMs: number
  failures: number
  skipped: string | null
}

export interface Strike {
  readonly affected: number
  readonly bytes: number
  readonly pauseMs: number
}

const COLUMNS = ['fault', 'times', 'tunnels', 'bytes checked', 'longest pause', 'own delay', 'verdict']

export class Rows {
  readonly failures: string[] = []
  readonly #rows = new Map<string, Row>()
  readonly #delay: IntervalHistogram
  #current = ''

  constructor(delay: IntervalHistogram) {
    this.#delay = delay
  }

  begin(name: string): void {
    this.#current = name
    this.#delay.reset()
  }

  /** How late the script's own loop has been since `begin`. */
  get ownMs(): number {
    return this.#delay.max / 1e6
  }

  end({ affected, bytes, pauseMs }: Strike): void {
    const row = this.#row(this.#current)
    row.times += 1
    row.affected += affected
    row.bytes += bytes
    row.pauseMs = Math.max(row.pauseMs, pauseMs)
    row.ownMs = Math.max(row.ownMs, this.ownMs)
  }

  skip(name: string, reason: string): void {
    this.#row(name).skipped = reason
  }

  /** Belongs to the fault that was begun last. */
  fail(what: string): void {
    this.failures.push(`${this.#current}: ${what}`)
    this.#row(this.#current).failures += 1
  }

  table(): string {
    const lines = [COLUMNS, ...[...this.#rows].map(([name, row]) => cellsOf(name, row))]
    const widths = COLUMNS.map((_, at) => Math.max(...lines.map((line) => line[at]?.length ?? 0)))
    const isText = (at: number) => at === 0 || at === COLUMNS.length - 1
    const set = (word: string, at: number) =>
      isText(at) ? word.padEnd(widths[at] ?? 0) : word.padStart(widths[at] ?? 0)
    return lines.map((line) => line.map(set).join('  ').trimEnd()).join('\n')
  }

  #row(name: string): Row {
    const nothing = { times: 0, affected: 0, bytes: 0, pauseMs: 0, ownMs: 0, failures: 0, skipped: null }
    const row = this.#rows.get(name) ?? nothing
    this.#rows.set(name, row)
    return row
  }
}

function cellsOf(name: string, row: Row): string[] {
  const { times, affected, bytes, pauseMs, ownMs, failures, skipped } = row
  if (skipped !== null) return [name, '–', '–', '–', '–', '–', `SKIPPED: ${skipped}`]
  const verdict = failures === 0 ? 'holds' : `FAILED ${failures}×`
  const ms = (value: number) => `${value.toFixed(0)} ms`
  return [name, String(times), String(affected), bytes.toLocaleString('en'), ms(pauseMs), ms(ownMs), verdict]
}
