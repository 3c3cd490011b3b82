// Opening tunnels: some handshakes at a time, until all are there.

import { dialDescriptor } from './descriptor.ts'
import { ownLoop } from './loop.ts'
import { dialSocket } from './socket.ts'
import type { Traffic } from './traffic.ts'
import type { Player } from './tunnel.ts'
import { Tunnel } from './tunnel.ts'
import { addressOf } from './wire.ts'

export interface Order {
  /** host:port of the proxies, and how many tunnels go through each. */
  readonly targets: readonly { readonly address: string; readonly count: number }[]
  /** Which address of this machine to come from. */
  readonly source: string
  readonly tls: boolean
  readonly traffic: Traffic
  /** How many handshakes are under way at once. */
  readonly lanes: number
}

export interface Opened {
  readonly seconds: number
  /** Milliseconds from the dial to the 101, of each. */
  readonly waits: Float64Array
}

/** Opens the connection of one more tunnel through the proxy at `address`. */
export type Dial = (address: string, player: Player) => Tunnel

/** No two tunnels of a run have the same. */
let count = process.pid * 100_000

export function dial({ source, tls, traffic }: Order, fail: (error: Error) => void): Dial {
  const loop = tls ? null : ownLoop()
  return (address, player) => {
    count += 1
    const to = addressOf(address)
    return new Tunnel({ address, id: count, traffic, player, fail }, (reader) =>
      loop === null ? dialSocket(to, source, tls, reader) : dialDescriptor(loop, to, source, reader),
    )
  }
}

/** `keep` is given each as soon as it is open. */
export function open(
  { targets, lanes }: Order,
  dialNext: Dial,
  keep: (tunnel: Tunnel) => void,
): Promise<Opened> {
  const startedAt = performance.now()
  const addresses = inTurn(targets)
  const waits = new Float64Array(addresses.length)
  let dialled = 0
  let opened = 0
  return new Promise((resolve) => {
    const next = () => {
      const address = addresses[dialled]
      if (address === undefined) return
      dialled += 1
      dialNext(address, player)
    }
    const player: Player = {
      opened(tunnel) {
        waits[opened] = performance.now() - tunnel.askedAt
        opened += 1
        keep(tunnel)
        if (opened === addresses.length) {
          resolve({ seconds: (performance.now() - startedAt) / 1_000, waits })
        } else {
          next()
        }
      },
      answered() {},
      closed() {},
    }
    if (addresses.length === 0) resolve({ seconds: 0, waits })
    for (let lane = 0; lane < lanes; lane += 1) next()
  })
}

/** A B A B A, so that none of the proxies stands idle while another is busy. */
function inTurn(targets: Order['targets']): string[] {
  const most = Math.max(0, ...targets.map(({ count }) => count))
  return Array.from({ length: most }, (_, turn) =>
    targets.flatMap(({ address, count }) => (turn < count ? [address] : [])),
  ).flat()
}
