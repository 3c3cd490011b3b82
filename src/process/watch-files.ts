// Whether files have changed, for a reload that nobody asks for. By stat and not by inotify: see accept/certificates.ts.

import { unwatchFile, watchFile } from 'node:fs'

/** How often they are looked at, in ms. */
const INTERVAL_MS = 1_000

/** Whoever writes several files, or one piece by piece, is given so long to finish, in ms. */
const SETTLE_MS = 500

export interface FileWatch {
  /** From now on these are watched, and no others. */
  follow(files: readonly string[]): void
}

/** `changed` is called once for all that changes at a time. */
export function watchFiles(changed: () => void): FileWatch {
  const watched = new Set<string>()
  let timer: NodeJS.Timeout | undefined

  function look(): void {
    clearTimeout(timer)
    timer = setTimeout(changed, SETTLE_MS).unref()
  }

  return {
    follow(files) {
      const wanted = new Set(files)
      for (const file of watched) {
        if (wanted.has(file)) continue
        unwatchFile(file, look)
        watched.delete(file)
      }
      for (const file of wanted) {
        if (watched.has(file)) continue
        watchFile(file, { interval: INTERVAL_MS, persistent: false }, look)
        watched.add(file)
      }
    },
  }
}
