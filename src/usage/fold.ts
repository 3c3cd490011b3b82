// Folding: journals that nobody appends to any more become part of the month's summary, and are removed. It may be killed
// anywhere:
//
//   1 the journals are read         nothing has changed
//   2 the new summary is in place   it says which journals it covers, up to which length: readers pass over them
//   3 the journals are removed      readers did not look at them any more; those that are left are removed next time
//
// A journal is final if it isn't the last of its writer, or the writer is dead, or it is our own and not open.

import { rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { HeadraceError } from '../errors.ts'
import { addTo } from './amounts.ts'
import { codeOf, journalName, journalOf, namesIn, syncFolder } from './folder.ts'
import { hold, isHeld } from './lock.ts'
import type { Month } from './month.ts'
import { addLines, emptyMonth, monthOfSummary } from './month.ts'
import type { Summary } from './summary.ts'
import { readSummary, writeSummary } from './summary.ts'

/** The lock of whoever folds: no writer can be called so. */
const FOLDER = '+fold'

export interface Owner {
  readonly writer: string
  /** The path of the journal that is open; null if none is. */
  openPath(): string | null
}

/**
 * Folds what can be folded of a month. `owner`: whose lock this process holds, if it does. Resolves with what stands in the
 * way, in words; '' if nothing does. Rejects with the error of the system, and may then be tried again.
 */
export async function fold(folder: string, month: string, owner: Owner | null): Promise<string> {
  const finals = await finalJournals(folder, month, owner)
  if (finals.length === 0) return ''
  try {
    const lock = await hold(folder, FOLDER)
    try {
      return await foldLocked(folder, month, finals)
    } finally {
      await lock.release()
    }
  } catch (error) {
    // Another process folds just now.
    if (error instanceof HeadraceError && error.code === 'state-locked') return ''
    throw error
  }
}

async function foldLocked(folder: string, month: string, finals: readonly string[]): Promise<string> {
  const { summary, fault } = await readSummary(folder, month)
  // It must not be written over: it has what was removed.
  if (fault !== '') return `${month}: nothing can be folded: ${fault}`
  const inside = join(folder, month)
  const lengths = await lengthsOf(inside, finals)
  const { sums, covers, obstacle } = await sumUp(folder, month, summary, lengths)
  if (Object.keys(covers).some((name) => covers[name] !== summary.covers[name])) {
    const services = Object.fromEntries(sums.services)
    await writeSummary(folder, month, {
      services,
      skipped: sums.skipped,
      covers: await stillNeeded(covers, inside),
    })
  }
  for (const [name, length] of await lengthsOf(inside, finals)) {
    // If it has grown, its writer only looked dead: what is new counts, and is folded next time.
    if (length === covers[name]) await rm(join(inside, name), { force: true })
  }
  await syncFolder(inside)
  return obstacle === '' ? '' : `${month}: ${obstacle}`
}

interface Sums {
  readonly sums: Month
  readonly covers: Readonly<Record<string, number>>
  readonly obstacle: string
}

/** The summary and what it doesn't cover of these journals. One that can't be read stays as it is. */
async function sumUp(
  folder: string,
  month: string,
  summary: Summary,
  lengths: ReadonlyMap<string, number>,
): Promise<Sums> {
  const sums = monthOfSummary(summary)
  const covers: Record<string, number> = { ...summary.covers }
  let obstacle = ''
  for (const [name, to] of lengths) {
    const from = summary.covers[name] ?? 0
    const news = emptyMonth()
    try {
      await addLines(news, folder, month, name, { from, to })
    } catch (error) {
      obstacle = `${name} can't be folded: ${codeOf(error)}`
      continue
    }
    for (const [service, amounts] of news.services) addTo(sums.services, { service, amounts })
    sums.skipped.torn += news.skipped.torn
    sums.skipped.foreign += news.skipped.foreign
    covers[name] = Math.max(from, to)
  }
  return { sums, covers, obstacle }
}

/** A journal's name is kept while the journal is there, and for the last of each writer, so that it is never used again. */
async function stillNeeded(
  covers: Readonly<Record<string, number>>,
  folder: string,
): Promise<Record<string, number>> {
  const present = new Set(await namesIn(folder))
  const last = lastOfEach(Object.keys(covers))
  return Object.fromEntries(Object.entries(covers).filter(([name]) => present.has(name) || last.has(name)))
}

async function finalJournals(folder: string, month: string, owner: Owner | null): Promise<string[]> {
  const names = await namesIn(join(folder, month))
  // After the names were read: what is opened later has a name that is not among them.
  const open = owner?.openPath() ?? null
  const last = lastOfEach(names)
  const finals: string[] = []
  for (const name of names) {
    const journal = journalOf(name)
    if (journal === null || join(folder, month, name) === open) continue
    const { writer } = journal
    const isFinal = !last.has(name) || writer === owner?.writer || !(await isHeld(folder, writer))
    if (isFinal) finals.push(name)
  }
  return finals
}

function lastOfEach(names: readonly string[]): Set<string> {
  const last = new Map<string, number>()
  for (const name of names) {
    const { writer = '', generation = 0 } = journalOf(name) ?? {}
    last.set(writer, Math.max(last.get(writer) ?? 0, generation))
  }
  return new Set([...last].map(([writer, generation]) => journalName(writer, generation)))
}

async function lengthsOf(folder: string, names: readonly string[]): Promise<Map<string, number>> {
  const lengths = new Map<string, number>()
  for (const name of names) {
    try {
      lengths.set(name, (await stat(join(folder, name))).size)
    } catch (error) {
      if (codeOf(error) !== 'ENOENT') throw error
    }
  }
  return lengths
}
