// The tunnels of all workers go to those of the new release: steps 2 and 3 of upgrade.ts.

import { setTimeout as pause } from 'node:timers/promises'
import { asHeadraceError, HeadraceError } from '../errors.ts'
import type { Given, Share } from './handover-giver.ts'
import type { Wire } from './messages.ts'
import type { Place, WorkerAnswers } from './protocol.ts'
import type { Returned } from './return.ts'
import type { Worker } from './workers.ts'

/** What has become of the tunnels. */
export interface Outcome {
  /** Those that the new release carries on. */
  readonly shares: readonly Share[]
  /** How many are over with one of its workers. */
  readonly lost: number
  /** How many can't be moved; null: nobody has tried. */
  readonly stayed: number | null
  /** Why it came to an end; null: it did not. */
  readonly trouble: string | null
}

export const NOTHING: Outcome = { shares: [], lost: 0, stayed: null, trouble: null }

export interface Giving {
  /** `doors`: where the workers of the new release wait for tunnels. */
  open(doors: readonly Place[]): Promise<void>
  /** Resolves with how many tunnels the new release has been told of. */
  offer(): Promise<number>
  give(): Promise<Outcome>
  /** What was not given stays. `mayEnd`: the new release has nothing that would be lost. */
  giveUp(mayEnd: boolean): Promise<void>
  /** The new release has gone: resolves with what it has given back. */
  regain(): Promise<Returned>
  /** What was given is not listed here any more. */
  settle(): Promise<void>
}

export interface GivingParts {
  readonly workers: readonly Worker[]
  /** The new release has these tunnels now, which have seats in the ledger. */
  counted(ids: readonly string[]): void
  /** No more are to be moved. */
  isOver(): boolean
  trouble(what: HeadraceError): void
}

/** Each step of the workers, in ms: with 100,000 tunnels of one worker some seconds. */
const STEP_TIMEOUT_MS = 30_000

/** Whoever has asked for the upgrade waits, and nobody else may ask: one that hangs does it later. */
const SETTLE_TIMEOUT_MS = 2_000

/** A worker that has begun to give and is silent for so long gives no more, until it goes on. */
const HANG_MS = 10_000
/** How often it is looked whether one that is asked is silent. */
const LOOK_MS = 250

/** What a new release that has gone may take to give back what it has. */
const REGAIN_TIMEOUT_MS = 10_000

/** What went through a door. */
interface Part {
  readonly worker: Worker
  readonly door: Place
  readonly given: Given
}

