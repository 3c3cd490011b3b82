// `headrace drain`.

import { setTimeout as wait } from 'node:timers/promises'
import { milliseconds } from '../config/units.ts'
import { HeadraceError } from '../errors.ts'
import type { Status, WorkerStatus } from '../operations.ts'
import { load } from './config.ts'
import { askProgram, askRunning } from './control-client.ts'
import { UsageError } from './usage-error.ts'

export interface DrainOptions {
  readonly worker?: string
  readonly timeout?: string
  readonly wait?: boolean
}

/** Between two looks at whether it is over. */
const LOOK_MS = 250

/** Begins it, and with `--wait` comes back when it is over: 4 if tunnels were cut, as far as it was seen. */
export async function drain(
  file: string,
  { worker, timeout, wait: isWaiting = false }: DrainOptions,
): Promise<number> {
  const timeoutMs = timeout === undefined ? undefined : milliseconds(timeout)
  if (timeout !== undefined && timeoutMs === undefined) {
    throw new UsageError(`"${timeout}" is no duration: write such as 30s`)
  }
  const config = await load(file)
  if (config === null) return 1
  const body = { worker, timeoutMs }
  const begun = await askRunning<Status>(config, { method: 'POST', path: '/drain', body })
  const meant = (all: readonly WorkerStatus[]) =>
    all.filter(({ name }) => worker === undefined || name === worker)
  const pids = meant(begun.workers).map(({ pid }) => pid)
  const open = meant(begun.workers).reduce((sum, { drain: one }) => sum + (one?.open ?? 0), 0)
  process.stdout.write(`draining ${worker ?? 'all workers'}, tunnels open: ${open}\n`)
  while (isWaiting) {
    await wait(LOOK_MS)
    const now = await askProgram<Status>(config, { method: 'GET', path: '/workers' }).catch(goingAway)
    if (now === undefined) break
    if (now === null) continue
    const all = meant(now.workers)
    if (worker !== undefined && all.every(({ pid, state }) => state === 'running' && !pids.includes(pid)))
      break
  }
  if (isWaiting) process.stdout.write('drained\n')
  return 0
}

/** One that ends may not answer any more, before nobody is there. */
function goingAway(error: unknown): null {
  if (error instanceof HeadraceError && error.code === 'process-silent') return null
  throw error
}
