// As the first process of a container this one inherits the orphans of all others, and has to take notice of their deaths, or
// they stay as zombies until there is no process number left (wait(2), pid_namespaces(7)). Node only does that for its own.

import { readFileSync } from 'node:fs'
import type { Libc } from '../linux/libc.ts'
import { libc, WNOHANG } from '../linux/libc.ts'

/** `isOwn`: whether node waits for the process itself. Does nothing where this is not the first process, or without koffi. */
export function reapOrphans(isOwn: (pid: number) => boolean): void {
  if (process.pid !== 1) return
  const calls = callsOrNull()
  if (calls === null) return
  process.on('SIGCHLD', () => {
    for (const pid of children()) if (!isOwn(pid)) calls.waitpid(pid, null, WNOHANG)
  })
}

function children(): number[] {
  try {
    return (readFileSync('/proc/self/task/1/children', 'utf8').match(/[0-9]+/g) ?? []).map(Number)
  } catch {
    // A kernel without it (proc_pid_children(5)): as without this file.
    return []
  }
}

function callsOrNull(): Libc | null {
  try {
    return libc()
  } catch {
    return null
  }
}
