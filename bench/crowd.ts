// What the clients of a stand do together.

import { TUNNELS_PER_PROXY } from './limits.ts'
import type { Churned } from './load/churning.ts'
import type { Opened, Order } from './load/opening.ts'
import type { Paced } from './load/pacing.ts'
import type { Played } from './load/playing.ts'
import type { Traffic } from './load/traffic.ts'
import type { Stand } from './stand.ts'

/** Handshakes under way at once, all clients together. */
const LANES = 64

/** Opens tunnels until so many are open, through as few of the stand's proxies as can have them. */
export async function openUpTo(stand: Stand, total: number, traffic: Traffic): Promise<Opened> {
  const perPeer = assign(stand, total)
  const orders = stand.clients.map((_, client): Order => {
    const targets = stand.peers.map(({ address }, peer) => ({
      address,
      count: share(perPeer[peer] ?? 0, client, stand.clients.length),
    }))
    const lanes = Math.ceil(LANES / stand.clients.length)
    return { targets, source: sourceOf(client), tls: stand.tls, traffic, lanes }
  })
  const startedAt = performance.now()
  const parts = await Promise.all(stand.clients.map((one, at) => one.call('open', orders[at] as Order)))
  for (const [peer, count] of perPeer.entries()) stand.open[peer] = (stand.open[peer] ?? 0) + count
  return {
    seconds: (performance.now() - startedAt) / 1_000,
    waits: joined(parts.map(({ waits }) => waits)),
  }
}

/** How many more through each proxy: those that have the fewest get them. */
function assign({ open }: Stand, total: number): number[] {
  const needed = Math.ceil(total / TUNNELS_PER_PROXY)
  const more = open.map(() => 0)
  const aim = Math.ceil(total / needed)
  let missing = total - open.reduce((sum, count) => sum + count, 0)
  for (const [peer, count] of open.slice(0, needed).entries()) {
    const taken = Math.min(missing, Math.max(0, aim - count))
    more[peer] = taken
    missing -= taken
  }
  return more
}

/** Part `index` of `parts` equal ones. */
function share(count: number, index: number, parts: number): number {
  return Math.floor((count * (index + 1)) / parts) - Math.floor((count * index) / parts)
}

/** 127.0.0.1 is everybody's: the clients come from others, each with all the ports of an address. */
function sourceOf(client: number): string {
  return `127.0.0.${2 + client}`
}

export async function askEach({ clients }: Stand): Promise<void> {
  await Promise.all(clients.map((one) => one.call('askEach')))
}

export async function play({ clients }: Stand, ms: number, size: number): Promise<Played> {
  const parts = await Promise.all(clients.map((one) => one.call('play', ms, size)))
  return {
    answers: parts.reduce((sum, { answers }) => sum + answers, 0),
    seconds: Math.max(...parts.map(({ seconds }) => seconds)),
  }
}

export interface Rate {
  readonly share: number
  /** Questions per second, all clients together. */
  readonly perSecond: number
}

export async function pace({ clients, tls }: Stand, rate: Rate, ms: number): Promise<Paced> {
  const order = { share: rate.share, perSecond: rate.perSecond / clients.length, ms, tls }
  const parts = await Promise.all(clients.map((one) => one.call('pace', order)))
  return {
    askedAt: joined(parts.map(({ askedAt }) => askedAt)),
    tookMs: joined(parts.map(({ tookMs }) => tookMs)),
    lateMs: joined(parts.map(({ lateMs }) => lateMs)),
  }
}

/** Opens and closes tunnels that carry nothing. */
export async function churn(stand: Stand, ms: number, lanes: number): Promise<Churned> {
  const targets = stand.peers.map(({ address }) => ({ address, count: 0 }))
  const parts = await Promise.all(
    stand.clients.map((one, client) => {
      const order: Order = {
        targets,
        source: sourceOf(client),
        tls: stand.tls,
        traffic: { kind: 'echo', size: 0 },
        lanes: Math.ceil(lanes / stand.clients.length),
      }
      return one.call('churn', order, ms)
    }),
  )
  return {
    upgrades: parts.reduce((sum, { upgrades }) => sum + upgrades, 0),
    seconds: Math.max(...parts.map(({ seconds }) => seconds)),
    waits: joined(parts.map(({ waits }) => waits)),
  }
}

/** Ends all tunnels. */
export async function reset({ clients, open }: Stand): Promise<void> {
  await Promise.all(clients.map((one) => one.call('reset')))
  open.fill(0)
}

/** How many connections the origins have. Throws what they have seen go wrong. */
export async function connectionsAtOrigins({ origins }: Stand): Promise<number> {
  const counts = await Promise.all(origins.map((one) => one.call('open')))
  return counts.reduce((sum, count) => sum + count, 0)
}

function joined(parts: readonly Float64Array[]): Float64Array {
  const all = new Float64Array(parts.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const part of parts) {
    all.set(part, at)
    at += part.length
  }
  return all
}
