// What happens to the processes of the program: killed, recycled.

import type { Pair } from './pair.ts'
import type { Stand } from './stand.ts'
import { ended, mustOpen, mustSay, restored, tunnelsOf, workersOf } from './stand.ts'

export const NEWCOMERS = 20
export const RECONNECT_MS = 1_000

export async function killWorker(stand: Stand): Promise<number> {
  const [pid = 0] = stand.random.some(stand.program.pids('worker'), 1)
  const meant = await kill(stand, pid)
  await mustOpen(stand, NEWCOMERS, RECONNECT_MS, 'right after a worker was killed')
  await ended(stand, meant, 'their worker was killed')
  await restored(stand)
  return meant.length
}

/** Kills a worker; whose tunnels it had is known, since none is opened at that moment. Resolves with them. */
export async function kill(stand: Stand, pid: number): Promise<Pair[]> {
  const { program, traffic } = stand
  await traffic.hold()
  const meant = struck(stand, pid)
  if (program.pids('worker').includes(pid)) process.kill(pid, 'SIGKILL')
  traffic.start()
  return meant
}

/** The tunnels that end with this worker; usage may miss their last second. */
export function struck(stand: Stand, pid: number): Pair[] {
  const before = stand.traffic.aSecondAgo()
  const meant = tunnelsOf(stand, pid)
  for (const pair of meant) pair.excuse = 'its worker was killed'
  stand.kills.push(meant.map((pair) => ({ pair, before: before.get(pair) ?? null, atKill: pair.mark() })))
  return meant
}

export async function killControl(stand: Stand): Promise<number> {
  const [pid = 0] = stand.program.pids('control')
  process.kill(pid, 'SIGKILL')
  await mustOpen(stand, 4, RECONNECT_MS, 'right after the control process was killed')
  await stand.traffic.until(() => !stand.program.pids().includes(pid), 'a killed process is gone')
  await restored(stand)
  return 0
}

export async function recycleWorker(stand: Stand): Promise<number> {
  const { traffic, random } = stand
  const [worker] = random.some(await workersOf(stand), 1)
  if (worker === undefined) throw new Error('there is no worker')
  await traffic.hold()
  const meant = tunnelsOf(stand, worker.pid)
  for (const pair of meant) pair.excuse = 'its worker was recycled'
  // What is in its queue when it begins to drain it accepts, too, and closes in time.
  traffic.excuse = 'may have been in the queue of the worker that was recycled'
  const drained = mustSay(stand, ['drain', '--worker', worker.name, '--timeout', '2s', '--wait'])
  traffic.start()
  await mustOpen(stand, NEWCOMERS, RECONNECT_MS, 'while a worker is recycled')
  await drained
  for (const pair of traffic.open) if (pair.excuse === traffic.excuse) pair.excuse = null
  traffic.excuse = null
  await ended(stand, meant, 'their worker was recycled')
  await restored(stand)
  return meant.length
}
