// Live upgrade: a new release of this program takes over its listeners and its tunnels, while both run.
//
//   1 start      the new release from the disk; it loads all that it needs, and accepts nothing yet
//   2 offer      each worker tells one of the new ones who its tunnels are, with duplicates of their descriptors; all go on
//   3 give       one worker after the other: some of its tunnels stand still, what is known of each is told, the new worker
//                begins them; then the next ones
//   4 accept     the new workers accept; the admin API is the new release's
//   5 leave      the old workers accept no more; what they had accepted comes after as 2 and 3; they wait for the rest
//
// Up to 3 whatever fails changes nothing. In it the tunnels that have not been given go on where they were, and those that have
// are the new release's: nothing but its first few, if it can't carry them at all.

import { readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { asHeadraceError, HeadraceError as Failure } from '../errors.ts'
import type { ProgramLines } from '../observe/program-lines.ts'
import type { Upgraded } from '../operations.ts'
import type { Drains } from './drains.ts'
import type { Outcome } from './giving.ts'
import { createGiving, NOTHING, pauseOf, tunnelsIn } from './giving.ts'
import { DOOR, doorOf, HANDOVER_FORMAT } from './handover-letters.ts'
import type { Identity } from './identity.ts'
import type { BeforeAnswers, Inheritance, LastState } from './protocol.ts'
import type { Returned } from './return.ts'
import type { HostedLedger } from './shared-ledger.ts'
import type { Standing } from './standing.ts'
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
  readonly standing: Standing
  readonly drains: Pick<Drains, 'isDraining' | 'begun'>
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
  /** Resolves when no other release accepts that may, or may not, come into charge. */
  readonly decided: Promise<void>
  /** Resolves when another release is in charge. */
  readonly succeeded: Promise<Successor>
  /** Once it is: this one's workers accept no more, and what they had accepted is moved as well, as far as it can be. */
  leave(): Promise<void>
  /** Of the new release that was started last. */
  readonly pid: number | null
  /** How many tunnels were moved. */
  readonly moved: number
}

/** Each step of the new release, in ms. */
const STEP_TIMEOUT_MS = 30_000

/** An upgrade waits for the new release's word no longer, in ms. */
const TAKE_TIMEOUT_MS = 1_000

/** Rounds in which those are offered that were opened meanwhile. */
const OFFERS = 2

/** What was accepted before has so long to become a tunnel, in ms; a head alone may take 10 s. */
const ARRIVALS_TIMEOUT_MS = 15_000
/** How often those are moved that have become one. */
const LATE_MS = 250

