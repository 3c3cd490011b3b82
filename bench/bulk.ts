// Bulk: long transfers on a few tunnels, up or down. What a GB costs the proxy. Both ends know what must come, and compare
// every byte.

import type { Contest, Play } from './contest.ts'
import { hold } from './contest.ts'
import { openUpTo, play, reset } from './crowd.ts'
import type { Result } from './figures.ts'
import type { Surroundings } from './scenario.ts'
import { attempt } from './scenario.ts'

const SIZES = {
  full: { tunnels: 8, bytes: 8 * 1024 * 1024, rounds: 7, roundMs: 600 },
  smoke: { tunnels: 2, bytes: 1024 * 1024, rounds: 1, roundMs: 150 },
} as const

const MIB = 1024 * 1024

export async function bulk(surroundings: Surroundings): Promise<readonly Result[]> {
  const { kinds, accounting, options, progress } = surroundings
  const { tunnels, bytes, rounds, roundMs } = options.smoke ? SIZES.smoke : SIZES.full
  const results: Result[] = []
  for (const tls of [false, true]) {
    const what = `bulk: ${tunnels} ${tls ? 'TLS' : 'plain'} tunnels`
    progress(`${what}, ${rounds} rounds up and down`)
    const contest: Contest = {
      scenario: 'bulk',
      rounds,
      roundMs,
      tls,
      tunnels,
      withProfile: options.profile,
      plays: [transfers('up', bytes, tunnels, tls), transfers('down', bytes, tunnels, tls)],
    }
    results.push(...(await attempt(surroundings, what, () => hold(kinds, accounting, contest))))
  }
  return results
}

function transfers(kind: 'up' | 'down', bytes: number, tunnels: number, tls: boolean): Play {
  return {
    title: `bulk: ${bytes / MIB} MiB at a time ${kind} ${tunnels} ${tls ? 'TLS' : 'plain'} tunnels`,
    parameters: { direction: kind, tunnels, tls },
    unit: { one: 'GB', many: 'GB', cost: 's' },
    counter: 'octets',
    async prepare(stand) {
      await reset(stand)
      await openUpTo(stand, tunnels, { kind, size: bytes })
    },
    async round(stand, ms) {
      const { answers } = await play(stand, ms, bytes)
      return { count: (answers * bytes) / 1e9 }
    },
  }
}
