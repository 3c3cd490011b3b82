// What must hold at the end: nothing has leaked, usage is what both ends have counted, the log and standard error tell of
// nothing that should not be, and no process is left.

import { setTimeout as sleep } from 'node:timers/promises'
import { processBytes } from '../accounting/proc.ts'
import type { Role } from './program.ts'
import { targetsOf } from './program.ts'
import type { Lost, Stand } from './stand.ts'
import { mustSay, WORKERS } from './stand.ts'

const MINUTE_MS = 60_000
const QUIET_MS = 1_500
/** A kill is noticed by its tunnels in far less. */
const NOTICED_MS = 5_000
const ROLES: readonly Role[] = ['primary', 'worker', 'control']
const MIB = 1_024 * 1_024
/** Spare pipes of the relay, two ends each, that a worker may keep (engine/linux/pipes.ts). */
const MOST_SPARE_PIPE_ENDS = 2 * 16
/** What node's heaps may have grown by, while nothing is kept. */
const MAY_GROW = { factor: 1.4, bytes: 48 * MIB }

export interface Level {
  readonly tunnels: number
  /** By role, without pipes. */
  readonly descriptors: Readonly<Record<Role, number>>
  /** Ends of pipes, of all processes. */
  readonly pipeEnds: number
  readonly bytes: number
}

/** Without a tunnel, after a quiet time. */
export async function level({ program, traffic }: Stand): Promise<Level> {
  await sleep(QUIET_MS)
  const targets = (role: Role) => program.pids(role).flatMap(targetsOf)
  const count = (role: Role) => targets(role).filter((target) => !isPipe(target)).length
  // Before it is asked anything: that takes a connection, which may still be there afterwards.
  const held = {
    descriptors: { primary: count('primary'), worker: count('worker'), control: count('control') },
    pipeEnds: ROLES.flatMap(targets).filter(isPipe).length,
    bytes: processBytes(program.pids()),
  }
  const { json } = await program.control('/tunnels?limit=1')
  return { tunnels: (json as { readonly total: number }).total - traffic.open.length, ...held }
}

const isPipe = (target: string) => target.startsWith('pipe:')

export function textOf({ tunnels, descriptors, pipeEnds, bytes }: Level): string {
  const each = Object.entries(descriptors).map(([role, count]) => `${role} ${count}`)
  const memory = `memory ${(bytes / MIB).toFixed(0)} MiB`
  return `tunnels ${tunnels}, descriptors ${each.join(', ')}, ends of pipes ${pipeEnds}, ${memory}`
}

export function compareLevels(start: Level, end: Level, fail: (what: string) => void): void {
  if (end.tunnels !== 0) fail(`${end.tunnels} tunnels are open that nobody has`)
  for (const role of ROLES) {
    const [before, after] = [start.descriptors[role], end.descriptors[role]]
    if (after > before) fail(`descriptors of ${role}: ${before} at the start, ${after} at the end`)
  }
  if (end.pipeEnds > start.pipeEnds + WORKERS * MOST_SPARE_PIPE_ENDS) {
    fail(`ends of pipes: ${start.pipeEnds} at the start, ${end.pipeEnds} at the end`)
  }
  if (end.bytes > start.bytes * MAY_GROW.factor + MAY_GROW.bytes) {
    fail(
      `memory: ${(start.bytes / MIB).toFixed(0)} MiB at the start, ${(end.bytes / MIB).toFixed(0)} MiB at the end`,
    )
  }
}

interface Sums {
  connections: number
  minutes: number
  clientToOrigin: number
  originToClient: number
}

interface Report {
  readonly skipped: { readonly torn: number; readonly foreign: number }
  readonly troubles: readonly string[]
  readonly total: {
    readonly connections: number
    readonly minutes: number
    readonly bytes: { readonly clientToOrigin: number; readonly originToClient: number }
  }
}

