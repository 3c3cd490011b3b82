// Churn: tunnels are opened, verified by their 101, and closed in order, again and again. What an upgrade costs the proxy
// from accept to close, and how long clients wait for it when it is busy.

import type { Contest } from './contest.ts'
import { hold } from './contest.ts'
import { churn as churnOf } from './crowd.ts'
import type { Result } from './figures.ts'
import type { Surroundings } from './scenario.ts'
import { attempt } from './scenario.ts'

const SIZES = {
  full: { lanes: 32, rounds: 7, roundMs: 1_000 },
  smoke: { lanes: 8, rounds: 1, roundMs: 150 },
} as const

export async function churn(surroundings: Surroundings): Promise<readonly Result[]> {
  const { kinds, accounting, options, progress } = surroundings
  const { lanes, rounds, roundMs } = options.smoke ? SIZES.smoke : SIZES.full
  const results: Result[] = []
  for (const tls of [false, true]) {
    const what = `churn: open, 101, close, ${lanes} at a time, ${tls ? 'TLS' : 'plain'}`
    progress(`${what}, ${rounds} rounds`)
    const contest: Contest = {
      scenario: 'churn',
      rounds,
      roundMs,
      tls,
      tunnels: lanes,
      withProfile: options.profile,
      plays: [
        {
          title: what,
          parameters: { lanes, tls },
          unit: { one: 'upgrade', many: 'upgrades', cost: 'µs' },
          counter: 'segments',
          async prepare() {},
          async round(stand, ms) {
            const { upgrades, waits } = await churnOf(stand, ms, lanes)
            return { count: upgrades, waits }
          },
        },
      ],
    }
    results.push(...(await attempt(surroundings, what, () => hold(kinds, accounting, contest))))
  }
  return results
}
