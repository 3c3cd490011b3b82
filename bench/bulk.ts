// Bulk: large messages there and back on a few tunnels, both ways at once. What a GB costs the proxy, each way counted. Every
// byte that comes back is compared.

import { hold } from './contest.ts'
import type { Result } from './figures.ts'
import type { Options } from './options.ts'
import type { PeerKind } from './peers/peer.ts'

const SIZES = {
  full: { tunnels: 8, messageSize: 8 * 1024 * 1024, rounds: 20, roundMs: 700 },
  smoke: { tunnels: 2, messageSize: 1024 * 1024, rounds: 2, roundMs: 150 },
} as const

const MIB = 1024 * 1024

export async function bulk(
  kinds: readonly PeerKind[],
  options: Options,
  progress: (line: string) => void,
): Promise<Result[]> {
  const { tunnels, messageSize, rounds, roundMs } = options.smoke ? SIZES.smoke : SIZES.full
  const title = `bulk: ${messageSize / MIB} MiB there and back on ${tunnels} plain tunnels`
  progress(`${title}, ${rounds} rounds`)
  return await hold(kinds, {
    title,
    unit: 'GB',
    rounds,
    tls: false,
    withProfile: options.profile,
    prepare: ({ client, target }) => client.call('open', target, tunnels, messageSize),
    async play({ client }) {
      const { roundTrips, seconds } = await client.call('pingPong', roundMs)
      return { count: (roundTrips * 2 * messageSize) / 1e9, seconds }
    },
    finish: ({ client }) => client.call('close'),
  })
}
