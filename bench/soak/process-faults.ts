// What happens to the processes of the program: killed, recycled, replaced by a new release.

import { setTimeout as sleep } from 'node:timers/promises'
import type { Pair } from './pair.ts'
import type { Stand } from './stand.ts'
import { ended, mustOpen, mustSay, restored, tunnelsOf, WORKERS, workersOf } from './stand.ts'

/** What a killed worker may cost of usage. */
const LOSS_MS = 1_000
const NEWCOMERS = 20
const RECONNECT_MS = 1_000

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
  const at = performance.now()
  const before = new Map(
    traffic.open.map(({ id, up, down }) => [id, { up: up.received, down: down.received, at }]),
  )
  await sleep(LOSS_MS)
  await traffic.hold()
  const meant = tunnelsOf(stand, pid)
  for (const pair of meant) pair.excuse = 'its worker was killed'
  kills.push(meant.map((pair) => ({ pair, before: before.get(pair.id) ?? null })))
  process.kill(pid, 'SIGKILL')
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

export async function upgradeByCommand(stand: Stand): Promise<number> {
  const said = await upgraded(stand, () => mustSay(stand, ['upgrade']))
  const [, stayed = 'none said'] = /until they end: (\S+)/.exec(said) ?? []
  if (stayed !== '0') stand.fail(`tunnels that an upgrade left behind: ${stayed}`)
  return stand.traffic.open.length
}

export async function upgradeBySignal(stand: Stand): Promise<number> {
  const [pid = 0] = stand.program.pids('primary')
  await upgraded(stand, async () => void process.kill(pid, 'SIGUSR2'))
  return stand.traffic.open.length
}

/** All processes must be others then, and nobody's tunnel over. */
async function upgraded<Said>(stand: Stand, ask: () => Promise<Said>): Promise<Said> {
  const { program, traffic } = stand
  const before = program.pids()
  const said = await ask()
  await mustOpen(stand, NEWCOMERS, RECONNECT_MS, 'during an upgrade')
  await traffic.until(() => {
    const now = program.pids()
    return now.length >= WORKERS + 2 && !now.some((pid) => before.includes(pid))
  }, 'a new release has taken over and the old one is gone')
  await restored(stand)
  return said
}
