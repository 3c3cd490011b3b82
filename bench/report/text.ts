// A report on the terminal.

import { linesAbout } from './about.ts'
import type { Report } from './report.ts'
import { byTitle } from './report.ts'
import type { Table } from './table.ts'
import { tableOf } from './table.ts'

export function textOf(report: Report): string {
  const tables = [...byTitle(report.results)].map(([title, results]) => textOfTable(tableOf(title, results)))
  const failures = report.failures.map((failure) => `FAILED: ${failure}`)
  return [...tables, '', ...linesAbout(report), ...failures].join('\n')
}

function textOfTable({ title, columns, rows, notes }: Table): string {
  const lines = [['', ...columns], ...rows.map(({ subject, cells }) => [subject, ...cells])]
  const widths = (lines[0] ?? []).map((_, at) => Math.max(...lines.map((line) => line[at]?.length ?? 0)))
  const text = lines.map((line) =>
    line
      .map((word, at) => (at === 0 ? word.padEnd(widths[at] ?? 0) : word.padStart(widths[at] ?? 0)))
      .join('  '),
  )
  return ['', title, ...(rows.length === 0 ? [] : text), ...notes].join('\n')
}
