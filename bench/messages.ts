// Messages: small ones there and back, the next as soon as one has come back, on many tunnels at once. What a relayed message
// costs the proxy, each way counted as one.

import type { Contest, Play } from './contest.ts'
import { hold } from './contest.ts'
import { openUpTo, play } from './crowd.ts'
import type { Result } from './figures.ts'
import type { Surroundings } from './scenario.ts'
import { attempt } from './scenario.ts'

/** How many tunnels; that many TLS sessions more are a scenario of memory, not of relaying. */
const SIZES = {
  full: { plain: [100, 5_000], tls: [100, 1_000], rounds: 7, roundMs: 500 },
  smoke: { plain: [20], tls: [10], rounds: 1, roundMs: 150 },
} as const

const BYTES = [64, 1_024] as const

export async function messages(surroundings: Surroundings): Promise<readonly Result[]> {
  const { kinds, accounting, options, progress } = surroundings
  const { rounds, roundMs, ...counts } = options.smoke ? SIZES.smoke : SIZES.full
  const results: Result[] = []
  for (const tls of [false, true]) {
    for (const tunnels of tls ? counts.tls : counts.plain) {
      const what = `messages: ${tunnels} ${tls ? 'TLS' : 'plain'} tunnels`
      progress(`${what}, ${rounds} rounds of each size`)
      const contest: Contest = {
        scenario: 'messages',
        rounds,
        roundMs,
        tls,
        tunnels,
        withProfile: options.profile,
        plays: BYTES.map((bytes) => pingPong(bytes, tunnels, tls)),
      }
      results.push(...(await attempt(surroundings, what, () => hold(kinds, accounting, contest))))
    }
  }
  return results
}

function pingPong(bytes: number, tunnels: number, tls: boolean): Play {
  return {
    title: `messages: ${bytes} B there and back on ${tunnels} ${tls ? 'TLS' : 'plain'} tunnels`,
    parameters: { bytes, tunnels, tls },
    unit: { one: 'message', many: 'messages', cost: 'µs' },
    counter: 'segments',
    // The same tunnels for both sizes.
    async prepare(stand) {
      await openUpTo(stand, tunnels, { kind: 'echo', size: bytes })
    },
    async round(stand, ms) {
      const { answers } = await play(stand, ms, bytes)
      return { count: answers * 2 }
    },
  }
}