/** Never more than was sent, and less than arrived at most by what a killed worker had done in its last second. */
export async function checkUsage(stand: Stand): Promise<string> {
  const report = JSON.parse(await mustSay(stand, ['usage', '--json'])) as Report
  const { connections, minutes, bytes } = report.total
  const counted: Sums = { connections, minutes, ...bytes }
  const { least, most } = bounds(stand)
  for (const what of ['connections', 'minutes', 'clientToOrigin', 'originToClient'] as const) {
    const text = `usage: ${what}: ${counted[what]} counted, between ${least[what]} and ${most[what]} is right`
    if (counted[what] < least[what] || counted[what] > most[what]) stand.fail(text)
  }
  if (report.skipped.foreign > 0 || report.skipped.torn > stand.kills.length) {
    stand.fail(`usage: the journal does not read clean: ${report.troubles.join('; ')}`)
  }
  return `usage: ${connections} connections, ${minutes} minutes, ${bytes.clientToOrigin} B up, ${bytes.originToClient} B down`
}

function bounds({ traffic, kills }: Stand): { least: Sums; most: Sums } {
  const least: Sums = { connections: 0, minutes: 0, clientToOrigin: 0, originToClient: 0 }
  const most: Sums = { ...least }
  for (const pair of traffic.pairs.values()) {
    // Whether one counts whose client has given up while its 101 came, only the edge knows.
    if (pair.origin === null) continue
    most.connections += 1
    most.minutes += minutesOf(performance.now(), pair.startedAt, pair.overAt + 1_000)
    most.clientToOrigin += pair.up.sent
    most.originToClient += pair.down.sent
    if (pair.openedAt === 0) continue
    least.connections += 1
    least.minutes += minutesOf(performance.now(), pair.openedAt, pair.overAt)
    least.clientToOrigin += pair.up.received
    least.originToClient += pair.down.received
  }
  for (const one of kills.flat()) forgive(least, one)
  return { least, most }
}

function forgive(least: Sums, { pair, before, atKill }: Lost): void {
  // One that was not a tunnel at all in the end is in no sum.
  if (pair.origin === null || pair.openedAt === 0) return
  // What was on its way when it was killed may have come out still; after a kill in an upgrade it may live on.
  const hasDied = pair.excuse !== null && pair.overAt - atKill.at < NOTICED_MS
  const last = hasDied ? { ...pair.mark(), at: pair.overAt } : atKill
  if (before === null) least.connections -= 1
  const minutes = (at: number) => minutesOf(at, pair.openedAt, at)
  least.minutes -= minutes(last.at) - (before === null ? 0 : minutes(before.at))
  least.clientToOrigin -= last.up - (before?.up ?? 0)
  least.originToClient -= last.down - (before?.down ?? 0)
}

/** Started minutes, at least one, until `to`, or `now` if that has not been. */
function minutesOf(now: number, from: number, to: number): number {
  return Math.max(1, Math.ceil((Math.min(now, to) - from) / MINUTE_MS))
}

/** Lines at this level that the script brings about. */
const EXPECTED =
  /^(a process has died|a process keeps dying|not reloaded: nothing has changed|upgrade: given up)$/

export function checkLog({ program, fail }: Stand): void {
  for (const line of program.lines) {
    if (!line.startsWith('{')) continue
    const { level: at, msg, code } = JSON.parse(line) as { level: string; msg: string; code?: string }
    const isWrong = code === 'internal' || at === 'fatal' || (at === 'error' && !EXPECTED.test(msg))
    if (isWrong) fail(`the log says: ${line.slice(0, 600)}`)
  }
  if (program.stderr !== '') fail(`standard error says: ${program.stderr.slice(0, 2_000)}`)
}

/** SIGTERM: all of its processes go, none is left. */
export async function checkEnd({ program, traffic, fail }: Stand): Promise<void> {
  const [primary = 0] = program.pids('primary')
  process.kill(primary, 'SIGTERM')
  await traffic.until(() => program.pids().length === 0, 'all processes end after SIGTERM')
  const left = program.pids()
  if (left.length > 0) fail(`processes that are left: ${left.join(', ')}`)
  for (const pid of left) process.kill(pid, 'SIGKILL')
  await traffic.until(() => program.exit() !== null, 'the program ends')
  if (program.exit() !== 0) fail(`the program ended with ${program.exit()}`)
}
