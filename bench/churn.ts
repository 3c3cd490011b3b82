// Churn: tunnels are opened, verified by their 101, and closed in order, again and again. What an upgrade costs the proxy
// from accept to close.

import { hold } from './contest.ts'
import type { Result } from './figures.ts'
import type { Options } from './options.ts'
import type { PeerKind } from './peers/peer.ts'

const SIZES = {
  full: { lanes: 32, rounds: 30, roundMs: 500 },
  smoke: { lanes: 8, rounds: 2, roundMs: 150 },
} as const

export async function churn(
  kinds: readonly PeerKind[],
  options: Options,
  progress: (line: string) => void,
): Promise<Result[]> {
  const { lanes, rounds, roundMs } = options.smoke ? SIZES.smoke : SIZES.full
  const results: Result[] = []
  for (const tls of options.tls ? [false, true] : [false]) {
    const title = `churn: open, 101, close, ${lanes} at a time, ${tls ? 'TLS' : 'plain'}`
    progress(`${title}, ${rounds} rounds`)
    const contest = hold(kinds, {
      title,
      unit: 'upgrade',
      rounds,
      tls,
      withProfile: options.profile,
      async prepare() {},
      async play({ client, target }) {
        const { upgrades, seconds } = await client.call('churn', target, roundMs, lanes)
        return { count: upgrades, seconds }
      },
      async finish() {},
    })
    results.push(...(await contest))
  }
  return results
}
