// A test stand: an origin, a proxy in front of it, and the clients, each a process of its own. The scenarios build one for
// each proxy that takes part.

import { selfSigned } from '../test/support/certificates.ts'
import type { ClientCalls } from './load/client.ts'
import type { OriginCalls } from './load/origin.ts'
import type { Target } from './load/tunnel.ts'
import type { Peer, PeerKind } from './peers/peer.ts'
import type { Process } from './process.ts'
import { startProcess } from './process.ts'

export interface Stand {
  readonly name: string
  readonly peer: Peer
  readonly origin: Process<OriginCalls>
  readonly client: Process<ClientCalls>
  /** What the clients connect to. */
  readonly target: Target
  stop(): Promise<void>
}

export interface StandOptions {
  /** With TLS between clients and proxy. */
  readonly tls: boolean
  readonly withProfile: boolean
}

export async function startStand(kind: PeerKind, { tls, withProfile }: StandOptions): Promise<Stand> {
  const [origin, client] = await Promise.all([
    startProcess<OriginCalls>(`origin of ${kind.name}`, new URL('./load/origin.js', import.meta.url)),
    startProcess<ClientCalls>(`client of ${kind.name}`, new URL('./load/client.js', import.meta.url)),
  ])
  const certificate = tls ? await selfSigned({ names: ['localhost'] }) : null
  const peer = await kind.start({ origin: await origin.call('listen'), tls: certificate, withProfile })
  return {
    name: kind.name,
    peer,
    origin,
    client,
    target: { address: peer.address, tls },
    async stop() {
      await client.stop()
      await peer.stop()
      await origin.stop()
    },
  }
}

/** Starts a stand for each proxy, and stops them all, whatever happens in between. */
export async function withStands<Value>(
  kinds: readonly PeerKind[],
  options: StandOptions,
  run: (stands: readonly Stand[]) => Promise<Value>,
): Promise<Value> {
  const stands: Stand[] = []
  try {
    for (const kind of kinds) stands.push(await startStand(kind, options))
    return await run(stands)
  } finally {
    await Promise.all(stands.map((stand) => stand.stop()))
  }
}
