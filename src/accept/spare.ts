// Whether descriptors are left, for listeners that node accepts for: libuv refuses the surplus by itself, without a word to
// anybody (uv__emfile_trick in its src/unix/stream.c).

import { close, open } from 'node:fs'

/** How often it is tried out, in ms. */
const INTERVAL_MS = 1_000

/** Tells an EMFILE or ENFILE once, until there are descriptors again. */
export function watchDescriptors(onTrouble: (error: NodeJS.ErrnoException) => void): { close(): void } {
  let isTroubled = false
  const timer = setInterval(() => open('/dev/null', 'r', look), INTERVAL_MS).unref()

  function look(error: NodeJS.ErrnoException | null, descriptor: number): void {
    if (error === null) close(descriptor, ignore)
    const isOut = error?.code === 'EMFILE' || error?.code === 'ENFILE'
    if (isOut && !isTroubled) onTrouble(error)
    isTroubled = isOut
  }

  return { close: () => clearInterval(timer) }
}

function ignore(): void {}
