// Concurrency: more and more tunnels through each proxy, all idle, then 1 % and 10 % of them talking. What a tunnel costs in
// memory, how long it takes to be there, and whether those that talk notice the others.

import { setTimeout as sleep } from 'node:timers/promises'
import { tcpSockets } from './accounting/proc.ts'
import type { Climb, Rung, Talk } from './climb.ts'
import { climb } from './climb.ts'
import type { Figure, Result } from './figures.ts'
import { figure } from './figures.ts'
import { limitAgainst } from './limits.ts'
import type { PeerKind } from './peers/peer.ts'
import type { Surroundings } from './scenario.ts'
import { attempt } from './scenario.ts'
import { withStand } from './stand.ts'

/** Numbers of tunnels that each proxy is taken up to, one after the other, in so many passes A B C A B C. */
export interface Ladder {
  readonly tls: boolean
  readonly counts: readonly number[]
  readonly passes: number
  /** Rounds of talking at each count and share, in each pass. */
  readonly rounds: number
  /** Questions per second. */
  readonly perSecond: number
}

/** Up to 20,000 everything is done three times over; beyond, opening takes too long for that. */
const LADDERS: readonly Ladder[] = [
  { tls: false, counts: [1_000, 5_000, 10_000, 20_000], passes: 3, rounds: 1, perSecond: 5_000 },
  { tls: false, counts: [50_000, 100_000], passes: 1, rounds: 3, perSecond: 5_000 },
  { tls: true, counts: [1_000, 5_000], passes: 1, rounds: 3, perSecond: 2_000 },
]
/** TLS is in the other scenarios, too. */
const SMOKE_LADDERS: readonly Ladder[] = [
  { tls: false, counts: [300], passes: 1, rounds: 1, perSecond: 1_000 },
]

const FULL = { warmUp: 300, patienceMs: 4_000, idleMs: 500, talkMs: 2_000 }
const SMOKE = { warmUp: 10, patienceMs: 300, idleMs: 200, talkMs: 200 }

/** How long the sockets of those that were before are waited for. */
const LEAVING_MS = 10_000
const LEFT_SOCKETS = 1_000

export async function concurrency(surroundings: Surroundings): Promise<readonly Result[]> {
  const { options } = surroundings
  const results: Result[] = []
  for (const ladder of options.smoke ? SMOKE_LADDERS : LADDERS) {
    const counts = options.tunnels === null ? ladder.counts : countsOf(ladder, options.tunnels)
    if (counts.length > 0) results.push(...(await climbAll({ ...ladder, counts }, surroundings)))
  }
  return results
}

/** Of the counts that were asked for, those that this ladder is for. */
function countsOf(ladder: Ladder, wanted: readonly number[]): number[] {
  const plain = LADDERS.filter(({ tls }) => !tls)
  return wanted.filter((count) =>
    ladder.tls
      ? ladder.counts.includes(count)
      : ladder.counts === (plain.find(({ counts }) => count <= Math.max(...counts)) ?? plain.at(-1))?.counts,
  )
}

async function climbAll(ladder: Ladder, surroundings: Surroundings): Promise<Result[]> {
  const { kinds, options, progress } = surroundings
  const contestants = kinds.filter(({ name }) => !ladder.tls || name !== 'direct')
  const climbs = new Map<PeerKind, Rung[]>(contestants.map((kind) => [kind, []]))
  const notes: Result[] = []
  for (let pass = 0; pass < ladder.passes; pass += 1) {
    for (const [kind, rungs] of climbs) {
      const { counts, left } = within(kind, ladder)
      if (pass === 0) notes.push(...left)
      const most = counts.at(-1)
      // Without a proxy there is little that could change.
      if (most === undefined || (pass > 0 && !kind.isProxy)) continue
      progress(
        `concurrency: ${kind.name} up to ${most.toLocaleString('en')} ${ladder.tls ? 'TLS' : 'plain'} tunnels, pass ${pass + 1} of ${ladder.passes}`,
      )
      const { rounds, perSecond } = ladder
      const plan: Climb = { ...(options.smoke ? SMOKE : FULL), rounds, perSecond }
      await quiet()
      const about = { tls: ladder.tls, tunnels: most, withProfile: options.profile }
      rungs.push(
        ...(await attempt(surroundings, `${kind.name}, up to ${most} tunnels`, () =>
          withStand(kind, about, (stand) => climb(stand, surroundings.accounting, counts, plan)),
        )),
      )
    }
  }
  return [...[...climbs].flatMap(([{ name }, rungs]) => resultsOf(name, ladder, rungs)), ...notes]
}

