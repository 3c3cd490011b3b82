// What an operator may ask of a running Headrace and change in it: the same for one edge as for all workers together, and
// for the library as for the admin API. Everything that goes in and comes out is JSON.

import { HeadraceError } from './errors.ts'
import type { CountingLedger } from './gate/ledger.ts'
import type { SpikeState } from './gate/seats.ts'
import type { Activity } from './observe/activity.ts'
import type { MetricsSnapshot } from './observe/metrics.ts'
import type { Service } from './service/service.ts'
import type { BackendStatus } from './service/status.ts'
import { backendStatus } from './service/status.ts'
import type { Switches, SwitchState, SwitchValue } from './service/switch.ts'
import type { DrainProgress } from './tunnel/drain.ts'
import type { TunnelFilter, TunnelPage, TunnelQuery, TunnelRecord } from './tunnel/listing.ts'
import { listTunnels, matcher, recordOf } from './tunnel/listing.ts'
import type { Registry } from './tunnel/registry.ts'
import type { UsageReport } from './usage/report.ts'

export interface Operations {
  /**
   * Switches WebSockets on or off for a service, from now on and for good. Open tunnels live on, unless `closeTunnels`
   * says that off ends them, too. Throws argument-invalid if there is no such service, state-failed if the state can't
   * be kept: then nothing has changed.
   */
  websockets(service: string, value: SwitchValue, options?: SwitchOptions): Promise<Switching>
  /** Throws argument-invalid. */
  tunnels(query?: TunnelQuery): Promise<TunnelPage>
  find(id: string): Promise<TunnelRecord | null>
  /** Resolves with how many tunnels are being ended: in order (FIN), or at once (RST). Throws argument-invalid. */
  end(meant: { readonly id: string } | TunnelFilter, how?: 'fin' | 'reset'): Promise<number>
  services(): Promise<readonly ServiceRecord[]>
  /** How the backends do, in the order of the config: at once, if nobody else has to be asked. */
  backends(): readonly BackendStatus[] | Promise<readonly BackendStatus[]>
  /** What the gates have decided: at once, if nobody else has to be asked. */
  gates(): readonly GateReport[] | Promise<readonly GateReport[]>
  /** All metrics; `renderMetrics` makes of it what Prometheus reads. */
  metrics(): Promise<MetricsSnapshot>
  /**
   * What a UTC month such as `2026-11` cost, up to now: of this month, and of all services, if it isn't said. With a state
   * directory it is that of all processes which share it. Throws argument-invalid.
   */
  usage(month?: string, service?: string): Promise<UsageReport>
  /** What goes on, of each process: who asks again after a while knows the rates. */
  activity(): Promise<readonly Activity[]>
}

export interface GateReport {
  readonly service: string
  /** How many requests each rule, rate and limit has decided or noted, by its name. */
  readonly counts: Readonly<Record<string, number>>
  /** Null if it expects no number, nobody has come yet, or another process counts. */
  readonly spike: SpikeState | null
}

export interface SwitchOptions {
  readonly closeTunnels?: boolean | undefined
}

export interface Switching {
  readonly service: string
  readonly before: SwitchValue
  readonly after: SwitchState
  /** How many open tunnels are being ended. */
  readonly ended: number
}

export interface ServiceRecord extends SwitchState {
  readonly id: string
  readonly domains: readonly string[]
  readonly backends: readonly string[]
  /** How many are open. */
  readonly tunnels: number
}

/** What is different after a reload. */
export interface Changes {
  readonly services: Changed
  readonly listeners: Changed
  /** Keys of the config besides these that have another value. */
  readonly settings: readonly string[]
}

/** Ids of services, addresses of listeners. */
export interface Changed {
  readonly added: readonly string[]
  readonly removed: readonly string[]
  readonly changed: readonly string[]
}

/** Why nothing was changed: what is wrong, where, and what to do. */
export interface ReloadProblem {
  readonly path: string
  readonly reason: string
  readonly remedy: string
  readonly line?: number
  readonly column?: number
}

export type Reloaded =
  | { readonly isDone: true; readonly file: string; readonly changes: Changes; readonly durationMs: number }
  | { readonly isDone: false; readonly file: string; readonly problems: readonly ReloadProblem[] }

/** What only a program can: the config is a file, which can be read again. */
export interface Reloading {
  /**
   * Reads config, handlers, certificates and tokens again: all of it takes effect, or nothing. One at a time; whoever asks
   * meanwhile gets the next one, which begins after that. Throws draining.
   */
  reload(): Promise<Reloaded>
}

