// A new release takes over, the same one from the same disk: asked for by command and by signal, with bytes that are held
// back, and while something else goes wrong.

import { setTimeout as sleep } from 'node:timers/promises'
import { kill, NEWCOMERS, RECONNECT_MS } from './process-faults.ts'
import { stalled } from './stalling.ts'
import type { Stand } from './stand.ts'
import { mustOpen, mustSay, restored, WORKERS } from './stand.ts'

/** After that, and the second that `kill` takes, the new release is in charge: a worker is killed somewhere on the way. */
const KILL_WITHIN_MS = 1_500
/** Whoever lost its tunnel with a worker knows it by then. */
const NOTICE_MS = 1_000

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

/** What the release before has read and could not send goes with the tunnel. */
export async function upgradeWhileStalled(stand: Stand): Promise<number> {
  const clients = stalled(stand, 'client')
  const origins = stalled(stand, 'origin')
  await sleep(stand.options.holdMs)
  const affected = await upgradeByCommand(stand)
  clients.over()
  origins.over()
  return affected
}

/** It fails, or it does not: whose tunnels the worker still had are over, and nobody else's. */
export async function upgradeWhileKilled(stand: Stand): Promise<number> {
  const { program, random } = stand
  const [pid = 0] = random.some(program.pids('worker'), 1)
  const upgrading = program.command('upgrade')
  await sleep(random.below(KILL_WITHIN_MS))
  const meant = await kill(stand, pid)
  const { code, stderr } = await upgrading
  if (code !== 0 && code !== 1) stand.fail(`upgrade while a worker was killed: ${code} ${stderr.trim()}`)
  await sleep(NOTICE_MS)
  await restored(stand)
  // Those that had moved before live.
  for (const pair of meant) if (pair.state !== 'over') pair.excuse = null
  await mustOpen(stand, 4, RECONNECT_MS, 'after an upgrade in which a worker was killed')
  return meant.length
}

/** The sockets through which tunnels are handed over are in the state folder. */
export async function upgradeOnFullDisk(stand: Stand): Promise<number> {
  const { disk, program, traffic } = stand
  if (typeof disk === 'string') return 0
  disk.fill()
  const { code, stderr } = await program.command('upgrade')
  if (code !== 0 && code !== 1) stand.fail(`upgrade with a full disk: ${code} ${stderr.trim()}`)
  await mustOpen(stand, 4, RECONNECT_MS, 'after an upgrade with a full disk')
  disk.free()
  await restored(stand)
  return traffic.open.length
}

/** All processes must be others then, and nobody's tunnel over. */
async function upgraded<Said>(stand: Stand, ask: () => Promise<Said>): Promise<Said> {
  const { program, traffic } = stand
  const before = program.pids()
  const asking = ask()
  await mustOpen(stand, NEWCOMERS, RECONNECT_MS, 'during an upgrade')
  const said = await asking
  await traffic.until(() => {
    const now = program.pids()
    return now.length >= WORKERS + 2 && !now.some((pid) => before.includes(pid))
  }, 'a new release has taken over and the old one is gone')
  await restored(stand)
  return said
}
