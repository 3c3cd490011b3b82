// The README's table and pictures, written between two marks there. What they mean is said by hand, around them.

import type { Result } from '../figures.ts'
import { linesAbout } from './about.ts'
import type { Picture } from './pictures.ts'
import type { Report } from './report.ts'
import { short } from './table.ts'

const BEGIN = '<!-- npm run bench:report writes from here -->'
const END = '<!-- to here -->'

/** Which figures of a scenario are worth a row. */
const HEADLINES: Readonly<Record<string, readonly string[]>> = {
  concurrency: ['process KiB per tunnel', 'kernel KiB per tunnel', 'opened per second', '10 %: ms p99'],
  messages: ['CPU µs per message'],
  bulk: ['CPU s per GB'],
  churn: ['CPU µs per upgrade', 'ms to 101: p50', 'p99'],
}

/** Throws if the marks are not there. */
export function withFigures(
  readme: string,
  reports: readonly Report[],
  pictures: readonly Picture[],
): string {
  const begin = readme.indexOf(BEGIN)
  const end = readme.indexOf(END)
  if (begin === -1 || end < begin) throw new Error(`README.md has no lines "${BEGIN}" and "${END}"`)
  const text = [
    ...pictures.map(({ name, text }) => `![${text}](docs/${name}.svg)`),
    tableOf(reports.flatMap(({ results }) => results)),
    ...reports
      .flatMap(linesAbout)
      .filter(isFirst)
      .map((line) => `${line}.`),
  ]
  return `${readme.slice(0, begin + BEGIN.length)}\n\n${text.join('\n\n')}\n\n${readme.slice(end)}`
}

function tableOf(all: readonly Result[]): string {
  const results = all.filter((result) => HEADLINES[result.scenario] !== undefined && isTopRung(result, all))
  const subjects = [...new Set(results.map(({ subject }) => subject))]
  const titles = [...new Set(results.map(({ title }) => title))]
  const rows = titles.flatMap((title) => {
    const ofTitle = results.filter((result) => result.title === title)
    const names = HEADLINES[ofTitle[0]?.scenario ?? ''] ?? []
    return names.flatMap((name) => {
      const cells = subjects.map((subject) => cell(ofTitle, subject, name))
      return cells.every((text) => text === '') ? [] : [[`${title}: ${name}`, ...cells]]
    })
  })
  const header = [
    ['', ...subjects],
    ['---', ...subjects.map(() => '---:')],
  ]
  return [...header, ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n')
}

function cell(results: readonly Result[], subject: string, name: string): string {
  const figure = results.find((one) => one.subject === subject)?.figures.find((one) => one.name === name)
  if (figure === undefined || Number.isNaN(figure.median)) return ''
  return `${figure.isLowerBound ? '≥ ' : ''}${short(figure.median)}`
}

/** Of concurrency, the largest number of plain and of TLS tunnels that anybody reached; the others are in the pictures. */
function isTopRung({ scenario, parameters }: Result, all: readonly Result[]): boolean {
  if (scenario !== 'concurrency') return true
  const counts = all.flatMap((one) =>
    one.scenario === scenario && one.parameters.tls === parameters.tls && one.figures.length > 0
      ? [Number(one.parameters.tunnels)]
      : [],
  )
  return parameters.tunnels === Math.max(...counts)
}

function isFirst(line: string, at: number, lines: readonly string[]): boolean {
  return lines.indexOf(line) === at
}
