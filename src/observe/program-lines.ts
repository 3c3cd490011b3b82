// What the program says of itself: its processes, and who has changed what.

import type { HeadraceError } from '../errors.ts'
import type { Crossing } from '../gate/seats.ts'
import { told } from '../stack.ts'
import type { DrainCounts, DrainProgress, DrainTimes } from '../tunnel/drain.ts'
import { createLogger } from './lines.ts'

/** Who asks for a change, and from where. */
export interface Actor {
  /** The name of a token, or how else it is known. */
  readonly name: string
  readonly role: string
  /** Of the token; '' without one. */
  readonly token: string
  readonly address: string
}

export interface Change {
  readonly who: Actor
  /** Such as `websockets` or `tunnels`. */
  readonly what: string
  /** The service, or the tunnel. */
  readonly of: string
  readonly before: unknown
  readonly after: unknown
  /** How many tunnels it ended. */
  readonly ended: number
}

export interface ProgramLines {
  /** What moves the bytes of plain tunnels, and why it is that. */
  engine(name: string, reason: string, workers: number): void
  died(name: string, pid: number | undefined, why: string, inARow: number, againInMs: number | null): void
  replaced(name: string, pid: number): void
  failed(name: string, error: HeadraceError): void
  /** It has had so many tunnels, and has not answered for so long. */
  silent(name: string, pid: number | null, silentMs: number, tunnels: number): void
  answers(name: string, pid: number | null, silentMs: number): void
  killed(name: string, pid: number, silentMs: number): void
  /** `of`: a worker, or all. */
  draining(of: string, tunnels: number, delayMs: number, times: DrainTimes): void
  stillDraining(of: string, progress: DrainProgress): void
  drained(of: string, counts: DrainCounts, tookMs: number): void
  admin(address: string): void
  /** Of an upgrade: of one that is given up, why. */
  upgrading(step: UpgradeStep, what?: Readonly<Record<string, unknown>>): void
  trouble(error: HeadraceError): void
  /** Code of users has left a rejected promise alone. */
  unhandled(reason: unknown): void
  spike(crossing: Crossing): void
  /** Written at every level but silent: whoever turns the log down still wants to know who changed what. */
  changed(change: Change): void
  denied(status: number, method: string, path: string, address: string, reason: string): void
  /** `changes`: what is different now. */
  reloaded(changes: object, durationMs: number): void
  /** Each of the problems is a line of text. */
  notReloaded(problems: readonly string[], durationMs: number): void
  configure(level: string): void
}

export type UpgradeStep = keyof typeof UPGRADE_STEPS

const UPGRADE_STEPS = {
  started: 'upgrade: the new release starts',
  ready: 'upgrade: the new release is ready',
  offered: 'upgrade: it knows the tunnels',
  moving: 'upgrade: the tunnels change over',
  committed: 'upgrade: the tunnels are its own',
  done: 'upgrade: the new release is in charge',
  regained: 'upgrade: its tunnels are back',
  failed: 'upgrade: given up',
  took: 'upgrade: in charge',
  left: 'upgrade: nothing is left here',
} as const

/** So many deaths in a row are no accident. */
const LOOP_LENGTH = 3

export function createProgramLines(level: string): ProgramLines {
  const log = createLogger(level)
  const audit = createLogger(auditLevel(level))
  return {
    engine(engine, reason, workers) {
      log.info({ engine, reason, workers }, 'engine chosen')
    },
    died(process, pid, why, inARow, againInMs) {
      const line = { process, pid, why, inARow, againInMs }
      if (inARow >= LOOP_LENGTH) log.error(line, 'a process keeps dying')
      else log.error(line, 'a process has died')
    },
    replaced(process, pid) {
      log.warn({ process, pid }, 'a process was replaced')
    },
    failed(process, { code, message, remedy }) {
      log.error({ process, code, error: message, remedy }, 'a process could not start')
    },
    silent(process, pid, silentMs, tunnels) {
      const remedy = `see what its handler does; headrace drain --worker ${process} replaces it, and ends its tunnels`
      log.warn({ process, pid, silentMs, tunnels, remedy }, 'a worker is silent')
    },
    answers(process, pid, silentMs) {
      log.warn({ process, pid, silentMs }, 'a worker answers again')
    },
    killed(process, pid, silentMs) {
      log.error({ process, pid, silentMs }, 'a worker was silent for too long, and is killed')
    },
    draining(of, tunnels, delayMs, { drainMs, spreadMs }) {
      log.info({ of, tunnels, delayMs, drainMs, spreadMs: Math.min(spreadMs, drainMs) }, 'draining')
    },
    stillDraining(of, { open, ended, closed, cut, leftMs }) {
      log.info({ of, open, ended, closed, cut, leftMs }, 'still draining')
    },
    drained(of, { ended, closed, cut }, tookMs) {
      log[cut > 0 ? 'warn' : 'info']({ of, ended, closed, cut, tookMs: Math.round(tookMs) }, 'drained')
    },
    admin(address) {
      log.info({ address }, 'admin API listens')
    },
    upgrading(step, what = {}) {
      if (step === 'failed') log.error(what, UPGRADE_STEPS[step])
      else log.info(what, UPGRADE_STEPS[step])
    },
    trouble({ code, message, remedy }) {
      log.warn({ code, error: message, remedy }, 'trouble')
    },
    unhandled(reason) {
      log.error({ error: told(reason), err: reason }, 'a promise was rejected, and nobody has noticed')
    },
    spike({ isAbove, ...numbers }) {
      if (isAbove) log.warn(numbers, 'more connections than expected')
      else log.info(numbers, 'connections as expected again')
    },
    changed(change) {
      audit.info(change, 'changed by an operator')
    },
    denied(status, method, path, address, reason) {
      log.warn({ status, method, path, address, reason }, 'admin request denied')
    },
    reloaded(changes, durationMs) {
      log.info({ ...changes, durationMs }, 'reloaded')
    },
    notReloaded(problems, durationMs) {
      log.error({ problems, durationMs }, 'not reloaded: nothing has changed')
    },
    configure(next) {
      log.level = next
      audit.level = auditLevel(next)
    },
  }
}

function auditLevel(level: string): string {
  return level === 'silent' ? 'silent' : 'info'
}
