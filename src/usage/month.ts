// What a month cost: the summary and the journals of all writers, added up. It only reads, and works beside writers and
// beside a fold. Garbage is counted and said, never thrown.

import { createReadStream } from 'node:fs'
import { join } from 'node:path'
import type { Amounts } from './amounts.ts'
import { addTo } from './amounts.ts'
import { codeOf, journalOf, namesIn, placeOf, SUMMARY } from './folder.ts'
import { LINE_LIMIT, parseLine } from './line.ts'
import type { Skipped, Summary } from './summary.ts'
import { readSummary, TEMPORARY } from './summary.ts'

/** How often reading starts again because a fold came between. */
const ATTEMPTS = 5

export interface Month {
  readonly services: Map<string, Amounts>
  readonly skipped: Skipped
  /** What is not in the sums, or should not be there, in words: one for each file. */
  readonly troubles: string[]
}

export function emptyMonth(): Month {
  return { services: new Map(), skipped: { torn: 0, foreign: 0 }, troubles: [] }
}

export async function readMonth(folder: string, month: string): Promise<Month> {
  for (let attempt = 1; ; attempt += 1) {
    const { summary, text, fault } = await readSummary(folder, month)
    const read = await readJournals(folder, month, summary)
    if (fault !== '') read.troubles.push(fault)
    // A fold replaces the summary before it removes journals: with the same summary, none was missed.
    if (attempt === ATTEMPTS || (await readSummary(folder, month)).text === text) return read
  }
}

async function readJournals(folder: string, month: string, summary: Summary): Promise<Month> {
  const read = monthOfSummary(summary)
  const names = await namesIn(join(folder, month)).catch((error: unknown) => {
    read.troubles.push(`${month} can't be read: ${codeOf(error)}`)
    return []
  })
  for (const name of names) {
    if (name === SUMMARY || name === TEMPORARY) continue
    if (journalOf(name) === null) {
      read.troubles.push(`${name} is no file of headrace`)
      continue
    }
    await addJournal(read, folder, month, name, { from: summary.covers[name] ?? 0 })
  }
  return read
}

export function monthOfSummary({ services, skipped }: Summary): Month {
  const sums = new Map<string, Amounts>()
  for (const [service, amounts] of Object.entries(services)) addTo(sums, { service, amounts })
  const troubles = skipped.torn + skipped.foreign === 0 ? [] : [skippedText(SUMMARY, skipped)]
  return { services: sums, skipped: { ...skipped }, troubles }
}

export interface Range {
  readonly from: number
  /** Behind the last byte; without it, all that there is. */
  readonly to?: number
}

/** The same for whoever only reads. */
async function addJournal(
  read: Month,
  folder: string,
  month: string,
  name: string,
  range: Range,
): Promise<void> {
  try {
    await addLines(read, folder, month, name, range)
  } catch (error) {
    // It was folded and removed since its name was read: then the summary is another, and all is read again.
    if (codeOf(error) !== 'ENOENT') read.troubles.push(`${name} can't be read: ${codeOf(error)}`)
  }
}

/** Adds the lines of a journal. Rejects with the error of the system, and may have added some of them. */
export async function addLines(
  read: Month,
  folder: string,
  month: string,
  name: string,
  range: Range,
): Promise<void> {
  const place = placeOf(month, name)
  const skipped: Skipped = { torn: 0, foreign: 0 }
  for await (const line of linesIn(join(folder, month, name), range)) {
    const delta = parseLine(place, line)
    if (typeof delta === 'string') skipped[delta] += 1
    else addTo(read.services, delta)
  }
  if (skipped.torn + skipped.foreign > 0) read.troubles.push(skippedText(name, skipped))
  read.skipped.torn += skipped.torn
  read.skipped.foreign += skipped.foreign
}

/** Without empty ones. Of a line that is too long for one of ours only the beginning is kept. */
async function* linesIn(
  path: string,
  { from, to = Number.POSITIVE_INFINITY }: Range,
): AsyncGenerator<string> {
  if (to <= from) return
  let rest = ''
  for await (const chunk of createReadStream(path, { start: from, end: to - 1 })) {
    const lines = `${rest}${(chunk as Buffer).toString('latin1')}`.split('\n')
    rest = (lines.pop() ?? '').slice(0, LINE_LIMIT)
    for (const line of lines) if (line !== '') yield line
  }
  if (rest !== '') yield rest
}

function skippedText(name: string, { torn, foreign }: Skipped): string {
  const parts = [...(torn === 0 ? [] : [`${torn} torn`]), ...(foreign === 0 ? [] : [`${foreign} foreign`])]
  return `${name} has ${parts.join(' and ')} ${torn + foreign === 1 ? 'line' : 'lines'}, not counted`
}
