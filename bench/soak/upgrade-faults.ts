// A new release takes over, the same one from the same disk: asked for by command and by signal, with bytes that are held
// back, and while something else goes wrong.

import { setTimeout as sleep } from 'node:timers/promises'
import type { Pair } from './pair.ts'
import { NEWCOMERS, RECONNECT_MS, struck } from './process-faults.ts'
import { stalled } from './stalling.ts'
import type { Stand } from './stand.ts'
import { mustOpen, mustSay, restored, tunnelsOf, WORKERS } from './stand.ts'

const READY = '"msg":"upgrade: the new release is ready"'
const MOVING = '"msg":"upgrade: the tunnels change over"'
const IN_CHARGE = '"msg":"upgrade: in charge"'
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
  const plain = stand.traffic.open.filter(({ isSecure }) => !isSecure)
  const clients = stalled(stand, 'client', plain)
  const origins = stalled(stand, 'origin', plain)
  await sleep(stand.options.holdMs)
  const affected = await upgradeByCommand(stand)
  clients.over()
  origins.over()
  return affected
}

/**
 * The primary of the new release, when it has got tunnels and is not in charge yet: held there, so that it is met in that
 * moment. All of them come back, or it was in charge already.
 */
export async function upgradeWhilePrimaryKilled(stand: Stand): Promise<number> {
  const { program, traffic, fail } = stand
  const old = program.pids('primary')
  const workers = program.pids('worker')
  const secure = await heldSecure(stand)
  const begun = countOf(stand, MOVING)
  const taken = countOf(stand, IN_CHARGE)
  const upgrading = program.command('upgrade')
  await traffic.until(() => countOf(stand, MOVING) > begun, 'tunnels change over')
  const [pid = 0] = program.pids('primary').filter((one) => !old.includes(one))
  process.kill(pid, 'SIGSTOP')
  await sleep(HANDOVER_MS)
  const isInCharge = countOf(stand, IN_CHARGE) > taken
  process.kill(pid, isInCharge ? 'SIGCONT' : 'SIGKILL')
  const { code, stderr } = await upgrading
  if (code !== (isInCharge ? 0 : 1)) fail(`upgrade whose primary was killed: ${code} ${stderr.trim()}`)
  if (isInCharge) await leftBehind(stand, workers, secure)
  traffic.isSecureHeld = false
  await restored(stand)
  return traffic.open.length
}

/** One of the old workers or of the new ones, around the moment in which the tunnels are handed over. */
export async function upgradeWhileKilled(stand: Stand): Promise<number> {
  const { program, random, traffic, fail } = stand
  const before = countOf(stand, READY)
  const old = program.pids('worker')
  await traffic.hold()
  const secure = await heldSecure(stand)
  const upgrading = program.command('upgrade')
  await traffic.until(() => countOf(stand, READY) > before, 'a new release is ready')
  await sleep(random.below(HANDOVER_MS))
  const [pid = 0] = random.some(program.pids('worker'), 1)
  const meant = struck(stand, pid)
  if (program.pids('worker').includes(pid)) process.kill(pid, 'SIGKILL')
  const { code, stderr } = await upgrading
  if (code !== 0 && code !== 1) fail(`upgrade while a worker was killed: ${code} ${stderr.trim()}`)
  await sleep(NOTICE_MS)
  if (code === 0) await leftBehind(stand, old, secure)
  traffic.isSecureHeld = false
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
  const workers = program.pids('worker')
  const secure = await heldSecure(stand)
  disk.fill()
  const { code, stderr } = await program.command('upgrade')
  if (code !== 0 && code !== 1) stand.fail(`upgrade with a full disk: ${code} ${stderr.trim()}`)
  await mustOpen(stand, 4, RECONNECT_MS, 'after an upgrade with a full disk')
  // All that it has is over, and its last usage is not written: it stays until it is.
  if (code === 0) await leftBehind(stand, workers, secure)
  await sleep(stand.options.holdMs)
  disk.free()
  traffic.isSecureHeld = false
  await restored(stand)
  return traffic.open.length
}

/** All processes must be others then, and nobody's tunnel over. */
async function upgraded(stand: Stand, ask: () => Promise<unknown>): Promise<void> {
  const { program, traffic } = stand
  const before = program.pids()
  const workers = program.pids('worker')
  const taken = countOf(stand, IN_CHARGE)
  const secure = await heldSecure(stand)
  const asking = ask()
  await mustOpen(stand, NEWCOMERS, RECONNECT_MS, 'during an upgrade')
  await asking
  await traffic.until(() => countOf(stand, IN_CHARGE) > taken, 'a new release is in charge')
  await leftBehind(stand, workers, secure)
  traffic.isSecureHeld = false
  await traffic.until(() => {
    const now = program.pids()
    return now.length >= WORKERS + 2 && !now.some((pid) => before.includes(pid))
  }, 'a new release has taken over and the old one is gone')
  await restored(stand)
}

/** The TLS tunnels; none comes or goes until they are let go. */
async function heldSecure({ traffic }: Stand): Promise<Pair[]> {
  const ofState = (state: Pair['state']) =>
    [...traffic.pairs.values()].filter((pair) => pair.isSecure && pair.state === state)
  traffic.isSecureHeld = true
  await traffic.until(
    () => ofState('opening').length + ofState('closing').length === 0,
    'TLS tunnels are held',
  )
  return ofState('open')
}

/**
 * All but TLS tunnels leave the old workers; these live on there, and are closed here, so that the release before need not wait for
 * its drain.
 */
async function leftBehind(stand: Stand, workers: readonly number[], secure: readonly Pair[]): Promise<void> {
  const { traffic, fail } = stand
  const staying = () => workers.flatMap((pid) => tunnelsOf(stand, pid))
  const living = secure.filter(({ state }) => state === 'open')
  const stayed = staying()
  if (!living.every((pair) => stayed.includes(pair))) fail('a TLS tunnel is not with the release before')
  await traffic.until(() => staying().every(({ isSecure }) => isSecure), 'all but TLS tunnels have moved')
  const before = living.map((pair) => pair.mark())
  const hasMoved = (pair: Pair, at: number) => {
    const { up, down } = pair.mark()
    return pair.state === 'over' || (up > (before[at]?.up ?? 0) && down > (before[at]?.down ?? 0))
  }
  await traffic.until(() => living.every(hasMoved), 'TLS tunnels go on with the release before')
  for (const pair of living) pair.close('client')
  await traffic.until(() => living.every(({ state }) => state === 'over'), 'TLS tunnels are over')
}

function countOf({ program }: Stand, words: string): number {
  return program.lines.filter((line) => line.includes(words)).length
}