export function createUpgrades(parts: UpgradeParts): Upgrades {
  const { workers, ledger, standing, drains, lines } = parts
  let isRunning = false
  let moved = 0
  let pid: number | null = null
  let decided = Promise.resolve()
  let decide: () => void = () => {}
  let succeed: (successor: Successor) => void = () => {}
  let current: Successor | null = null
  const succeeded = new Promise<Successor>((resolve) => {
    succeed = resolve
  })
  /** Ids of tunnels that the new release has, while it may still give them back: their seats are kept for them. */
  let lent: string[] = []
  const giving = createGiving({
    workers,
    counted: (ids) => (current === null ? void lent.push(...ids) : ledger.forget(ids)),
    isOver: () => current === null && drains.isDraining,
    trouble: lines.trouble,
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
      decide()
      sweep(parts.stateDirectory, workers)
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
    let outcome = NOTHING
    let hasAdmin = true
    try {
      await giveCounts(successor)
      outcome = await move(successor)
      if (outcome.trouble !== null) throw new Failure('upgrade-failed', outcome.trouble)
      decided = new Promise((resolve) => {
        decide = resolve
      })
      await unlessEnding(() => successor.wire.ask('accept', [], STEP_TIMEOUT_MS))
      hasAdmin = false
      await unlessEnding(parts.leaveAdmin)
      // Nobody can ask now: before, they are listed here, and then there.
      await unlessEnding(giving.settle)
      const state = await unlessEnding(parts.lastState)
      await successor.wire.ask('takeOver', [state], STEP_TIMEOUT_MS)
      current = successor
      standing.isSucceeded = true
      decide()
      ledger.forget(lent)
      succeed(successor)
      const { shares } = outcome
      const stayed = outcome.stayed ?? (await left())
      const pauseMs = { p50: pauseOf(shares, 0.5), p99: pauseOf(shares, 0.99), max: pauseOf(shares, 1) }
      const { version, node: runs, workers: count } = release
      return {
        ...{ pid: successor.pid, version, node: runs, workers: count },
        ...{ moved: tunnelsIn(shares), stayed, pauseMs },
      }
    } catch (error) {
      ledger.heir = null
      const given = tunnelsIn(outcome.shares) + outcome.lost
      await giving.giveUp(given === 0)
      successor.kill()
      await successor.ended
      if (!hasAdmin) parts.regainAdmin()
      const { tunnels, silent } = await regain()
      const missing = given - tunnels
      if (missing <= 0) throw error
      const fate =
        silent.length === 0
          ? 'were its own already, and end with it'
          : `are with its process ${silent.join(', ')}, which hangs: they come back when it goes on, and end with it`
      throw new Failure('upgrade-failed', `${asHeadraceError(error).detail}; ${missing} tunnels ${fate}`)
    }
  }

  /** Whoever is to end hands nothing over, and waits for no step of it. */
  async function unlessEnding<Value>(step: () => Promise<Value>): Promise<Value> {
    const ending = drains.begun.then(() => null)
    const done = drains.isDraining ? null : await Promise.race([step().then((value) => ({ value })), ending])
    if (done === null || drains.isDraining) throw new Failure('upgrade-failed', 'the program is to end')
    return done.value
  }

  /** Its workers give back what they have. */
  async function regain(): Promise<Returned> {
    const returned = await giving.regain()
    const { tunnels, counted } = returned
    const back = new Set(counted)
    ledger.forget(lent.filter((id) => !back.has(id)))
    lent = []
    moved -= tunnels
    if (tunnels > 0) lines.upgrading('regained', { tunnels })
    return returned
  }

  /**
   * From here on both releases count, wherever the tunnels are, and whichever is in charge in the end tells of spikes. If the new one
   * does not know how, it begins anew.
   */
  async function giveCounts({ wire }: Successor): Promise<void> {
    const told = [
      wire.ask('rates', [ledger.rates()], STEP_TIMEOUT_MS),
      wire.ask('seats', [ledger.seats(), ledger.spikeStates()], STEP_TIMEOUT_MS),
    ]
    ledger.heir = {
      take: (claims) => wire.ask('take', [claims], TAKE_TIMEOUT_MS),
      give: (id) => void wire.ask('give', [id]).catch(() => {}),
    }
    const failed = (error: unknown) => lines.trouble(asHeadraceError(error))
    await Promise.all(told.map((one) => one.catch(failed)))
  }

  /** Steps 2 and 3. Nothing if the two releases have no common format. */
  async function move({ release }: Successor): Promise<Outcome> {
    const { doors, format } = release
    if (format !== HANDOVER_FORMAT || doors.length === 0) return NOTHING
    await giving.open(doors)
    for (let round = 0; round < OFFERS; round += 1) {
      lines.upgrading('offered', { tunnels: await giving.offer() })
    }
    lines.upgrading('moving')
    const outcome = await give()
    if (outcome.trouble === null) lines.upgrading('committed', { moved: tunnelsIn(outcome.shares) })
    return outcome
  }

  async function give(): Promise<Outcome> {
    const outcome = await giving.give()
    moved += tunnelsIn(outcome.shares)
    return outcome
  }

  async function left(): Promise<number> {
    const pages = await Promise.allSettled(
      workers.map(async ({ wire, silence }) =>
        silence.ms === null ? (await wire?.ask('tunnels', [{ limit: 1 }]))?.total : silence.tunnels,
      ),
    )
    return sum(pages.map((page) => (page.status === 'fulfilled' ? (page.value ?? 0) : 0)))
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
      if ((await giving.offer()) === 0) return
      const { trouble } = await give()
      if (trouble !== null) throw new Failure('process-silent', trouble)
    } catch (error) {
      await giving.giveUp(false)
      lines.trouble(asHeadraceError(error))
    }
  }

  return {
    run,
    succeeded,
    leave,
    get decided() {
      return decided
    },
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

/** The doors of the new workers, whatever has become of these. Those of the old ones may still be waited at. */
function sweep(folder: string, workers: readonly Worker[]): void {
  const own = workers.map(({ pid }) => doorOf(pid ?? 0))
  const left = readdirSync(folder).filter((name) => DOOR.test(name) && !own.includes(name))
  for (const name of left) rmSync(join(folder, name), { force: true })
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0)
}
