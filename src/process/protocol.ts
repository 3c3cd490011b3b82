// What the processes ask each other.
//
//   worker ◀── start, operations, close ── primary ── start ──▶ control
//   worker ──── hosted ledgers ──────────▶ primary ◀── operations, status ── control

import type { Crossing } from '../gate/seats.ts'
import type { MetricsSnapshot } from '../observe/metrics.ts'
import type { Operations, ProgramStatus } from '../operations.ts'
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

export interface WorkerAnswers extends Operations {
  /** Resolves when it accepts. */
  start(orders: WorkerOrders): Promise<WorkerStarted>
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

export interface ControlAnswers {
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
export interface PrimaryAnswers extends Operations, ProgramStatus {}

/** The name of the control socket in the state folder. */
export const CONTROL_SOCKET = 'control.sock'
