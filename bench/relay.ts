// Relay: small messages there and back, the next one as soon as one has come back, on many tunnels at once. What a relayed
// message costs the proxy, each way counted as one. Every byte that comes back is compared.

import { hold } from './contest.ts'
import type { Result } from './figures.ts'
import type { Options } from './options.ts'
import type { PeerKind } from './peers/peer.ts'

const SIZES = {
  full: { rounds: 30, roundMs: 500 },
  smoke: { rounds: 2, roundMs: 150 },
} as const

const SMOKE_TUNNELS = [20]
const MESSAGE_SIZE = 64

export async function relay(
  kinds: readonly PeerKind[],
  options: Options,
  progress: (line: string) => void,
): Promise<Result[]> {
  const { rounds, roundMs } = options.smoke ? SIZES.smoke : SIZES.full
  const results: Result[] = []
  for (const tls of options.tls ? [false, true] : [false]) {
    for (const tunnels of options.smoke ? SMOKE_TUNNELS : options.tunnels) {
      // That many TLS sessions are a scenario of memory, not of relaying.
      if (tls && tunnels > 100) continue
      const title = `relay: ${MESSAGE_SIZE} B there and back on ${tunnels} ${tls ? 'TLS' : 'plain'} tunnels`
      progress(`${title}, ${rounds} rounds`)
      const contest = hold(kinds, {
        title,
        unit: 'message',
        rounds,
        tls,
        withProfile: options.profile,
        prepare: ({ client, target }) => client.call('open', target, tunnels, MESSAGE_SIZE),
        async play({ client }) {
          const { roundTrips, seconds } = await client.call('pingPong', roundMs)
          return { count: roundTrips * 2, seconds }
        },
        finish: ({ client }) => client.call('close'),
      })
      results.push(...(await contest))
    }
  }
  return results
}
