// The folder `usage` of a state directory: what its files are called.
//
//   usage/main.4711-8812345-1f2e3d4c.lock      who writes as `main`: see lock.ts
//   usage/2026-11/main.1.usage                 a journal: the first of the writer `main` in this month; see journal.ts
//   usage/2026-11/summary.usage                journals that were folded, and their sums: see summary.ts

import { open, readdir } from 'node:fs/promises'
import { join } from 'node:path'

export const SUMMARY = 'summary.usage'

const JOURNAL = /^([A-Za-z0-9_-]{1,64})\.([1-9][0-9]{0,8})\.usage$/

export function usageFolder(stateDirectory: string): string {
  return join(stateDirectory, 'usage')
}

export function isWriter(name: string): boolean {
  return JOURNAL.test(journalName(name, 1))
}

export function journalName(writer: string, generation: number): string {
  return `${writer}.${generation}.usage`
}

/** Null if a file of this name is no journal. */
export function journalOf(name: string): { readonly writer: string; readonly generation: number } | null {
  const [, writer, generation] = JOURNAL.exec(name) ?? []
  return writer === undefined ? null : { writer, generation: Number(generation) }
}

/** What goes into the checksums of a file. */
export function placeOf(month: string, name: string): string {
  return `${month}/${name}`
}

/** Sorted; none if there is no such folder. */
export async function namesIn(folder: string): Promise<string[]> {
  try {
    return (await readdir(folder)).sort()
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return []
    throw error
  }
}

/** Makes durable which names a folder has. Windows can't, and needs no such thing. */
export async function syncFolder(folder: string): Promise<void> {
  if (process.platform === 'win32') return
  const handle = await open(folder, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

export function codeOf(error: unknown): string {
  return (error as NodeJS.ErrnoException | null)?.code ?? String(error)
}
