// Observed: many open tunnels over two workers, some of them talking at a fixed rate, in quiet and while an operator lists
// all tunnels, scrapes metrics and has the page open. What the looking adds to how long an answer takes.

import { setTimeout as sleep } from 'node:timers/promises'
import type { Talk } from './climb.ts'
import { talkOf } from './climb.ts'
import { askEach, connectionsAtOrigins, openUpTo, pace, reset } from './crowd.ts'
import type { Figure, Result } from './figures.ts'
import { figure } from './figures.ts'
import { limitAgainst } from './limits.ts'
import type { Watched, WatcherCalls } from './load/watcher.ts'
import type { HeadraceProgram } from './peers/headrace-program.ts'
import { startHeadraceProgram } from './peers/headrace-program.ts'
import type { PeerKind } from './peers/peer.ts'
import type { Process } from './process.ts'
import { startProcess } from './process.ts'
import type { Surroundings } from './scenario.ts'
import { attempt } from './scenario.ts'
import type { Stand } from './stand.ts'
import { withStand } from './stand.ts'

const WORKERS = 2
const SIZES = {
  full: { tunnels: 9_000, share: 0.01, perSecond: 2_000, rounds: 5, roundMs: 4_000 },
  smoke: { tunnels: 300, share: 0.1, perSecond: 500, rounds: 1, roundMs: 300 },
} as const

const WARM_UP_MS = 500
/** The accounts are open a little longer than the talk lasts: each answer's stalls are known. */
const LEAD_MS = 50

interface Pair {
  readonly quiet: Talk
  readonly observed: Talk
  readonly watched: Watched
}

export async function observed(surroundings: Surroundings): Promise<readonly Result[]> {
  const { kinds, options, progress } = surroundings
  const headrace = kinds.find(({ name }) => name === 'headrace')
  if (headrace === undefined) return []
  const size = options.smoke ? SIZES.smoke : SIZES.full
  const title = `observed: ${size.tunnels.toLocaleString('en')} tunnels over ${WORKERS} workers, ${size.perSecond.toLocaleString('en')} messages a second on ${size.share * 100} % of them`
  const about = { scenario: 'observed', title, parameters: { tunnels: size.tunnels, workers: WORKERS } }
  const reason = limitAgainst(size.tunnels)
  if (reason !== null) return [{ ...about, subject: headrace.name, figures: [], note: reason }]
  progress(`${title}, ${size.rounds} rounds of quiet and observed`)
  return await attempt(surroundings, 'observed', async () => {
    const pairs = await withProgram(headrace, size.tunnels, (stand, watcher, admin) =>
      played(surroundings, stand, watcher, admin, size),
    )
    return [
      { ...about, subject: 'quiet', figures: figuresOf(pairs.map(({ quiet }) => quiet)) },
      {
        ...about,
        subject: 'observed',
        figures: [...figuresOf(pairs.map((one) => one.observed)), ...addedBy(pairs)],
      },
    ]
  })
}

/** The stand of one proxy, which is a program, and somebody who watches it. */
async function withProgram<Value>(
  headrace: PeerKind,
  tunnels: number,
  run: (stand: Stand, watcher: Process<WatcherCalls>, admin: string) => Promise<Value>,
): Promise<Value> {
  let program: HeadraceProgram | undefined
  const kind: PeerKind = {
    ...headrace,
    async start(options) {
      program = await startHeadraceProgram(options, WORKERS)
      return program
    },
  }
  return await withStand(kind, { tls: false, tunnels, withProfile: false }, async (stand) => {
    const module = new URL('./load/watcher.js', import.meta.url)
    const watcher = await startProcess<WatcherCalls>('watcher', module, { cpus: stand.placement.load })
    try {
      return await run(stand, watcher, program?.admin ?? '')
    } finally {
      await watcher.stop()
    }
  })
}

type Size = (typeof SIZES)[keyof typeof SIZES]

async function played(
  { accounting }: Surroundings,
  stand: Stand,
  watcher: Process<WatcherCalls>,
  admin: string,
  { tunnels, share, perSecond, rounds, roundMs }: Size,
): Promise<Pair[]> {
  await openUpTo(stand, tunnels, { kind: 'echo', size: 64 })

  async function talk(): Promise<Talk> {
    const accounts = accounting.during(stand.pids, roundMs + 2 * LEAD_MS)
    await sleep(LEAD_MS)
    const paced = await pace(stand, { share, perSecond }, roundMs)
    return talkOf(share, paced, await accounts)
  }

  // Not counted: code that has not run yet is slow.
  await Promise.all([
    pace(stand, { share: 1, perSecond }, WARM_UP_MS),
    watcher.call('watch', admin, WARM_UP_MS),
  ])
  const pairs: Pair[] = []
  for (let round = 0; round < rounds; round += 1) {
    const quiet = await talk()
    const watching = watcher.call('watch', admin, roundMs + 2 * LEAD_MS)
    const [observed, watched] = await Promise.all([talk(), watching])
    if (watched.tunnels !== tunnels) throw new Error(`${watched.tunnels} of ${tunnels} tunnels were listed`)
    pairs.push({ quiet, observed, watched })
  }
  // Idle, but alive, every one of them.
  await askEach(stand)
  const open = await connectionsAtOrigins(stand)
  if (open !== tunnels) throw new Error(`the origins have ${open} connections for ${tunnels} tunnels`)
  await reset(stand)
  return pairs
}

function figuresOf(talks: readonly Talk[]): Figure[] {
  const of = (name: string, value: (talk: Talk) => number) => figure(name, talks.map(value))
  return [
    of('ms p50', ({ p50 }) => p50),
    of('ms p99', ({ p99 }) => p99),
    of('CPU µs per message', ({ cpuUs }) => cpuUs),
    of('clean %', ({ cleanShare }) => cleanShare * 100),
    of('sent late, ms p99', ({ lateP99 }) => lateP99),
  ]
}

/** Rounds that were neighbours in time are compared. */
function addedBy(pairs: readonly Pair[]): Figure[] {
  const of = (name: string, value: (pair: Pair) => number) => figure(name, pairs.map(value))
  return [
    of('added ms p50', ({ quiet, observed }) => observed.p50 - quiet.p50),
    of('added ms p99', ({ quiet, observed }) => observed.p99 - quiet.p99),
    of('listings', ({ watched }) => watched.listings),
    of('scrapes', ({ watched }) => watched.scrapes),
    of('pulses', ({ watched }) => watched.pulses),
  ]
}