/** The counts that it can be taken up to, and of the others what keeps it from them. */
function within(kind: PeerKind, { tls, counts }: Ladder): { counts: number[]; left: Result[] } {
  const reasons = counts.map((count) => {
    const { most, why } = kind.hopelessAbove ?? { most: Number.POSITIVE_INFINITY, why: '' }
    return count > most ? `left out above ${most.toLocaleString('en')} tunnels: ${why}` : limitAgainst(count)
  })
  return {
    counts: counts.filter((_, at) => reasons[at] === null),
    left: counts.flatMap((tunnels, at) => {
      const reason = reasons[at]
      if (reason === null || reason === undefined) return []
      const note = `${kind.name}: ${reason}`
      return [{ ...titled(tunnels, tls, 'idle'), subject: kind.name, figures: [], note }]
    }),
  }
}

/** Until what the one before has left behind is gone. */
async function quiet(): Promise<void> {
  const until = performance.now() + LEAVING_MS
  while (tcpSockets() > LEFT_SOCKETS && performance.now() < until) await sleep(100)
}

function titled(tunnels: number, tls: boolean, what: 'idle' | 'talking') {
  const kind = tls ? 'TLS' : 'plain'
  return {
    scenario: 'concurrency',
    title: `concurrency: ${tunnels.toLocaleString('en')} ${kind} tunnels, ${what === 'idle' ? 'all idle' : 'some of them talking'}`,
    parameters: { tunnels, tls, what },
  }
}

function resultsOf(subject: string, { tls, counts }: Ladder, rungs: readonly Rung[]): Result[] {
  return counts.flatMap((tunnels) => {
    const passes = rungs.filter((rung) => rung.tunnels === tunnels)
    if (passes.length === 0) return []
    return [
      { ...titled(tunnels, tls, 'idle'), subject, figures: idleFigures(passes) },
      { ...titled(tunnels, tls, 'talking'), subject, figures: talkFigures(passes) },
    ]
  })
}

const KIB = 1_024

function idleFigures(passes: readonly Rung[]): Figure[] {
  const of = (name: string, value: (rung: Rung) => number) => figure(name, passes.map(value))
  const hasProxy = passes.some(({ processBytes }) => processBytes > 0)
  const ofProxy = [
    of('process KiB per tunnel', ({ grownBytes, tunnels }) => grownBytes / tunnels / KIB),
    of('process MiB', ({ processBytes }) => processBytes / KIB / KIB),
    of('idle CPU ms/s', ({ idleShare }) => idleShare * 1_000),
  ]
  return [
    ...(hasProxy ? ofProxy : []),
    of('kernel KiB per tunnel', ({ kernelBytes, tunnels }) => kernelBytes / tunnels / KIB),
    of('opened per second', ({ openedPerSecond }) => openedPerSecond),
    of('ms to 101: p50', ({ openMs }) => openMs.p50),
    of('p99', ({ openMs }) => openMs.p99),
  ]
}

function talkFigures(passes: readonly Rung[]): Figure[] {
  const talks = passes.flatMap((rung) => rung.talks)
  const shares = [...new Set(talks.map(({ share }) => share))]
  return shares.flatMap((share) => {
    const ofShare = talks.filter((talk) => talk.share === share)
    const of = (what: string, value: (talk: Talk) => number) =>
      figure(`${share * 100} %: ${what}`, ofShare.map(value).filter(Number.isFinite))
    return [
      of('ms p50', ({ p50 }) => p50),
      of('ms p99', ({ p99 }) => p99),
      of('CPU µs per message', ({ cpuUs }) => cpuUs),
      of('clean %', ({ cleanShare }) => cleanShare * 100),
      of('sent late, ms p99', ({ lateP99 }) => lateP99),
    ]
  })
}
