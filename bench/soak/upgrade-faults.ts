// A new release takes over, the same one from the same disk: asked for by command and by signal, with bytes that are held
// back, and while something else goes wrong.

import { setTimeout as sleep } from 'node:timers/promises'
import { NEWCOMERS, RECONNECT_MS, struck } from './process-faults.ts'
import { stalled } from './stalling.ts'
import type { Stand } from './stand.ts'
import { mustOpen, mustSay, restored, WORKERS } from './stand.ts'

const READY = '"msg":"upgrade: the new release is ready"'
/** What was moved to a worker before it was killed is over with it. */
const HAD_SOME = 'tunnels were its own already'
/** From there until the tunnels belong to it, more or less. */
const HANDOVER_MS = 80
/** Whoever lost its tunnel with a worker knows it by then. */
const NOTICE_MS = 1_000

export async function upgradeByCommand(stand: Stand): Promise<number> {
  await upgraded(stand, () => mustSay(stand, ['upgrade']))
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

/** One of the old workers or of the new ones, around the moment in which the tunnels are handed over. */
export async function upgradeWhileKilled(stand: Stand): Promise<number> {
  const { program, random, traffic, fail } = stand
  const ready = () => program.lines.filter((line) => line.includes(READY)).length
  const before = ready()
  const old = program.pids('worker')
  await traffic.hold()
  const upgrading = program.command('upgrade')
  await traffic.until(() => ready() > before, 'a new release is ready')
  await sleep(random.below(HANDOVER_MS))
  const [pid = 0] = random.some(program.pids('worker'), 1)
  const meant = struck(stand, pid)
  if (program.pids('worker').includes(pid)) process.kill(pid, 'SIGKILL')
  const { code, stderr } = await upgrading
  if (code !== 0 && code !== 1) fail(`upgrade while a worker was killed: ${code} ${stderr.trim()}`)
  await sleep(NOTICE_MS)
  traffic.start()
  await restored(stand)
  const lost = meant.filter(({ state }) => state === 'over')
  if (code === 1 && !old.includes(pid) && lost.length > 0 && !stderr.includes(HAD_SOME)) {
    fail(`${lost.length} tunnels are over with a worker of a new release that did not take over`)
  }
  // The others had moved, or stayed.
  for (const pair of meant) if (pair.state !== 'over') pair.excuse = null
  await mustOpen(stand, 4, RECONNECT_MS, 'after an upgrade in which a worker was killed')
  return lost.length
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
async function upgraded(stand: Stand, ask: () => Promise<unknown>): Promise<void> {
  const { program, traffic } = stand
  const before = program.pids()
  const asking = ask()
  await mustOpen(stand, NEWCOMERS, RECONNECT_MS, 'during an upgrade')
  await asking
  await traffic.until(() => {
    const now = program.pids()
    return now.length >= WORKERS + 2 && !now.some((pid) => before.includes(pid))
  }, 'a new release has taken over and the old one is gone')
  await restored(stand)
}
