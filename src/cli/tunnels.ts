// `headrace tunnels list` and `headrace tunnels end`.

import type { TunnelPage, TunnelRecord } from '../tunnel/listing.ts'
import { LONGEST_PAGE, PAGE_LIMIT } from '../tunnel/listing.ts'
import { load } from './config.ts'
import { askRunning } from './control-client.ts'
import { table } from './table.ts'
import { UsageError } from './usage-error.ts'

export interface ListOptions {
  readonly service?: string
  readonly limit?: string
  readonly json?: boolean
}

/** As many pages as it takes. */
export async function listTunnels(
  file: string,
  { service, limit, json = false }: ListOptions,
): Promise<number> {
  const wanted = limit === undefined ? PAGE_LIMIT : Number(limit)
  if (!Number.isInteger(wanted) || wanted < 1) throw new UsageError(`"${limit}" is no number of tunnels`)
  const config = await load(file)
  if (config === null) return 1
  const tunnels: TunnelRecord[] = []
  let total = 0
  let cursor: string | null = null
  do {
    const query = new URLSearchParams({ limit: String(Math.min(LONGEST_PAGE, wanted - tunnels.length)) })
    if (service !== undefined) query.set('service', service)
    if (cursor !== null) query.set('cursor', cursor)
    const page: TunnelPage = await askRunning(config, { method: 'GET', path: `/tunnels?${query}` })
    tunnels.push(...page.tunnels)
    total = page.total
    cursor = page.next
  } while (cursor !== null && tunnels.length < wanted)
  if (json) for (const one of tunnels) process.stdout.write(`${JSON.stringify(one)}\n`)
  else process.stdout.write(`${table(HEAD, tunnels.map(row))}${tunnels.length} of ${total} tunnels\n`)
  return 0
}

const HEAD = ['id', 'service', 'backend', 'client', 'started', 'to origin', 'to client', 'engine']

function row({ id, service, backend, client, startedAt, bytes, engine }: TunnelRecord): string[] {
  const { clientToOrigin, originToClient } = bytes
  return [id, service, backend, client, startedAt, String(clientToOrigin), String(originToClient), engine]
}

export interface EndOptions {
  readonly service?: string
  readonly reset?: boolean
}

export async function endTunnels(
  file: string,
  id: string | undefined,
  { service, reset = false }: EndOptions,
): Promise<number> {
  if ((id === undefined) === (service === undefined)) {
    throw new UsageError('write tunnels end ID, or tunnels end --service ID')
  }
  const config = await load(file)
  if (config === null) return 1
  const query = new URLSearchParams({ how: reset ? 'reset' : 'fin' })
  if (service !== undefined) query.set('service', service)
  const path = `/tunnels${id === undefined ? '' : `/${encodeURIComponent(id)}`}?${query}`
  const { ended } = await askRunning<{ readonly ended: number }>(config, { method: 'DELETE', path })
  process.stdout.write(`tunnels that end now: ${ended}\n`)
  return 0
}