/** What a program of several processes says of itself, and how it is asked to end. */
export interface ProgramStatus {
  status(): Promise<Status>
  /**
   * As SIGTERM does; or of one worker: it accepts no more, which its neighbour does meanwhile, and is replaced when its
   * tunnels are over. Resolves when that has begun. Throws argument-invalid if nobody could accept meanwhile.
   */
  drain(wanted: DrainWanted): Promise<Status>
}

export interface DrainWanted {
  /** Undefined: all, and the program. */
  readonly worker?: string | undefined
  /** Instead of the config's. */
  readonly timeoutMs?: number | undefined
}

export interface Status {
  readonly isDraining: boolean
  readonly workers: readonly WorkerStatus[]
  /** The release before, while it still has tunnels that could not be moved. */
  readonly before: { readonly pid: number } | null
}

/** What a program does with a new release of itself. */
export interface Upgrading {
  /**
   * Starts the release that is on the disk now, and gives it the listeners and the tunnels. Resolves when that one is in
   * charge: this one leaves when the last tunnel that could not be moved is over. Throws upgrade-failed: then everything is as
   * it was; upgrade-running, or draining.
   */
  upgrade(): Promise<Upgraded>
}

export interface Upgraded {
  /** Of the new release. */
  readonly pid: number
  readonly version: string
  readonly node: string
  readonly workers: number
  /** Tunnels that the new release carries on. */
  readonly moved: number
  /**
   * Those that stay with this one until they end: TLS, and what else the kernel engines don't carry. What was on its way to become a
   * tunnel follows, and is in neither number.
   */
  readonly stayed: number
  /** How long the moved tunnels stood still. */
  readonly pauseMs: { readonly p50: number; readonly p99: number; readonly max: number }
  readonly durationMs: number
}

export interface WorkerStatus {
  readonly name: string
  readonly pid: number | null
  readonly state: WorkerState
  /** For how long it has not answered; null: it does, or there is no process that could. */
  readonly silentMs: number | null
  /** How often it had to be replaced. */
  readonly restarts: number
  /** How far its tunnels are on their way to their end; null unless it drains. */
  readonly drain: DrainProgress | null
}

/** waiting: it has died, and is started again in a moment. */
export type ChildState = 'starting' | 'running' | 'waiting' | 'stopped'

/** silent: it runs, and does not answer. It accepts nobody; kernel engines go on moving the bytes of its tunnels. */
export type WorkerState = ChildState | 'silent'

interface Parts {
  /** Those of now. */
  readonly services: () => readonly Service[]
  readonly registry: Registry
  readonly switches: Switches
  readonly ledger: Pick<CountingLedger, 'spikes'>
  /** Ends what is on its way to become a tunnel of this service. */
  readonly refuse: (service: string) => void
  readonly metrics: () => Promise<MetricsSnapshot>
  readonly usage: Operations['usage']
  readonly activity: () => Promise<Activity>
}

export function createOperations({
  services,
  registry,
  switches,
  ledger,
  refuse,
  metrics,
  usage,
  activity,
}: Parts): Operations {
  async function end(meant: { readonly id: string } | TunnelFilter, how: 'fin' | 'reset' = 'fin') {
    if (!('id' in meant)) return await registry.stop(how, matcher(meant))
    const splicing = registry.find(meant.id)?.splicing
    splicing?.stop(how)
    return splicing ? 1 : 0
  }

  return {
    end,
    metrics,
    usage,
    async websockets(id, value, { closeTunnels = false } = {}) {
      knownService(
        services().map(({ options }) => options.id),
        id,
      )
      const { websockets: before } = await switches.set(id, value)
      const isClosing = value === 'off' && closeTunnels
      if (isClosing) refuse(id)
      const ended = isClosing ? await end({ service: id }) : 0
      return { service: id, before, after: switches.state(id), ended }
    },
    tunnels: (query = {}) => listTunnels(registry, query),
    async find(id) {
      const tunnel = registry.find(id)
      return tunnel === undefined ? null : recordOf(tunnel)
    },
    services: async () =>
      services().map(({ options: { id, domains }, backends }) => ({
        id,
        domains,
        backends: [...backends.keys()],
        tunnels: registry.count(id),
        ...switches.state(id),
      })),
    backends: () => backendStatus(services()),
    gates: () =>
      services().flatMap(({ gate, options: { id } }) =>
        gate === null ? [] : [{ service: id, counts: gate.counts, spike: ledger.spikes(id) }],
      ),
    activity: async () => [await activity()],
  }
}

/** Throws argument-invalid. */
export function knownService(known: readonly string[], id: string): void {
  if (known.includes(id)) return
  throw new HeadraceError(
    'argument-invalid',
    `no service ${JSON.stringify(id)}; there are ${known.join(', ')}`,
  )
}
