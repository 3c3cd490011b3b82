// What the processes ask each other.
//
//   worker ◀── start, operations, close ── primary ── start ──▶ control
//   worker ──── hosted ledgers ──────────▶ primary ◀── operations, status, reload ── control
//   worker ◀── receive, prepare, commit or drop ── primary ── prepare, commit or drop ──▶ control
//   the release before ◀── successor.ts, predecessor.ts ──▶ primary, during an upgrade and until that one has gone

import type { Legacy } from '../accept/inherited.ts'
import type { SocketHandle } from '../accept/listener.ts'
import type { Config } from '../config/parse.ts'
import type { Problem } from '../config/problems.ts'
import type { CloseTimes } from '../edge.ts'
import type { Claims, Verdict } from '../gate/claims.ts'
import type { Seated } from '../gate/ledger.ts'
import type { CountedRate } from '../gate/rates.ts'
import type { Crossing, SpikeState } from '../gate/seats.ts'
import type { MetricsSnapshot } from '../observe/metrics.ts'
import type { DrainWanted, Operations, ProgramStatus, Reloading, Upgrading } from '../operations.ts'
import type { Switched } from '../service/switch.ts'
import type { DrainCounts, DrainProgress } from '../tunnel/drain.ts'
import type { Given } from './handover-giver.ts'
import type { Returned } from './return.ts'

/** What the primary has made of the config, for all: plain JSON, so that nobody else has to read and check it. */
export type EdgeConfig = Pick<Config, 'edge' | 'listeners'>
export type ControlConfig = Pick<Config, 'edge' | 'admin'>

/** For the one who looks again, and says where what is wrong. */
export interface ConfigText {
  /** What relative paths start from, and what messages name. */
  readonly file: string
  readonly text: string
}

export interface WorkerOrders extends EdgeConfig {
  readonly name: string
  readonly switched: Switched
  /** The names of all workers, this one included. */
  readonly workers: readonly string[]
  /** In the order of the config's listeners: where they are, and as which descriptor they were inherited. */
  readonly sockets: readonly InheritedSocket[]
  /** Those that a release with more workers had, and that nobody else accepts from, by the place of their listener. */
  readonly extra: readonly (InheritedSocket & { readonly listener: number })[]
  /** Of its neighbour, for which it accepts while that one is being replaced; null: they share it. */
  readonly neighbour: readonly (InheritedSocket | null)[]
  /** It accepts when it is told to: until then the release before does. */
  readonly isStandby: boolean
}

export interface InheritedSocket {
  readonly address: string
  readonly descriptor: number
}

export interface ReloadOrders extends EdgeConfig {
  /** In the order of the config's listeners: where they are. Those that are new have been received. */
  readonly addresses: readonly string[]
}

/**
 * A reload: all are asked to prepare, and if all can, all to commit, otherwise all to drop it. Nothing is in effect before
 * `commit`; `drop` may come also while `prepare` is not done.
 */
export interface Reloadable<Orders, Prepared> {
  /** Rejects with config-invalid or listen-failed. */
  prepare(orders: Orders): Promise<Prepared>
  commit(): Promise<void>
  drop(): Promise<void>
}

export interface WorkerAnswers extends Operations, Reloadable<ReloadOrders, void> {
  /** Resolves when it accepts, or could. */
  start(orders: WorkerOrders): Promise<WorkerStarted>
  /** From standby on. Throws listen-failed or config-invalid. */
  accept(): Promise<void>
  /** A socket of a listener that the next `prepare` has: its own, or its neighbour's. The handle is always there. */
  receive(address: string, isOwn: boolean, handle?: SocketHandle): Promise<void>
  /** Of its metrics what only grows, and has begun to: what still counts when it has died. */
  counters(): Promise<MetricsSnapshot>
  /** Accepts for its neighbour as well, or does not any more. */
  cover(isNeeded: boolean): Promise<void>
  /** Resolves when all its tunnels are over, and its usage is written. A second one with less time shortens the wait. */
  close(times: CloseTimes): Promise<DrainCounts>
  /** How far that is; also before. */
  draining(): Promise<DrainProgress>

  // What follows is of the upgrade: upgrade.ts asks it of the workers of the release before, in this order.

