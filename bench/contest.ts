// A contest: the same work given to several proxies in turn, in short rounds, and what each of them spent on it.

import { cpuNs } from './cpu.ts'
import type { Figure, Result } from './figures.ts'
import { figure } from './figures.ts'
import type { PeerKind } from './peers/peer.ts'
import type { Stand } from './stand.ts'
import { withStands } from './stand.ts'

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

/** A score, and the seconds of CPU that the three processes of the stand spent for it. */
interface Round extends Score {
  readonly proxy: number
  readonly origin: number
  readonly client: number
}

/**
 * Rounds A B C A B C: what disturbs the machine for a while disturbs all. The first round of each is a warm-up and not
 * counted. `direct` has no TLS, and takes part without.
 */
export async function hold(kinds: readonly PeerKind[], contest: Contest): Promise<Result[]> {
  const { title, unit, tls, withProfile } = contest
  const contestants = kinds.filter(({ name }) => !tls || name !== 'direct')
  return await withStands(contestants, { tls, withProfile }, async (stands) => {
    const played = stands.map((stand): { stand: Stand; rounds: Round[] } => ({ stand, rounds: [] }))
    for (const stand of stands) await contest.prepare(stand)
    for (let turn = 0; turn <= contest.rounds; turn += 1) {
      for (const { stand, rounds } of played) {
        const round = await measured(stand, () => contest.play(stand))
        if (turn > 0) rounds.push(round)
      }
    }
    for (const stand of stands) {
      await contest.finish(stand)
      // Throws what the origin has seen go wrong.
      await stand.origin.call('open')
    }
    return played.map(({ stand, rounds }) => ({
      title,
      subject: stand.name,
      figures: figuresOf(unit, rounds),
    }))
  })
}

async function measured({ peer, origin, client }: Stand, play: () => Promise<Score>): Promise<Round> {
  const spent = () => [peer.pids, [origin.pid], [client.pid]].map(cpuNs)
  const before = spent()
  const score = await play()
  const [proxy = 0, ofOrigin = 0, ofClient = 0] = spent().map((ns, at) => (ns - (before[at] ?? 0)) / 1e9)
  return { ...score, proxy, origin: ofOrigin, client: ofClient }
}

/** How busy each was: where the proxy is not near 100 %, its units per second were not bound by it alone. */
function figuresOf(unit: string, rounds: readonly Round[]): Figure[] {
  const of = (name: string, value: (round: Round) => number) => figure(name, rounds.map(value))
  const cost = [
    of(`CPU µs per ${unit}`, ({ proxy, count }) => (proxy / count) * 1e6),
    of(`${unit}s per CPU second`, ({ proxy, count }) => count / proxy),
  ]
  return [
    ...(rounds.some(({ proxy }) => proxy > 0) ? cost : []),
    of(`${unit}s per second`, ({ count, seconds }) => count / seconds),
    of('busy %: proxy', ({ proxy, seconds }) => (100 * proxy) / seconds),
    of('origin', ({ origin, seconds }) => (100 * origin) / seconds),
    of('client', ({ client, seconds }) => (100 * client) / seconds),
  ]
}
