// What happens to the processes of the program: killed, recycled.

import { setTimeout as sleep } from 'node:timers/promises'
import type { Pair } from './pair.ts'
import type { Stand } from './stand.ts'
import { ended, markOf, mustOpen, mustSay, restored, tunnelsOf, workersOf } from './stand.ts'

/** What a killed worker may cost of usage. */
const LOSS_MS = 1_000
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
  const { traffic, kills } = stand
  const before = new Map(traffic.open.map((pair) => [pair, markOf(pair)]))
  await sleep(LOSS_MS)
  await traffic.hold()
  const meant = tunnelsOf(stand, pid)
  for (const pair of meant) pair.excuse = 'its worker was killed'
  kills.push(meant.map((pair) => ({ pair, before: before.get(pair) ?? null, atKill: markOf(pair) })))
  // It may have gone meanwhile.
  if (stand.program.pids('worker').includes(pid)) process.kill(pid, 'SIGKILL')
  traffic.start()
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
