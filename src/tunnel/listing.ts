// Which tunnels are open, page by page: what is asked for, what a tunnel looks like from outside, and how the pages of
// several processes become one. Everything here is JSON.

import type { AddressList } from '../accept/addresses.ts'
import { addressList } from '../accept/addresses.ts'
import type { EngineName } from '../engine/engine.ts'
import { HeadraceError } from '../errors.ts'
import type { Registry } from './registry.ts'
import type { Tunnel } from './tunnel.ts'

/** A tunnel is meant if all that is said is true of it. */
export interface TunnelFilter {
  readonly service?: string | undefined
  readonly backend?: string | undefined
  /** An address, or a CIDR block. */
  readonly client?: string | undefined
  readonly minAgeMs?: number | undefined
  /** Both directions together. */
  readonly minBytes?: number | undefined
}

export type TunnelOrder = 'oldest' | 'newest' | 'biggest'

export interface TunnelQuery extends TunnelFilter {
  /** Default oldest: what is opened meanwhile comes last. Bytes change between pages: `biggest` may skip or repeat. */
  readonly order?: TunnelOrder | undefined
  /** `next` of the page before. */
  readonly cursor?: string | undefined
  /** Default 100, at most 1000. */
  readonly limit?: number | undefined
}

export interface TunnelRecord {
  readonly id: string
  readonly service: string
  readonly backend: string
  readonly engine: EngineName
  readonly listener: string
  /** '' on a Unix socket. */
  readonly client: string
  readonly origin: string
  readonly startedAt: string
  readonly durationMs: number
  readonly bytes: { readonly clientToOrigin: number; readonly originToClient: number }
}

export interface TunnelPage {
  readonly tunnels: readonly TunnelRecord[]
  /** All that the filter takes, on whatever page. */
  readonly total: number
  /** Null on the last page. */
  readonly next: string | null
}

export const TUNNEL_ORDERS = ['oldest', 'newest', 'biggest'] as const
export const PAGE_LIMIT = 100
export const LONGEST_PAGE = 1_000

/** One page. Other work gets its turn meanwhile, however many tunnels there are. Throws argument-invalid. */
export async function listTunnels(registry: Registry, query: TunnelQuery): Promise<TunnelPage> {
  const { order = 'oldest', limit = PAGE_LIMIT } = query
  const matches = matcher(query)
  const after = query.cursor === undefined ? undefined : parseCursor(query.cursor)
  let best: Ranked[] = []
  let total = 0
  await registry.walk((tunnel) => {
    if (!matches(tunnel)) return
    total += 1
    const ranked = { rank: RANKS[order](tunnel), id: tunnel.facts.id, tunnel }
    if (after !== undefined && byRank(ranked, after) <= 0) return
    best.push(ranked)
    // One more than asked for tells whether there is another page.
    if (best.length > 2 * limit + 1) best = first(best, limit + 1)
  })
  const page = first(best, limit + 1)
  const tunnels = page.slice(0, limit).map(({ tunnel }) => recordOf(tunnel))
  const last = page.length > limit ? page[limit - 1] : undefined
  return { tunnels, total, next: last === undefined ? null : cursorOf(last) }
}

/** One page of the pages of several processes, asked the same. */
export function mergePages(pages: readonly TunnelPage[], query: TunnelQuery): TunnelPage {
  const { order = 'oldest', limit = PAGE_LIMIT } = query
  const all = pages.flatMap(({ tunnels }) => tunnels).map((record) => rankedRecord(record, order))
  const sorted = first(all, all.length)
  const isMore = sorted.length > limit || pages.some(({ next }) => next !== null)
  const last = sorted[Math.min(limit, sorted.length) - 1]
  return {
    tunnels: sorted.slice(0, limit).map(({ record }) => record),
    total: pages.reduce((sum, { total }) => sum + total, 0),
    next: isMore && last !== undefined ? cursorOf(last) : null,
  }
}

/** Throws argument-invalid. */
export function matcher(filter: TunnelFilter): (tunnel: Tunnel) => boolean {
  const { service, backend, minAgeMs = 0, minBytes = 0 } = filter
  const clients = filter.client === undefined ? null : clientList(filter.client)
  const latest = Date.now() - minAgeMs
  return (tunnel) => {
    const { facts } = tunnel
    if (service !== undefined && facts.service !== service) return false
    if (backend !== undefined && tunnel.backend.options.name !== backend) return false
    if (minAgeMs > 0 && facts.startedAt > latest) return false
    if (minBytes > 0 && bytesOf(tunnel) < minBytes) return false
    return clients?.has(facts.clientAddress) ?? true
  }
}

function clientList(client: string): AddressList {
  try {
    return addressList([client])
  } catch {
    throw new HeadraceError(
      'argument-invalid',
      `client ${JSON.stringify(client)} is no address and no CIDR block`,
    )
  }
}

interface Rank {
  readonly rank: number
  readonly id: string
}

interface Ranked extends Rank {
  readonly tunnel: Tunnel
}

/** The lowest comes first. */
const RANKS: Readonly<Record<TunnelOrder, (tunnel: Tunnel) => number>> = {
  oldest: ({ facts }) => facts.startedAt,
  newest: ({ facts }) => -facts.startedAt,
  biggest: (tunnel) => -bytesOf(tunnel),
}

function rankedRecord(record: TunnelRecord, order: TunnelOrder) {
  const { id, startedAt, bytes } = record
  const started = Date.parse(startedAt)
  const rank = { oldest: started, newest: -started, biggest: -(bytes.clientToOrigin + bytes.originToClient) }
  return { rank: rank[order], id, record }
}

function byRank(one: Rank, other: Rank): number {
  return one.rank - other.rank || (one.id < other.id ? -1 : one.id > other.id ? 1 : 0)
}

function first<Item extends Rank>(ranked: Item[], count: number): Item[] {
  return ranked.sort(byRank).slice(0, count)
}

function cursorOf({ rank, id }: Rank): string {
  return `${rank}.${id}`
}

function parseCursor(cursor: string): Rank {
  const [, rank, id] = /^(-?[0-9]{1,16})\.([0-9a-z-]{1,64})$/.exec(cursor) ?? []
  if (rank === undefined || id === undefined) {
    throw new HeadraceError(
      'argument-invalid',
      `cursor ${JSON.stringify(cursor)} is not the \`next\` of a page`,
    )
  }
  return { rank: Number(rank), id }
}

export function recordOf({ facts, backend, splicing }: Tunnel): TunnelRecord {
  const { id, service, listener, clientAddress, originAddress, startedAt } = facts
  return {
    id,
    service,
    backend: backend.options.name,
    engine: splicing?.engine ?? 'stream',
    listener,
    client: clientAddress,
    origin: originAddress,
    startedAt: new Date(startedAt).toISOString(),
    durationMs: Math.max(0, Date.now() - startedAt),
    bytes: {
      clientToOrigin: splicing?.clientToOrigin ?? 0,
      originToClient: splicing?.originToClient ?? 0,
    },
  }
}

function bytesOf({ splicing }: Tunnel): number {
  return splicing === null ? 0 : splicing.clientToOrigin + splicing.originToClient
}
