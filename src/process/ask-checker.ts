// Asks a process of its own what only shows when the files of a config are opened: see checker.ts.

import type { StdioOptions } from 'node:child_process'
import { fork } from 'node:child_process'
import type { LoadedConfig } from '../config/load.ts'
import type { Problem } from '../config/problems.ts'
import type { Identity } from './identity.ts'
import { wire } from './messages.ts'
import type { CheckerAnswers } from './protocol.ts'

/** Longer than a module may take to load: of one that blocks its process nobody hears. */
const CHECK_TIMEOUT_MS = 15_000

/** Their process ids. This module's only state. */
const running = new Set<number | undefined>()

export function isChecker(pid: number): boolean {
  return running.has(pid)
}

/** Resolves with what is wrong with the files. Throws process-silent if a module blocks or ends that process. */
export async function askChecker(
  { file, text }: LoadedConfig,
  { raised, credentials }: Identity,
): Promise<readonly Problem[]> {
  const stdio = ['ignore', 'inherit', 'inherit', 'ipc'] satisfies StdioOptions
  const module = new URL('./checker.js', import.meta.url)
  const child = raised(() => fork(module, [], { stdio, ...credentials }))
  running.add(child.pid)
  const line = wire<object, CheckerAnswers>('the process that loads the handlers', child, {})
  child.on('error', (error) => line.cut(error.message))
  child.on('exit', (code, signal) => {
    running.delete(child.pid)
    line.cut(`has ended (${signal ?? `exit code ${code}`})`)
  })
  const kill = () => child.kill('SIGKILL')
  // One that is blocked would not notice that the program has gone.
  process.once('exit', kill)
  try {
    return await line.ask('check', [{ file, text }], CHECK_TIMEOUT_MS)
  } finally {
    process.off('exit', kill)
    kill()
  }
}
