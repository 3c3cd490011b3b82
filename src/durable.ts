// A small file that is whole at any time: its old content or its new one, also after a power cut.

import { mkdir, open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'

export interface Writing {
  /** Of the file. */
  readonly mode: number
  /** Fail with EEXIST if somebody else is writing it: for what is read, changed and written by several. */
  readonly exclusive?: boolean
}

/** Resolves when it is on the disk. The folder is made if it is missing. Rejects with the system's error. */
export async function writeDurably(file: string, text: string, { mode, exclusive = false }: Writing) {
  const folder = dirname(file)
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const fresh = temporaryOf(file)
  const handle = await open(fresh, exclusive ? 'wx' : 'w', mode)
  try {
    await handle.writeFile(text)
    await handle.sync()
  } catch (error) {
    await handle.close()
    await rm(fresh, { force: true })
    throw error
  }
  await handle.close()
  await rename(fresh, file)
  await syncFolder(folder)
}

/** Where the new content stands until it is whole. */
export function temporaryOf(file: string): string {
  return `${file}.new`
}

/** The new name is on the disk only when its folder is (fsync(2)). */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}
