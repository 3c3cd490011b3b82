// What goes on in this process, for whoever watches it: counters that only grow, so that two looks give the rates, the last
// refusals, and the tunnels that stand out. Nobody looks, nothing is walked; who looks costs one turn of the event loop for
// each thousand tunnels.

import { endName } from '../end.ts'
import { entry } from '../errors.ts'
import type { TunnelRecord } from '../tunnel/listing.ts'
import { recordOf } from '../tunnel/listing.ts'
import type { Registry } from '../tunnel/registry.ts'
import type { Tunnel } from '../tunnel/tunnel.ts'
import type { EventLoopDelay } from './event-loop.ts'
import { pathOf } from './lines.ts'
import type { Observer, Refused } from './observer.ts'
import { topOf } from './top.ts'

/** Of one backend; or of what had no service or no backend yet, which are '' then. */
export interface Account {
  readonly service: string
  readonly backend: string
  opened: number
  ended: number
  refused: number
  clientToOrigin: number
  originToClient: number
}

export interface RefusalRecord {
  readonly id: string
  /** Epoch milliseconds. */
  readonly at: number
  readonly code: string
  /** What the client got; null: no answer. */
  readonly status: number | null
  readonly end: string
  readonly service: string
  readonly backend: string
  readonly client: string
  /** The rule, rate or limit of the gate that refused it; '' if none did. */
  readonly rule: string
  /** Without the query. */
  readonly path: string
  readonly detail: string
}

export interface NotableTunnel extends TunnelRecord {
  /** From accept to the 101. */
  readonly setUpMs: number
}

/** The open tunnels that stand out, each list from the most to the least. */
export interface Notable {
  readonly slowest: readonly NotableTunnel[]
  readonly oldest: readonly NotableTunnel[]
  readonly biggest: readonly NotableTunnel[]
}

export interface Activity {
  /** Such as `worker-0`. */
  readonly process: string
  /** Another one for whoever takes its place: counters begin anew with it. */
  readonly life: string
  /** Milliseconds of a clock that no setting changes. */
  readonly at: number
  readonly accounts: readonly Readonly<Account>[]
  /** How late the event loop was in the last quarter of a minute, in seconds. */
  readonly eventLoop: Pick<EventLoopDelay, 'mean' | 'max'>
  /** The last ones, the latest first. */
  readonly refusals: readonly RefusalRecord[]
  readonly notable: Notable
}

export interface ActivityCounter {
  /** The same observer, and what it is told is counted. */
  counting(observer: Observer): Observer
  report(): Promise<Activity>
}

export const REFUSALS_KEPT = 50
export const NOTABLE_COUNT = 10

/** What a client sends may be long: of what is kept of it, so many characters. */
const MAX_TEXT_LENGTH = 300

export function createActivity(
  name: string,
  life: string,
  tunnels: Registry,
  eventLoopDelay: () => EventLoopDelay,
): ActivityCounter {
  const accounts = new Map<string, Account>()
  const refusals: RefusalRecord[] = []

  function accountOf(service: string, backend: string): Account {
    const key = `${service}\n${backend}`
    const known = accounts.get(key)
    if (known !== undefined) return known
    const account = {
      service,
      backend,
      opened: 0,
      ended: 0,
      refused: 0,
      clientToOrigin: 0,
      originToClient: 0,
    }
    accounts.set(key, account)
    return account
  }

  /** What has moved since somebody looked last; so each byte is counted once, whenever its tunnel ends. */
  function countBytes(tunnel: Tunnel, account: Account): void {
    const { clientToOrigin = 0, originToClient = 0 } = tunnel.splicing ?? {}
    account.clientToOrigin += clientToOrigin - tunnel.seenToOrigin
    account.originToClient += originToClient - tunnel.seenToClient
    tunnel.seenToOrigin = clientToOrigin
    tunnel.seenToClient = originToClient
  }

  function refused(request: Refused, error: Parameters<Observer['refused']>[1], status?: number): void {
    const { id, phase, client, service, backend, head } = request
    const { who, how, status: usual } = entry(error.code)
    accountOf(service ?? '', backend ?? '').refused += 1
    refusals.unshift({
      id,
      at: Date.now(),
      code: error.code,
      status: status ?? usual,
      end: endName(who, how, phase),
      service: service ?? '',
      backend: backend ?? '',
      client: client?.address ?? '',
      rule: error.rule ?? '',
      path: head === null ? '' : shortened(pathOf(head)),
      detail: shortened(error.detail),
    })
    if (refusals.length > REFUSALS_KEPT) refusals.pop()
  }

  return {
    counting: (observer) => ({
      ...observer,
      accepted(tunnel, ...rest) {
        accountOf(tunnel.facts.service, tunnel.backend.options.name).opened += 1
        observer.accepted(tunnel, ...rest)
      },
      closed(tunnel, end) {
        const account = accountOf(tunnel.facts.service, tunnel.backend.options.name)
        account.ended += 1
        countBytes(tunnel, account)
        observer.closed(tunnel, end)
      },
      moved(tunnel, where, bytes) {
        const account = accountOf(tunnel.facts.service, tunnel.backend.options.name)
        if (where === 'out') countBytes(tunnel, account)
        else {
          tunnel.seenToOrigin = bytes.clientToOrigin
          tunnel.seenToClient = bytes.originToClient
        }
        observer.moved(tunnel, where, bytes)
      },
      refused(...given) {
        refused(...given)
        observer.refused(...given)
      },
    }),
    async report() {
      const slowest = topOf(NOTABLE_COUNT, setUpOf)
      const oldest = topOf(NOTABLE_COUNT, ({ facts }: Tunnel) => -facts.startedAt)
      const biggest = topOf(
        NOTABLE_COUNT,
        ({ seenToOrigin, seenToClient }: Tunnel) => seenToOrigin + seenToClient,
      )
      await tunnels.walk((tunnel) => {
        countBytes(tunnel, accountOf(tunnel.facts.service, tunnel.backend.options.name))
        slowest.offer(tunnel)
        oldest.offer(tunnel)
        biggest.offer(tunnel)
      })
      const { mean, max } = eventLoopDelay()
      return {
        process: name,
        life,
        at: performance.now(),
        accounts: [...accounts.values()],
        eventLoop: { mean, max },
        refusals: [...refusals],
        notable: {
          slowest: slowest.items().map(notable),
          oldest: oldest.items().map(notable),
          biggest: biggest.items().map(notable),
        },
      }
    },
  }
}

function notable(tunnel: Tunnel): NotableTunnel {
  return { ...recordOf(tunnel), setUpMs: setUpOf(tunnel) / 1_000 }
}

/** In microseconds, as the phases are. */
function setUpOf({ facts: { phases } }: Tunnel): number {
  const { accept, tls, head, gate, decide, dial, answer } = phases
  return accept + tls + head + gate + decide + dial + answer
}

function shortened(text: string): string {
  return text.length > MAX_TEXT_LENGTH ? `${text.slice(0, MAX_TEXT_LENGTH)}…` : text
}