  /** `door`: where a worker of the new release waits for its tunnels. */
  give(door: Place): Promise<void>
  offer(): Promise<number>
  giveAway(): Promise<Given>
  /** What has not been given stays. `mayEnd`: the new release has nothing that would be lost. */
  giveUp(mayEnd: boolean): Promise<void>
  /** The new release has gone. Resolves with what it has given back, when its worker has gone as well, or after `ms`. */
  regain(ms: number): Promise<Returned>
  /** The new release lists what it has got. */
  settle(): Promise<void>
  /** The new release is in charge. Accepts no more, and resolves when what was accepted before has become a tunnel, or has gone, or after `ms`. */
  settleArrivals(ms: number): Promise<void>
}

/** A name in a folder. */
export interface Place {
  readonly folder: string
  readonly name: string
}

export interface WorkerStarted {
  readonly engine: { readonly name: string; readonly reason: string }
  /** Where it takes tunnels of the release before; null: it doesn't, or can't. */
  readonly door: Place | null
}

export interface CheckerAnswers {
  /** What only shows when the files of the config are opened. */
  check(config: ConfigText): Promise<readonly Problem[]>
}

/** Prepared is the address of another admin listener, if there is one. */
export interface ControlAnswers extends Reloadable<ControlConfig, ControlStarted> {
  /** Resolves when it listens, with the admin address; null if there is none. In standby it listens when `open` says so. */
  start(orders: ControlOrders): Promise<ControlStarted>
  open(): Promise<ControlStarted>
  /** Listens no more; what was asked is still answered. */
  leave(): Promise<void>
  /** Whoever the webhook is for is told. */
  spike(crossing: Crossing): void
}

export interface ControlOrders extends ControlConfig {
  readonly isStandby: boolean
}

export interface ControlStarted {
  readonly address: string | null
}

/** What a worker may ask of the primary. */
export interface HostAnswers {
  hosted(name: string, request: unknown): Promise<unknown>
}

/** What the control process may ask of the primary. */
export interface PrimaryAnswers extends Operations, ProgramStatus, Reloading, Upgrading {}

/** The name of the control socket in the state folder. */
export const CONTROL_SOCKET = 'control.sock'

/** What a new release asks the one before: first these three, in this order; once it is in charge, the rest. */
export interface BeforeAnswers extends Omit<Operations, 'usage'> {
  inheritance(format: number): Promise<Inheritance>
  /** It could take over. */
  ready(release: Release): Promise<void>
  /** It never will. */
  failed(reason: string): Promise<void>
  /** As of a worker. */
  counters(): Promise<MetricsSnapshot>
  /** The new release is to end: it has no more time than that. */
  close(times: CloseTimes): Promise<DrainCounts>
}

export interface Inheritance {
  /** The listening sockets, as descriptors of the new process. */
  readonly sockets: readonly LegacySocket[]
  /** The first process of a container has started it, which must not end before it: nobody in between leaves. */
  readonly isAnchored: boolean
}

export interface LegacySocket extends Legacy {
  /** As the config has it. */
  readonly configured: string
}

export interface Release {
  readonly version: string
  readonly node: string
  readonly workers: number
  /** See handover-letters.ts. */
  readonly format: number
  /** Where its workers take tunnels. */
  readonly doors: readonly Place[]
  /** Addresses of the sockets that it goes on with. */
  readonly kept: readonly string[]
}

/** What the release before asks the new one, in this order. */
export interface AfterAnswers {
  /** How far the rates are. */
  rates(rates: readonly CountedRate[]): Promise<void>
  /** Who has which seats; whatever is granted there from now on is asked here. And the spikes that were told. */
  seats(seats: readonly Seated[], spikes?: readonly SpikeState[]): Promise<void>
  /** Its workers accept from now on. Throws listen-failed or config-invalid. */
  accept(): Promise<void>
  /** The admin API is the new one's; and what was switched, and counted, up to now. */
  takeOver(state: LastState): Promise<void>
  /** What the release before has granted, from `rates` on: this one has the last word. */
  take(claims: Claims): Promise<Verdict>
  give(id: string): Promise<void>
  /** It was told to end while the new one took over. */
  drain(wanted: DrainWanted): Promise<void>
  /** It leaves: what it has counted in all. */
  farewell(counted: MetricsSnapshot): Promise<void>
}

export interface LastState {
  readonly switched: Switched
  readonly counted: MetricsSnapshot
}
