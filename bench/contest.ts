// A contest: the same work given to several proxies in turn, in short rounds, and what each of them spent on it.

import { setTimeout as sleep } from 'node:timers/promises'
import type { Accounting } from './accounting/accounting.ts'
import type { Traffic } from './accounting/netstat.ts'
import { openNetstat } from './accounting/netstat.ts'
import type { Spending } from './accounting/windows.ts'
import type { Bound, Busy } from './bound.ts'
import { boundOf, busyOf } from './bound.ts'
import { connectionsAtOrigins, reset } from './crowd.ts'
import type { Figure, Parameters, Result } from './figures.ts'
import { figure, quantile } from './figures.ts'
import type { PeerKind } from './peers/peer.ts'
import type { Stand, StandOptions } from './stand.ts'
import { withStands } from './stand.ts'

/** Played and not counted: compilers and caches get warm. */
const WARM_UP_ROUNDS = 2
/** All are at work when the accounts are opened, and still when they are closed. */
const LEAD_MS = 30
/** A round of which less was undisturbed says nothing. */
const LEAST_CLEAN_NS = 20e6

export interface Contest extends StandOptions {
  readonly scenario: string
  readonly rounds: number
  readonly roundMs: number
  readonly plays: readonly Play[]
}

export interface Play {
  readonly title: string
  readonly parameters: Parameters
  readonly unit: Unit
  /** By which counter of the kernel the units are told that fell into clean windows. */
  readonly counter: keyof Traffic
  /** Before the first round. */
  prepare(stand: Stand): Promise<void>
  round(stand: Stand, ms: number): Promise<Score>
}

/** What is counted. */
export interface Unit {
  readonly one: string
  readonly many: string
  /** What one costs is told in. */
  readonly cost: 's' | 'µs'
}

export interface Score {
  /** Units that were done. */
  readonly count: number
  /** Milliseconds that single ones took, if that is of interest. */
  readonly waits?: Float64Array
}

interface Round {
  /** Seconds of CPU for each unit. */
  readonly proxy: number
  readonly kernel: number
  readonly machine: number
  readonly perSecond: number
  readonly busy: Busy
  readonly cleanShare: number
  /** Of one CPU. */
  readonly samplerShare: number
  readonly waits: Float64Array | undefined
}

interface Played {
  readonly stand: Stand
  /** Undefined: it was disturbed. */
  readonly rounds: (Round | undefined)[]
}

/**
 * Rounds A B C A B C: what disturbs the machine for a while disturbs all. `direct` has no TLS, and is left out then.
 */
export async function hold(
  kinds: readonly PeerKind[],
  accounting: Accounting,
  contest: Contest,
): Promise<Result[]> {
  const contestants = kinds.filter(({ name }) => !contest.tls || name !== 'direct')
  return await withStands(contestants, contest, async (stands) => {
    const results: Result[] = []
    const warmUp = Math.min(WARM_UP_ROUNDS, contest.rounds)
    for (const play of contest.plays) {
      for (const stand of stands) await play.prepare(stand)
      const played = stands.map((stand): Played => ({ stand, rounds: [] }))
      for (let turn = 0; turn < warmUp + contest.rounds; turn += 1) {
        for (const { stand, rounds } of played) {
          const round = await measured(stand, accounting, play, contest.roundMs)
          if (turn >= warmUp) rounds.push(round)
        }
      }
      results.push(...played.map((one) => resultOf(contest.scenario, play, one, played)))
    }
    // Throws what an origin has seen go wrong.
    for (const stand of stands) await connectionsAtOrigins(stand)
    for (const stand of stands) await reset(stand)
    return results
  })
}

async function measured(
  stand: Stand,
  accounting: Accounting,
  play: Play,
  ms: number,
): Promise<Round | undefined> {
  const before = netstat()
  const playing = play.round(stand, ms)
  const accounts = sleep(LEAD_MS).then(() => accounting.during(stand.pids, ms - 2 * LEAD_MS))
  const [score, spent] = await Promise.all([playing, accounts])
  const after = netstat()
  const units = (spent[play.counter] / (after[play.counter] - before[play.counter])) * score.count
  const isIdle = stand.isProxy && spent.proxy + spent.kernel === 0
  if (spent.wall < LEAST_CLEAN_NS || units === 0 || isIdle) return undefined
  return roundOf(stand, spent, units, score.waits)
}

