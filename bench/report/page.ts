// A report as one HTML page that needs nothing else: pictures, all tables, and where they come from.

import { linesAbout } from './about.ts'
import type { Picture } from './pictures.ts'
import type { Report } from './report.ts'
import { byTitle } from './report.ts'
import type { Table } from './table.ts'
import { tableOf } from './table.ts'

const STYLE = `
body { font: 15px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-size: 13px; margin: .5rem 0 1.5rem; display: block; overflow-x: auto }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
.note { color: #a04000 }
.about { color: #666; font-size: 13px }
`

/** Each of the reports with those of its results that are shown. */
export function pageOf(reports: readonly Report[], pictures: readonly Picture[]): string {
  const parts = reports.flatMap((report) => [
    ...[...byTitle(report.results)].map(([title, results]) => htmlOf(tableOf(title, results))),
    ...linesAbout(report).map((line) => `<p class="about">${escaped(line)}</p>`),
    ...report.failures.map((failure) => `<p class="note">FAILED: ${escaped(failure)}</p>`),
  ])
  return `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Headrace: benchmark</title><style>${STYLE}</style></head>
<body>
<h1>Headrace: benchmark</h1>
${pictures.map(({ svg }) => `<figure>${svg}</figure>`).join('\n')}
${parts.join('\n')}
</body>
</html>
`
}

function htmlOf({ title, columns, rows, notes }: Table): string {
  const header = ['', ...columns].map((name) => `<th>${escaped(name)}</th>`).join('')
  const lines = rows.map(
    ({ subject, cells }) =>
      `<tr>${[subject, ...cells].map((text) => `<td>${escaped(text)}</td>`).join('')}</tr>`,
  )
  const table = rows.length === 0 ? '' : `<table><tr>${header}</tr>${lines.join('\n')}</table>`
  const said = notes.map((note) => `<p class="note">${escaped(note)}</p>`)
  return [`<h2>${escaped(title)}</h2>`, table, ...said].join('\n')
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}
