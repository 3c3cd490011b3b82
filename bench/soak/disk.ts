// The disk of the journal: a small tmpfs where the state folder is, which can be full.

import { execFileSync } from 'node:child_process'
import { closeSync, mkdirSync, openSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'

export interface Disk {
  /** Until nothing more goes on it. */
  fill(): void
  free(): void
  /** Also while somebody has a file open there. */
  unmount(): void
}

const SIZE = '16m'
const PIECE = Buffer.alloc(4_096)

/** Null, with the reason on the way, where nothing can be mounted. */
export function mountDisk(folder: string): Disk | string {
  mkdirSync(folder)
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${SIZE},mode=0700`, 'tmpfs', folder], { stdio: 'pipe' })
  } catch (error) {
    return `no tmpfs can be mounted here: ${String((error as Error).message).split('\n')[1] ?? error}`
  }
  const filler = join(folder, 'filler')
  return {
    fill() {
      const fd = openSync(filler, 'w')
      try {
        for (;;) writeSync(fd, PIECE)
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
      } finally {
        closeSync(fd)
      }
    },
    free: () => rmSync(filler, { force: true }),
    unmount: () => void execFileSync('umount', ['--lazy', folder], { stdio: 'pipe' }),
  }
}
