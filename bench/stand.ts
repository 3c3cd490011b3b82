// A test stand: origins, a proxy in front of them, and the clients, each a process of its own, or several where one may not
// open enough descriptors. The scenarios build one for each proxy that takes part.

import { selfSigned } from '../test/support/certificates.ts'
import type { Pids } from './accounting/sampler.ts'
import { crewFor } from './limits.ts'
import type { ClientCalls } from './load/client.ts'
import type { OriginCalls } from './load/origin.ts'
import type { Peer, PeerKind } from './peers/peer.ts'
import type { Placement } from './placement.ts'
import { placementFor } from './placement.ts'
import type { Calls, Process } from './process.ts'
import { startProcess } from './process.ts'

export interface Stand {
  readonly name: string
  /** False: the clients are connected with the origins, which then run where a proxy would. */
  readonly isProxy: boolean
  readonly tls: boolean
  readonly placement: Placement
  readonly peers: readonly Peer[]
  readonly origins: readonly Process<OriginCalls>[]
  readonly clients: readonly Process<ClientCalls>[]
  readonly pids: Pids
  /** How many tunnels are open through each of the peers. */
  readonly open: number[]
  stop(): Promise<void>
}

export interface StandOptions {
  /** With TLS between clients and proxy. */
  readonly tls: boolean
  /** The most that will be open at once. */
  readonly tunnels: number
  readonly withProfile: boolean
}

async function startStand(kind: PeerKind, { tls, tunnels, withProfile }: StandOptions): Promise<Stand> {
  const crew = crewFor(tunnels, tls)
  const placement = placementFor(crew.proxies)
  const peers: Peer[] = []
  const processes: { stop(): Promise<void> }[] = []
  const stop = async () => {
    await Promise.all(processes.map((one) => one.stop()))
    await Promise.all(peers.map((one) => one.stop()))
  }
  const start = async <Known extends Calls<Known>>(name: string, cpus: string | null) => {
    const module = new URL(`./load/${name}.js`, import.meta.url)
    const started = await startProcess<Known>(`${name} of ${kind.name}`, module, { cpus })
    processes.push(started)
    return started
  }
  try {
    const origins = await Promise.all(
      times(crew.origins, () =>
        start<OriginCalls>('origin', kind.isProxy ? placement.load : placement.proxy),
      ),
    )
    const clients = await Promise.all(times(crew.clients, () => start<ClientCalls>('client', placement.load)))
    const certificate = tls ? await selfSigned({ names: ['localhost'] }) : null
    for (let index = 0; index < crew.proxies; index += 1) {
      const origin = (await origins[index % origins.length]?.call('listen')) ?? ''
      peers.push(await kind.start({ origin, tls: certificate, withProfile, cpus: placement.proxy }))
    }
    return {
      name: kind.name,
      isProxy: kind.isProxy,
      tls,
      placement,
      peers,
      origins,
      clients,
      pids: {
        proxy: peers.flatMap(({ pids }) => pids),
        load: clients.map(({ pid }) => pid),
        origin: origins.map(({ pid }) => pid),
      },
      open: peers.map(() => 0),
      stop,
    }
  } catch (error) {
    await stop()
    throw error
  }
}

function times<Value>(count: number, make: () => Value): Value[] {
  return Array.from({ length: count }, make)
}

/** Starts a stand for each proxy, and stops them all, whatever happens in between. */
export async function withStands<Value>(
  kinds: readonly PeerKind[],
  options: StandOptions,
  run: (stands: readonly Stand[]) => Promise<Value>,
): Promise<Value> {
  const started = await Promise.allSettled(kinds.map((kind) => startStand(kind, options)))
  const stands = started.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []))
  try {
    for (const one of started) if (one.status === 'rejected') throw one.reason
    return await run(stands)
  } finally {
    await Promise.all(stands.map((stand) => stand.stop()))
  }
}

/** The same for one. */
export async function withStand<Value>(
  kind: PeerKind,
  options: StandOptions,
  run: (stand: Stand) => Promise<Value>,
): Promise<Value> {
  const stand = await startStand(kind, options)
  try {
    return await run(stand)
  } finally {
    await stand.stop()
  }
}
