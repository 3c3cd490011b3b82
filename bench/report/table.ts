// One table: a row for each proxy, a column for each figure. As cells, for whoever sets them in text, HTML or Markdown.

import type { Figure, Result } from '../figures.ts'

export interface Table {
  readonly title: string
  readonly columns: readonly string[]
  readonly rows: readonly { readonly subject: string; readonly cells: readonly string[] }[]
  readonly notes: readonly string[]
}

export function tableOf(title: string, results: readonly Result[]): Table {
  const measured = results.filter(({ figures }) => figures.length > 0)
  // The fullest row first: it has the columns in their order.
  const fullest = [...measured].sort((a, b) => b.figures.length - a.figures.length)
  const columns = [...new Set(fullest.flatMap(({ figures }) => figures.map(({ name }) => name)))]
  const hasBound = measured.some(({ bound }) => bound !== undefined)
  return {
    title,
    columns: [...columns, ...(hasBound ? ['bound by'] : [])],
    rows: measured.map(({ subject, figures, bound }) => ({
      subject,
      cells: [
        ...columns.map((name) => cell(figures.find((one) => one.name === name))),
        ...(hasBound ? [bound ?? ''] : []),
      ],
    })),
    notes: results.flatMap(({ note }) => note ?? []),
  }
}

function cell(one: Figure | undefined): string {
  if (one === undefined || Number.isNaN(one.median)) return '–'
  const least = one.isLowerBound ? '≥ ' : ''
  if (one.count === 1) return least + short(one.median)
  return `${least}${short(one.median)} (${short(one.low)}–${short(one.high)})`
}

/** Three digits that count; whole numbers from 100 on. */
export function short(value: number): string {
  return Math.abs(value) >= 100
    ? Math.round(value).toLocaleString('en')
    : String(Number(value.toPrecision(3)))
}