const netstat = openNetstat()

function roundOf(stand: Stand, spent: Spending, units: number, waits: Float64Array | undefined): Round {
  const { proxy, kernel, load, origin, wall } = spent
  return {
    proxy: proxy / units / 1e9,
    kernel: kernel / units / 1e9,
    machine: (proxy + kernel + load + origin) / units / 1e9,
    perSecond: units / (wall / 1e9),
    busy: busyOf(spent, stand),
    cleanShare: spent.clean / spent.windows,
    samplerShare: spent.sampler / wall,
    waits,
  }
}

/** What the proxy spent, and what the kernel's threads did for it. */
const costOf = ({ proxy, kernel }: Round) => proxy + kernel

/** The peers that others are compared with. */
const YARDSTICKS = ['haproxy', 'nginx']

/**
 * What a unit costs, as a multiple of what it costs another proxy in the same turn: neighbours in time had the same
 * machine, so that this says more than two medians.
 */
function comparisons(one: Played, played: readonly Played[]): Figure[] {
  const others = played.filter(({ stand }) => stand !== one.stand && YARDSTICKS.includes(stand.name))
  return others.map(({ stand, rounds }) => {
    const ratios = one.rounds.flatMap((round, turn) => {
      const other = rounds[turn]
      return round === undefined || other === undefined ? [] : costOf(round) / costOf(other)
    })
    return figure(`× ${stand.name}`, ratios)
  })
}

function resultOf(scenario: string, play: Play, one: Played, played: readonly Played[]): Result {
  const { title, parameters, unit } = play
  const rounds = one.rounds.flatMap((round) => round ?? [])
  const about = { scenario, title, parameters, subject: one.stand.name }
  if (rounds.length === 0) {
    const note = `${one.stand.name}: in no round was enough done while every CPU was there`
    return { ...about, figures: [], note }
  }
  const bound = boundOf(medianBusy(rounds))
  const compared = comparisons(one, played)
  return {
    ...about,
    bound,
    figures: figuresOf(unit, rounds, bound, one.stand.isProxy ? compared : null),
  }
}

function figuresOf(
  unit: Unit,
  rounds: readonly Round[],
  bound: Bound,
  compared: readonly Figure[] | null,
): Figure[] {
  const of = (name: string, value: (round: Round) => number) => figure(name, rounds.map(value))
  const scale = unit.cost === 'µs' ? 1e6 : 1
  const cost = [
    of(`CPU ${unit.cost} per ${unit.one}`, (round) => costOf(round) * scale),
    ...(compared ?? []),
    of('kernel threads of it', ({ kernel }) => kernel * scale),
    of(`${unit.many} per CPU second`, (round) => 1 / costOf(round)),
  ]
  const perSecond = of(`${unit.many} per second`, (round) => round.perSecond)
  return [
    ...(compared === null ? [] : cost),
    of('whole machine', ({ machine }) => machine * scale),
    compared !== null && bound !== 'proxy' ? { ...perSecond, isLowerBound: true } : perSecond,
    ...waitsOf(rounds),
    of('busy %: proxy', ({ busy }) => 100 * busy.proxy),
    of('origin', ({ busy }) => 100 * busy.origin),
    of('client', ({ busy }) => 100 * busy.load),
    of('CPUs of both', ({ busy }) => 100 * busy.loadCpus),
    of('clean %', ({ cleanShare }) => 100 * cleanShare),
    of('sampler %', ({ samplerShare }) => 100 * samplerShare),
  ]
}

/** Of each round its own, then the median of the rounds. */
function waitsOf(rounds: readonly Round[]): Figure[] {
  const sorted = rounds.flatMap(({ waits }) => (waits === undefined ? [] : [waits.slice().sort()]))
  if (sorted.length === 0) return []
  return [
    figure(
      'ms to 101: p50',
      sorted.map((waits) => quantile(waits, 0.5)),
    ),
    figure(
      'p99',
      sorted.map((waits) => quantile(waits, 0.99)),
    ),
  ]
}

function medianBusy(rounds: readonly Round[]): Busy {
  const of = (name: keyof Busy) =>
    figure(
      name,
      rounds.map(({ busy }) => busy[name]),
    ).median
  return { proxy: of('proxy'), load: of('load'), origin: of('origin'), loadCpus: of('loadCpus') }
}
