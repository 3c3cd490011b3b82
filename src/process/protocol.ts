// What the processes ask each other.
//
//   worker ◀── start, operations, close ── primary ── start ──▶ control
//   worker ──── hosted ledgers ──────────▶ primary ◀── operations, status, reload ── control
//   worker ◀── receive, prepare, commit or drop ── primary ── prepare, commit or drop ──▶ control

import type { SocketHandle } from '../accept/listener.ts'
import type { Problem } from '../config/problems.ts'
import type { Crossing } from '../gate/seats.ts'
import type { MetricsSnapshot } from '../observe/metrics.ts'
import type { Operations, ProgramStatus, Reloading } from '../operations.ts'
import type { Switched } from '../service/switch.ts'
import type { DrainCounts, DrainProgress, DrainTimes } from '../tunnel/drain.ts'

/** The config as the primary has read and checked it: one file, one text, for all. */
export interface ConfigText {
  /** What relative paths start from, and what messages name. */
  readonly file: string
  readonly text: string
}

export interface WorkerOrders extends ConfigText {
  readonly name: string
  readonly switched: Switched
  /** In the order of the config's listeners: where they are, and as which descriptor they were inherited. */
  readonly sockets: readonly InheritedSocket[]
  /** The same of its neighbour, for which it accepts while that one is being replaced; null: they share it. */
  readonly neighbour: readonly (InheritedSocket | null)[]
}

export interface InheritedSocket {
  readonly address: string
  readonly descriptor: number
}

export interface ReloadOrders extends ConfigText {
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
  /** Resolves when it accepts. */
  start(orders: WorkerOrders): Promise<WorkerStarted>
  /** A socket of a listener that the next `prepare` has: its own, or its neighbour's. The handle is always there. */
  receive(address: string, isOwn: boolean, handle?: SocketHandle): Promise<void>
  /** Of its metrics what only grows, and has begun to: what still counts when it has died. */
  counters(): Promise<MetricsSnapshot>
  /** Accepts for its neighbour as well, or does not any more. */
  cover(isNeeded: boolean): Promise<void>
  /** Resolves when all its tunnels are over. A second one with less time shortens the wait. */
  close(times: DrainTimes): Promise<DrainCounts>
  /** How far that is; also before. */
  draining(): Promise<DrainProgress>
}

export interface WorkerStarted {
  readonly engine: { readonly name: string; readonly reason: string }
}

export interface CheckerAnswers {
  /** What only shows when the files of the config are opened. */
  check(config: ConfigText): Promise<readonly Problem[]>
}

/** Prepared is the address of another admin listener, if there is one. */
export interface ControlAnswers extends Reloadable<ConfigText, ControlStarted> {
  /** Resolves when it listens, with the admin address; null if there is none. */
  start(orders: ConfigText): Promise<ControlStarted>
  /** Whoever the webhook is for is told. */
  spike(crossing: Crossing): void
}

export interface ControlStarted {
  readonly address: string | null
}

/** What a worker may ask of the primary. */
export interface HostAnswers {
  hosted(name: string, request: unknown): Promise<unknown>
}

/** What the control process may ask of the primary. */
export interface PrimaryAnswers extends Operations, ProgramStatus, Reloading {}

/** The name of the control socket in the state folder. */
export const CONTROL_SOCKET = 'control.sock'
