// The summary of a month: the sums of journals that were folded into it, and which journals these are, up to which length.
// It is replaced as a whole, so that a reader sees the one before or the one after: written beside, synced, renamed.
// Two lines: JSON, and its checksum.

import { open, readFile, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Amounts } from './amounts.ts'
import { codeOf, placeOf, SUMMARY, syncFolder } from './folder.ts'
import { checksum } from './line.ts'

/** Lines of journals that could not be counted. */
export interface Skipped {
  torn: number
  foreign: number
}

export interface Summary {
  readonly services: Readonly<Record<string, Amounts>>
  readonly skipped: Readonly<Skipped>
  /** Of each journal that is in the sums, how many of its bytes. Journals that were removed stand here, too. */
  readonly covers: Readonly<Record<string, number>>
}

export interface SummaryFile {
  readonly summary: Summary
  /** As it stands in the file; '' if there is none. */
  readonly text: string
  /** Why it can't be used; '' if it can. */
  readonly fault: string
}

const NONE: Summary = { services: {}, skipped: { torn: 0, foreign: 0 }, covers: {} }

/** While a summary is being written. */
export const TEMPORARY = `${SUMMARY}.new`

/** Never throws: what can't be read or was changed is an empty one with its fault. */
export async function readSummary(folder: string, month: string): Promise<SummaryFile> {
  let text: string
  try {
    text = await readFile(join(folder, month, SUMMARY), 'utf8')
  } catch (error) {
    const isAbsent = codeOf(error) === 'ENOENT'
    return { summary: NONE, text: '', fault: isAbsent ? '' : `${SUMMARY} can't be read: ${codeOf(error)}` }
  }
  const [json = '', sum] = text.split('\n')
  if (sum !== checksum(placeOf(month, SUMMARY), json)) {
    return { summary: NONE, text, fault: `${SUMMARY} is damaged: its checksum is wrong` }
  }
  return { summary: JSON.parse(json) as Summary, text, fault: '' }
}

export async function writeSummary(folder: string, month: string, summary: Summary): Promise<void> {
  const inside = join(folder, month)
  const json = JSON.stringify(summary)
  try {
    await writeDurably(join(inside, TEMPORARY), `${json}\n${checksum(placeOf(month, SUMMARY), json)}\n`)
  } catch (error) {
    // On a full disk the journals need the room.
    await rm(join(inside, TEMPORARY), { force: true })
    throw error
  }
  await rename(join(inside, TEMPORARY), join(inside, SUMMARY))
  await syncFolder(inside)
}

async function writeDurably(path: string, text: string): Promise<void> {
  const handle = await open(path, 'w')
  try {
    await handle.writeFile(text)
    await handle.sync()
  } finally {
    await handle.close()
  }
}
