// Live upgrade: a new release of this program takes over its listeners and its tunnels, while both run.
//
//   1 start      the new release from the disk; it loads all that it needs, and accepts nothing yet
//   2 offer      each worker tells one of the new ones who its tunnels are, with duplicates of their descriptors; all go on
//   3 freeze     the tunnels stand still; what is known of each is told
//   4 commit     the new workers begin them, the old ones forget them
//   5 accept     the new workers accept; the admin API is the new release's
//   6 leave      the old workers accept no more; what they had accepted comes after as 2 to 4; they wait for the rest
//
// Up to 4 whatever fails changes nothing: the tunnels go on where they were. From then on they are the new release's.

import { readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { asHeadraceError, HeadraceError as Failure } from '../errors.ts'
import type { ProgramLines } from '../observe/program-lines.ts'
import type { Upgraded } from '../operations.ts'
import type { Given } from './handover-giver.ts'
import { DOOR, HANDOVER_FORMAT } from './handover-letters.ts'
import type { Identity } from './identity.ts'
import type { BeforeAnswers, Inheritance, LastState, WorkerAnswers } from './protocol.ts'
import type { HostedLedger } from './shared-ledger.ts'
import type { Successor } from './successor.ts'
import { startSuccessor } from './successor.ts'
import type { Worker } from './workers.ts'

export interface UpgradeParts {
  readonly workers: readonly Worker[]
  inheritance(): Inheritance
  readonly stateDirectory: string
  readonly ledger: HostedLedger
  readonly lines: ProgramLines
  startTimeoutMs(): number
  /** The path of the node that the new one runs on, as it is configured now; undefined: the same. */
  node(): string | undefined
  readonly environment: Readonly<Record<string, string>>
  /** When no reload is under way. */
  settled(): Promise<void>
  readonly identity: Identity
  /** What the new release may ask of this one from when it is in charge. */
  readonly operations: Omit<BeforeAnswers, 'inheritance' | 'ready' | 'failed'>
  /** What it gets last. */
  lastState(): Promise<LastState>
  /** The admin API is let go. */
  leaveAdmin(): Promise<void>
  regainAdmin(): void
}

export interface Upgrades {
  /** Throws upgrade-failed or upgrade-running. */
  run(): Promise<Upgraded>
  /** From when one has begun until it has failed. */
  readonly isRunning: boolean
  /** Resolves when another release is in charge. */
  readonly succeeded: Promise<Successor>
  /** Once it is: this one's workers accept no more, and what they had accepted is moved as well, as far as it can be. */
  leave(): Promise<void>
  /** Of the new release that was started last. */
  readonly pid: number | null
  /** How many tunnels were moved. */
  readonly moved: number
}

/** Each step of the workers, in ms: with 100,000 tunnels of one worker some seconds. */
const STEP_TIMEOUT_MS = 30_000

/** Rounds in which those are offered that were opened meanwhile. */
const OFFERS = 2

/** What was accepted before has so long to become a tunnel, in ms; a head alone may take 10 s. */
const ARRIVALS_TIMEOUT_MS = 15_000
/** How often those are moved that have become one. */
const LATE_MS = 250

interface Share {
  readonly tunnels: number
  readonly pauseMs: number
}

export function createUpgrades(parts: UpgradeParts): Upgrades {
  const { workers, ledger, lines } = parts
  let isRunning = false
  let moved = 0
  let pid: number | null = null
  let succeed: (successor: Successor) => void = () => {}
  let current: Successor | null = null
  const succeeded = new Promise<Successor>((resolve) => {
    succeed = resolve
  })

  async function run(): Promise<Upgraded> {
    if (isRunning || current !== null) throw new Failure('upgrade-running', 'the new release is on its way')
    isRunning = true
    const startedAt = performance.now()
    try {
      const outcome = await attempt()
      const done = { ...outcome, durationMs: performance.now() - startedAt }
      lines.upgrading('done', done)
      return done
    } catch (error) {
      const { detail } = asHeadraceError(error)
      lines.upgrading('failed', { reason: detail })
      throw new Failure('upgrade-failed', detail, error)
    } finally {
      isRunning = false
      sweep(parts.stateDirectory)
    }
  }

  async function attempt(): Promise<Omit<Upgraded, 'durationMs'>> {
    const { operations, environment, identity } = parts
    await parts.settled()
    const inheritance = parts.inheritance()
    const started = (own: number) => {
      pid = own
      lines.upgrading('started', { pid })
    }
    const node = parts.node()
    const startTimeoutMs = parts.startTimeoutMs()
    const means = { node, inheritance, environment, identity, startTimeoutMs }
    const successor = await startSuccessor({ ...means, operations, started })
    const { release } = successor
    lines.upgrading('ready', { pid, ...release })
    let hasTunnels = false
    let hasAdmin = true
    try {
      const shares = await move(successor)
      hasTunnels = shares.length > 0
      await successor.wire.ask('accept', [], STEP_TIMEOUT_MS)
      hasAdmin = false
      await parts.leaveAdmin()
      await successor.wire.ask('takeOver', [await parts.lastState()], STEP_TIMEOUT_MS)
      current = successor
      succeed(successor)
      const stayed = await left()
      const pauseMs = { p99: pauseOf(shares, 0.99), max: pauseOf(shares, 1) }
      const { version, node: runs, workers: count } = release
      return { pid: successor.pid, version, node: runs, workers: count, moved, stayed, pauseMs }
    } catch (error) {
      ledger.onGive = null
      if (!hasAdmin) parts.regainAdmin()
      // What it has, ends with it: its workers wait for that, as after the death of any primary.
      if (hasTunnels) {
        successor.disown()
        const { detail } = asHeadraceError(error)
        throw new Failure(
          'upgrade-failed',
          `${detail}; ${moved} tunnels were its own already, and end with it`,
        )
      }
      successor.kill()
      await successor.ended
      throw error
    }
  }

  /** Steps 2 to 4: all workers, or none. Nothing if the two releases have no common format. */
  async function move({ wire, release }: Successor): Promise<readonly Share[]> {
    const { doors } = release
    if (release.format !== HANDOVER_FORMAT || doors.length === 0) return []
    try {
      await each('give', (at) => [doors[at % doors.length] as (typeof doors)[number]])
      for (let round = 0; round < OFFERS; round += 1) {
        const counts = await each('offer', () => [])
        lines.upgrading('offered', { tunnels: sum(counts) })
      }
      ledger.onGive = (id) => void wire.ask('give', [id]).catch(() => {})
      await wire.ask('seats', [ledger.seats()], STEP_TIMEOUT_MS)
      lines.upgrading('stopped')
      await each('freeze', () => [])
    } catch (error) {
      await Promise.allSettled(workers.map((worker) => worker.wire?.ask('giveUp', [])))
      throw error
    }
    return await commit()
  }

  /** A worker whose tunnels were not taken goes on with them; but if nobody's were, it is as if nothing had been. */
  async function commit(): Promise<readonly Share[]> {
    const answers = await Promise.allSettled(
      workers.map(({ wire }) => wire?.ask('giveAway', [], Number.POSITIVE_INFINITY)),
    )
    const given = answers.flatMap((answer): Given[] =>
      answer.status === 'fulfilled' && answer.value !== undefined ? [answer.value] : [],
    )
    for (const { counted } of given) ledger.forget(counted)
    const taken = given.filter(({ isTaken }) => isTaken)
    if (taken.length === 0)
      throw new Failure('upgrade-failed', 'no worker of the new release took the tunnels')
    const count = sum(taken.map((one) => one.moved))
    moved += count
    if (current === null) lines.upgrading('committed', { moved: count })
    return taken.map((one) => ({ tunnels: one.moved, pauseMs: one.pauseMs }))
  }

  async function each<Name extends 'give' | 'offer' | 'freeze'>(
    name: Name,
    given: (at: number) => Parameters<WorkerAnswers[Name]>,
  ): Promise<Awaited<ReturnType<WorkerAnswers[Name]>>[]> {
    const asked = workers.map(async ({ wire, name: worker }, at) => {
      if (wire === null) throw new Failure('process-silent', `${worker} is not running`)
      return await wire.ask(name, given(at) as never, STEP_TIMEOUT_MS)
    })
    const answers = await Promise.allSettled(asked)
    const failed = answers.find((answer) => answer.status === 'rejected')
    if (failed !== undefined) throw failed.reason
    return answers.flatMap((answer) =>
      answer.status === 'fulfilled' ? [answer.value as Awaited<ReturnType<WorkerAnswers[Name]>>] : [],
    )
  }

  async function left(): Promise<number> {
    const pages = await Promise.allSettled(workers.map(({ wire }) => wire?.ask('tunnels', [{ limit: 1 }])))
    return sum(pages.map((page) => (page.status === 'fulfilled' ? (page.value?.total ?? 0) : 0)))
  }

  async function leave(): Promise<void> {
    let isSettled = false
    const settling = Promise.allSettled(
      workers.map(({ wire }) => wire?.ask('settleArrivals', [ARRIVALS_TIMEOUT_MS], ARRIVALS_TIMEOUT_MS * 2)),
    ).then(() => {
      isSettled = true
    })
    while (!isSettled) {
      await Promise.race([settling, pause(LATE_MS)])
      await moveLate()
    }
    lines.upgrading('left', { moved, stayed: await left() })
  }

  /** What can't be moved now stays where it is. */
  async function moveLate(): Promise<void> {
    try {
      const counts = await each('offer', () => [])
      if (sum(counts) === 0) return
      await current?.wire.ask('seats', [ledger.seats()], STEP_TIMEOUT_MS)
      await each('freeze', () => [])
      await commit()
    } catch (error) {
      await Promise.allSettled(workers.map(({ wire }) => wire?.ask('giveUp', [])))
      lines.trouble(asHeadraceError(error))
    }
  }

  return {
    run,
    succeeded,
    leave,
    get isRunning() {
      return isRunning || current !== null
    },
    get pid() {
      return pid
    },
    get moved() {
      return moved
    },
  }
}

/** The doors of the new workers, whatever has become of these. */
function sweep(folder: string): void {
  for (const name of readdirSync(folder)) if (DOOR.test(name)) rmSync(join(folder, name), { force: true })
}

/** The pause that so many of the moved tunnels were not longer than. */
function pauseOf(shares: readonly Share[], part: number): number {
  const all = shares.filter(({ tunnels }) => tunnels > 0).sort((one, other) => one.pauseMs - other.pauseMs)
  const total = sum(all.map(({ tunnels }) => tunnels))
  let seen = 0
  for (const { tunnels, pauseMs } of all) {
    seen += tunnels
    if (seen >= total * part) return pauseMs
  }
  return 0
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0)
}
