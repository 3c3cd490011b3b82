// What a fault has to do with: the program, its traffic, its origin, its disk.

import { setTimeout as sleep } from 'node:timers/promises'
import type { Disk } from './disk.ts'
import type { Options } from './options.ts'
import type { Origin } from './origin.ts'
import type { Mark, Pair } from './pair.ts'
import type { Program } from './program.ts'
import { remotePortsOf } from './program.ts'
import type { Random } from './random.ts'
import type { Traffic } from './traffic.ts'

/** A tunnel of a worker that was killed: usage may miss what came between these. */
export interface Lost {
  readonly pair: Pair
  /** A second before; null: it was not open yet. */
  readonly before: Mark | null
  readonly atKill: Mark
}

export interface Stand {
  readonly options: Options
  readonly random: Random
  readonly program: Program
  readonly traffic: Traffic
  readonly origin: Origin
  /** Or why there is none. */
  readonly disk: Disk | string
  /** The config file, with changes. */
  config(changes?: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>>
  /** An address that is listened on only if a config says so. */
  readonly spare: string
  /** What each kill of a worker has met. */
  readonly kills: Lost[][]
  fail(what: string): void
}

export const WORKERS = 2

export interface WorkerRecord {
  readonly name: string
  readonly pid: number
  readonly state: string
}

export async function workersOf({ program }: Stand): Promise<readonly WorkerRecord[]> {
  const { json } = await program.control('/workers')
  return (json as { readonly workers: readonly WorkerRecord[] }).workers
}

/** All workers run, and nobody else does. */
export async function restored(stand: Stand): Promise<void> {
  const { program, traffic } = stand
  let isWhole = false
  const look = async () => {
    while (!isWhole) {
      const workers = await workersOf(stand).catch(() => [])
      const pids = program.pids('worker')
      isWhole =
        workers.length === WORKERS &&
        workers.every(({ pid, state }) => state === 'running' && pids.includes(pid)) &&
        pids.length === WORKERS &&
        program.pids('primary').length === 1 &&
        program.pids('control').length === 1
      if (!isWhole) await sleep(50)
    }
  }
  const looking = look()
  await traffic.until(() => isWhole, 'all workers run, and none besides')
  // A failure was told: nobody is to look for good.
  isWhole = true
  await looking
}

/** The open tunnels whose client's connection this process has. */
export function tunnelsOf({ traffic }: Stand, pid: number): Pair[] {
  const ports = remotePortsOf(pid)
  return [...traffic.pairs.values()].filter(({ state, port }) => state !== 'over' && ports.has(port))
}

/** These must end now, each at both sides. */
export async function ended({ traffic }: Stand, pairs: readonly Pair[], why: string): Promise<void> {
  await traffic.until(
    () => pairs.every(({ state }) => state === 'over'),
    `${pairs.length} tunnels end: ${why}`,
  )
}

/** A command that must succeed, or end with `code`. */
export async function mustSay(stand: Stand, words: readonly string[], code = 0): Promise<string> {
  const said = await stand.program.command(...words)
  if (said.code !== code)
    stand.fail(`headrace ${words.join(' ')}: exit code ${said.code}: ${said.stderr.trim()}`)
  return code === 0 ? said.stdout : said.stderr
}

/** So many tunnels opened at once: each must be there within the time. */
export async function mustOpen(
  { traffic, fail }: Stand,
  count: number,
  withinMs: number,
  when: string,
): Promise<void> {
  const openings = await Promise.all(Array.from({ length: count }, () => traffic.dial()))
  for (const { pair, outcome, ms } of openings) {
    if (outcome === 101 && ms > withinMs) {
      fail(
        `tunnel ${pair.id} (client port ${pair.port}) was there ${Math.round(ms)} ms after its dial, ${when}`,
      )
    }
  }
}