export function createGiving({ workers, counted, isOver, trouble: tell }: GivingParts): Giving {
  let doors: readonly Place[] = []
  /** Of those that give: what a silent one has stays with it. */
  const doorOf = new Map<Worker, Place>()
  /** Whoever was behind it has died, or is not to be trusted with more. */
  const closed = new Set<Place>()

  async function lead(worker: Worker, door: Place): Promise<void> {
    await answered(worker, async (wire) => {
      await wire.ask('give', [door], STEP_TIMEOUT_MS)
      doorOf.set(worker, door)
    })
  }

  async function open(all: readonly Place[]): Promise<void> {
    doors = all
    closed.clear()
    doorOf.clear()
    const able = workers.filter(({ wire, silence }) => wire !== null && silence.ms === null)
    await each(able, (worker, at) => lead(worker, all[at % all.length] as Place))
  }

  async function offer(): Promise<number> {
    const told = await each([...doorOf.keys()], offerOf)
    return sum(told.map((tunnels) => tunnels ?? 0))
  }

  function offerOf(worker: Worker): Promise<number | undefined> {
    return answered(worker, (wire) => wire.ask('offer', [], STEP_TIMEOUT_MS))
  }

  /**
   * One worker after the other: fewer threads want the processor at a time, and a release that can't carry tunnels gets no
   * more than the first few.
   */
  async function give(): Promise<Outcome> {
    const parts: Part[] = []
    for (const worker of [...doorOf.keys()]) {
      if (worker.silence.ms !== null) continue
      const trouble = await giveOf(worker, parts)
      if (trouble === null) continue
      // A release with a worker that hangs is none to go on with.
      if (!isCarried(parts) || parts.some(({ given }) => given.isSilent)) return outcomeOf(parts, trouble)
      tell(new HeadraceError('process-silent', trouble))
    }
    return outcomeOf(parts, isOver() ? 'the program is to end' : null)
  }

  /** What a worker of the new release that has died does not take, another one of it gets. Why the rest stays, or null. */
  async function giveOf(worker: Worker, parts: Part[]): Promise<string | null> {
    while (!isOver()) {
      // One that dies takes its tunnels along, but for those that are given.
      const given = await answered(worker, giveAway, HANG_MS).catch(() => undefined)
      const door = doorOf.get(worker)
      if (given === undefined || door === undefined) return null
      parts.push({ worker, door, given })
      if (given.trouble === null || given.isSilent) return given.trouble
      closed.add(door)
      if (!isCarried(parts) || !(await leadElsewhere(worker))) return given.trouble
    }
    return null
  }

  /** Also if it comes late. */
  async function giveAway(wire: Wire<WorkerAnswers>): Promise<Given> {
    const given = await wire.ask('giveAway', [], Number.POSITIVE_INFINITY)
    counted(given.counted)
    return given
  }

  async function leadElsewhere(worker: Worker): Promise<boolean> {
    for (const door of doors.filter((one) => !closed.has(one))) {
      try {
        await lead(worker, door)
        await offerOf(worker)
        return true
      } catch (error) {
        tell(asHeadraceError(error))
        closed.add(door)
      }
    }
    return false
  }

  function isCarried(parts: readonly Part[]): boolean {
    return parts.some(({ door, given }) => !closed.has(door) && given.shares.length > 0)
  }

  function outcomeOf(parts: readonly Part[], trouble: string | null): Outcome {
    const shares = parts.flatMap(({ door, given }) => (closed.has(door) ? [] : given.shares))
    const last = new Map(parts.map(({ worker, given }) => [worker, given.stayed]))
    const silent = workers.filter((worker) => !last.has(worker))
    const stayed = sum([...last.values(), ...silent.map(({ silence }) => silence.tunnels)])
    const given = sum(parts.map((part) => tunnelsIn(part.given.shares) + part.given.lost))
    return { shares, lost: given - tunnelsIn(shares), stayed, trouble }
  }

  /** Rejects with what the first of them has thrown, when all are done. */
  async function each<Value>(
    some: readonly Worker[],
    ask: (worker: Worker, at: number) => Promise<Value>,
  ): Promise<Value[]> {
    const answers = await Promise.allSettled(some.map(async (worker, at) => await ask(worker, at)))
    return answers.map((answer) => {
      if (answer.status === 'rejected') throw answer.reason
      return answer.value
    })
  }

  /** Undefined: it has died, or is silent for so long, and does it when it goes on. Rejects with what it throws. */
  async function answered<Value>(
    worker: Worker,
    ask: (wire: Wire<WorkerAnswers>) => Promise<Value>,
    silentMs = 0,
  ): Promise<Value | undefined> {
    const { wire } = worker
    if (wire === null) return undefined
    let isOver = false
    const asked = ask(wire).catch(async (error: unknown) => {
      // Of one that dies its channel is closed first.
      await pause(LOOK_MS)
      if (worker.wire === wire) throw error
      return undefined
    })
    const silent = async () => {
      do await pause(LOOK_MS)
      while (!isOver && (worker.silence.ms ?? -1) < silentMs)
      return undefined
    }
    try {
      return await Promise.race([asked, silent()])
    } finally {
      isOver = true
    }
  }

  return {
    open,
    offer,
    give,
    async giveUp(mayEnd) {
      await Promise.allSettled(workers.map(({ wire }) => wire?.ask('giveUp', [mayEnd])))
    },
    async settle() {
      await Promise.allSettled(
        [...doorOf.keys()].map((worker) =>
          answered(worker, (wire) => wire.ask('settle', [], SETTLE_TIMEOUT_MS)),
        ),
      )
    },
    async regain() {
      const asked = workers.map(({ wire }) => wire?.ask('regain', [REGAIN_TIMEOUT_MS], REGAIN_TIMEOUT_MS * 2))
      const answers = await Promise.allSettled(asked)
      const back = answers.flatMap((one): Returned[] =>
        one.status === 'fulfilled' && one.value !== undefined ? [one.value] : [],
      )
      return {
        tunnels: sum(back.map(({ tunnels }) => tunnels)),
        counted: back.flatMap(({ counted }) => counted),
        silent: [...new Set(back.flatMap(({ silent }) => silent))],
      }
    },
  }
}

export function tunnelsIn(shares: readonly Share[]): number {
  return sum(shares.map(({ tunnels }) => tunnels))
}

/** The pause that so many of the moved tunnels were not longer than. */
export function pauseOf(shares: readonly Share[], part: number): number {
  const all = [...shares].sort((one, other) => one.pauseMs - other.pauseMs)
  const total = tunnelsIn(all)
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
