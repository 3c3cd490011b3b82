// A contest: the same work given to several proxies in turn, in short rounds, and what each of them spent on it.

import { cpuNs, kernelThreadsNs } from './cpu.ts'
import type { Figure, Result } from './figures.ts'
import { figure } from './figures.ts'
import type { PeerKind } from './peers/peer.ts'
import type { Stand } from './stand.ts'
import { withStands } from './stand.ts'

/** Played and not counted: compilers and caches get warm. */
const WARM_UP_ROUNDS = 3

export interface Contest {
  readonly title: string
  /** What is counted: `message`, `upgrade`. */
  readonly unit: string
  readonly rounds: number
  readonly tls: boolean
  readonly withProfile: boolean
  prepare(stand: Stand): Promise<void>
  /** One round; how many units were done in how many seconds. */
  play(stand: Stand): Promise<Score>
  finish(stand: Stand): Promise<void>
}

export interface Score {
  readonly count: number
  readonly seconds: number
}

/** A score, and the seconds of CPU that the three processes of the stand, and the kernel's threads, spent for it. */
interface Round extends Score {
  readonly proxy: number
  readonly kernel: number
  readonly origin: number
  readonly client: number
}

interface Played {
  readonly stand: Stand
  readonly rounds: Round[]
}

/**
 * Rounds A B C A B C: what disturbs the machine for a while disturbs all. `direct` has no TLS, and is left out then.
 */
export async function hold(kinds: readonly PeerKind[], contest: Contest): Promise<Result[]> {
  const { title, unit, tls, withProfile } = contest
  const contestants = kinds.filter(({ name }) => !tls || name !== 'direct')
  return await withStands(contestants, { tls, withProfile }, async (stands) => {
    const played = stands.map((stand): Played => ({ stand, rounds: [] }))
    for (const stand of stands) await contest.prepare(stand)
    for (let turn = 0; turn < WARM_UP_ROUNDS + contest.rounds; turn += 1) {
      for (const { stand, rounds } of played) {
        const round = await measured(stand, () => contest.play(stand))
        if (turn >= WARM_UP_ROUNDS) rounds.push(round)
      }
    }
    for (const stand of stands) {
      await contest.finish(stand)
      // Throws what the origin has seen go wrong.
      await stand.origin.call('open')
    }
    return played.map((one) => ({
      title,
      subject: one.stand.name,
      figures: figuresOf(unit, one.rounds, comparisons(one, played)),
    }))
  })
}

async function measured({ peer, origin, client }: Stand, play: () => Promise<Score>): Promise<Round> {
  const spent = () => [...[peer.pids, [origin.pid], [client.pid]].map(cpuNs), kernelThreadsNs()]
  const before = spent()
  const score = await play()
  const [proxy = 0, ofOrigin = 0, ofClient = 0, kernel = 0] = spent().map(
    (ns, at) => (ns - (before[at] ?? 0)) / 1e9,
  )
  return { ...score, proxy, kernel, origin: ofOrigin, client: ofClient }
}

/** What the proxy spent, and what the kernel's threads did for it. */
const costOf = ({ proxy, kernel, count }: Round) => (proxy + kernel) / count

/** Work that a proxy leaves to whoever sends or receives is not gone. */
const machineCostOf = ({ proxy, kernel, origin, client, count }: Round) =>
  (proxy + kernel + origin + client) / count

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
      return other === undefined ? [] : costOf(round) / costOf(other)
    })
    return figure(`× ${stand.name}`, ratios)
  })
}

/** How busy each was: where the proxy is not near 100 %, its units per second were not bound by it alone. */
function figuresOf(unit: string, rounds: readonly Round[], compared: readonly Figure[]): Figure[] {
  const of = (name: string, value: (round: Round) => number) => figure(name, rounds.map(value))
  const cost = [
    of(`CPU µs per ${unit}`, (round) => costOf(round) * 1e6),
    ...compared,
    of('kernel threads of it', ({ kernel, count }) => (kernel / count) * 1e6),
    of('whole machine', (round) => machineCostOf(round) * 1e6),
  ]
  return [
    ...(rounds.some(({ proxy }) => proxy > 0) ? cost : []),
    of(`${unit}s per second`, ({ count, seconds }) => count / seconds),
    of('busy %: proxy', ({ proxy, seconds }) => (100 * proxy) / seconds),
    of('origin', ({ origin, seconds }) => (100 * origin) / seconds),
    of('client', ({ client, seconds }) => (100 * client) / seconds),
  ]
}
