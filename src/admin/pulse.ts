// What the page gets each second: what is open, and what happened per second since the last look, of all workers together.

import type { SpikeState } from '../gate/seats.ts'
import type { Account, Activity, Notable, NotableTunnel, RefusalRecord } from '../observe/activity.ts'
import { NOTABLE_COUNT, REFUSALS_KEPT } from '../observe/activity.ts'
import type { GateReport, ServiceRecord, Status, WorkerStatus } from '../operations.ts'
import type { BackendStatus } from '../service/status.ts'

/** `open` is a number of tunnels, all others are per second; the last two are bytes. */
export interface Flow {
  open: number
  opened: number
  ended: number
  refused: number
  clientToOrigin: number
  originToClient: number
}

/** What is looked at for one of them. */
export interface Look {
  readonly status: Status
  readonly services: readonly ServiceRecord[]
  readonly backends: readonly BackendStatus[]
  readonly gates: readonly GateReport[]
  readonly activity: readonly Activity[]
}

export interface Pulse {
  /** Epoch milliseconds. */
  readonly at: number
  readonly isDraining: boolean
  readonly total: Readonly<Flow>
  /** `spike`: null if the service expects no number, or nobody has come yet. */
  readonly services: readonly (ServiceRecord & {
    readonly flow: Readonly<Flow>
    readonly spike: SpikeState | null
  })[]
  readonly backends: readonly (BackendStatus & { readonly flow: Readonly<Flow> })[]
  /** `eventLoop`: null while there is no process. */
  readonly workers: readonly (WorkerStatus & {
    readonly open: number
    readonly eventLoop: Activity['eventLoop'] | null
  })[]
  readonly notable: Notable
}

/** Without a `before`, and for a worker that was not there then, nothing has happened yet. */
export function pulseOf(
  at: number,
  { status, services, backends, gates, activity }: Look,
  before: Look | null,
): Pulse {
  const total = noFlow()
  const byService = new Map<string, Flow>()
  const byBackend = new Map<string, Flow>()
  for (const now of activity) {
    const then = before?.activity.find(({ life }) => life === now.life) ?? now
    const earlier = new Map(then.accounts.map((account) => [keyOf(account), account]))
    const seconds = (now.at - then.at) / 1_000
    for (const account of now.accounts) {
      const flow = flowOf(account, earlier.get(keyOf(account)), seconds)
      add(total, flow)
      add(entryOf(byService, account.service), flow)
      add(entryOf(byBackend, keyOf(account)), flow)
    }
  }
  return {
    at,
    isDraining: status.isDraining,
    total: rounded(total),
    services: services.map((one) => ({
      ...one,
      flow: rounded(byService.get(one.id) ?? noFlow()),
      spike: gates.find(({ service }) => service === one.id)?.spike ?? null,
    })),
    backends: backends.map((one) => {
      const key = keyOf({ service: one.service, backend: one.name })
      return { ...one, flow: rounded(byBackend.get(key) ?? noFlow()) }
    }),
    workers: status.workers.map((worker) => {
      const { accounts = [], eventLoop = null } = activity.find((one) => one.process === worker.name) ?? {}
      const open = accounts.reduce((sum, { opened, ended }) => sum + opened - ended, 0)
      return { ...worker, open, eventLoop }
    }),
    notable: notableOf(activity.map(({ notable }) => notable)),
  }
}

/** The latest of all, the latest first. */
export function refusalsOf(activity: readonly Activity[]): readonly RefusalRecord[] {
  const all = activity.flatMap(({ refusals }) => refusals)
  return all.sort((one, other) => other.at - one.at).slice(0, REFUSALS_KEPT)
}

function noFlow(): Flow {
  return { open: 0, opened: 0, ended: 0, refused: 0, clientToOrigin: 0, originToClient: 0 }
}

/** No id and no name has a line break in it. */
function keyOf({ service, backend }: Pick<Account, 'service' | 'backend'>): string {
  return `${service}\n${backend}`
}

function entryOf(flows: Map<string, Flow>, key: string): Flow {
  const known = flows.get(key) ?? noFlow()
  flows.set(key, known)
  return known
}

function flowOf(account: Account, earlier: Account | undefined, seconds: number): Flow {
  const open = account.opened - account.ended
  if (seconds <= 0) return { ...noFlow(), open }
  const perSecond = (key: keyof Omit<Flow, 'open'>) => (account[key] - (earlier?.[key] ?? 0)) / seconds
  return {
    open,
    opened: perSecond('opened'),
    ended: perSecond('ended'),
    refused: perSecond('refused'),
    clientToOrigin: perSecond('clientToOrigin'),
    originToClient: perSecond('originToClient'),
  }
}

function add(sum: Flow, flow: Flow): void {
  for (const key of Object.keys(flow) as (keyof Flow)[]) sum[key] += flow[key]
}

/** A second is never quite one: what is shown need not say so. */
function rounded({ open, opened, ended, refused, clientToOrigin, originToClient }: Flow): Flow {
  const tenths = (rate: number) => Math.round(rate * 10) / 10
  return {
    open,
    opened: tenths(opened),
    ended: tenths(ended),
    refused: tenths(refused),
    clientToOrigin: Math.round(clientToOrigin),
    originToClient: Math.round(originToClient),
  }
}

function notableOf(all: readonly Notable[]): Notable {
  const merged = (which: keyof Notable, rankOf: (tunnel: NotableTunnel) => number) =>
    all
      .flatMap((one) => one[which])
      .sort((one, other) => rankOf(other) - rankOf(one))
      .slice(0, NOTABLE_COUNT)
  return {
    slowest: merged('slowest', ({ setUpMs }) => setUpMs),
    oldest: merged('oldest', ({ startedAt }) => -Date.parse(startedAt)),
    biggest: merged('biggest', ({ bytes }) => bytes.clientToOrigin + bytes.originToClient),
  }
}
