// A child process that is started again when it dies.
//
//   starting ──its first answer──▶ running ──dies──▶ waiting ──backoff──▶ starting        stop(), kill() ──▶ stopped
//      ▲                              │
//      └───────────renew()────────────┘
//
// The first start is the caller's: if it fails, the child is not tried again.

import type { ChildProcess, StdioOptions } from 'node:child_process'
import { fork } from 'node:child_process'
import { HeadraceError } from '../errors.ts'
import type { ChildState } from '../operations.ts'
import type { Identity } from './identity.ts'
import type { Answers, Wire } from './messages.ts'
import { wire } from './messages.ts'

export interface ChildOptions<Own extends Answers<Own>, Theirs, Started> {
  readonly name: string
  /** The module that it runs. */
  readonly module: URL
  /** What it inherits, as descriptors 4, 5, …; asked for each process. */
  descriptors(): readonly number[]
  /** When it is known what the next process has to work by: no one is started again before. */
  settled(): Promise<void>
  readonly identity: Identity
  /** What it may ask; `life` is told anew for each process. */
  answers(life: string): Own
  /** What is asked of each process first. */
  start(wire: Wire<Theirs>): Promise<Started>
  /** A life is over: whatever it held is free. */
  over(life: string): void
  readonly watch: ChildWatch
}

/** What is to be known of its life. */
export interface ChildWatch {
  died(name: string, how: Death): void
  replaced(name: string, pid: number): void
  /** Its replacement has come up and could not start. */
  failed(name: string, error: unknown): void
}

export interface Death {
  readonly pid: number | undefined
  /** Its exit code, its signal, or why it could not be started. */
  readonly why: string
  /** How often in a row it has died young. */
  readonly inARow: number
  /** After which it is started again; null: it is not. */
  readonly againInMs: number | null
}

export interface Child<Theirs, Started> {
  readonly name: string
  /** Of the first process. Rejects with what it threw, or process-silent. */
  readonly started: Promise<Started>
  readonly state: ChildState
  readonly pid: number | null
  readonly restarts: number
  /** Null while there is no process. One that starts may be asked already. */
  readonly wire: Wire<Theirs> | null
  /** From now on it is not started again. */
  retire(): void
  /** A fresh process takes the place of this one, which ends as by `stop`: that is no death. Nothing if it is stopped. */
  renew(graceMs: number): void
  /** Lets it end by itself, which the end of the channel asks for; killed after `graceMs`. Resolves when it is gone. */
  stop(graceMs: number): Promise<void>
}

/** The descriptors from here on are what a child inherits; 3 is the channel. */
export const FIRST_INHERITED = 4

/** The first time at once; then it is more than bad luck. */
const BACKOFF_MS = [0, 100, 250, 500, 1_000, 2_000, 5_000]

/** What lives longer than this has not died of its start. */
const YOUNG_MS = 10_000

export function startChild<Own extends Answers<Own>, Theirs, Started>(
  options: ChildOptions<Own, Theirs, Started>,
): Child<Theirs, Started> {
  const { name, module, identity, watch } = options
  let state: ChildState = 'starting'
  let current: ChildProcess | null = null
  let line: Wire<Theirs> | null = null
  let lives = 0
  let inARow = 0
  let timer: NodeJS.Timeout | undefined
  let isTried = false
  let isRetired = false
  let isRenewed = false
  let gone: () => void = () => {}

  function spawn(): Promise<Started> {
    lives += 1
    state = 'starting'
    const life = `${name}.${lives}`
    const bornAt = performance.now()
    const stdio = ['ignore', 'inherit', 'inherit', 'ipc', ...options.descriptors()] satisfies StdioOptions
    // Between fork and exec: nothing of the program runs there as anybody else.
    const child = identity.raised(() => fork(module, [], { stdio, ...identity.credentials }))
    const own: Wire<Theirs> = wire<Own, Theirs>(name, child, options.answers(life))
    current = child
    line = own
    let isOver = false
    const over = (why: string) => {
      if (isOver) return
      isOver = true
      own.cut(`has died (${why})`)
      current = null
      line = null
      options.over(life)
      bury({ pid: child.pid, why }, performance.now() - bornAt)
    }
    child.on('error', (error) => {
      // It could not be started; of any other error the exit tells.
      if (child.pid === undefined) over(error.message)
    })
    child.on('exit', (code, signal) => over(signal ?? `exit code ${code}`))
    return options.start(own).then((started) => {
      if (state === 'starting') state = 'running'
      if (lives > 1 && child.pid !== undefined) watch.replaced(name, child.pid)
      return started
    })
  }

  function bury(death: Omit<Death, 'inARow' | 'againInMs'>, ageMs: number): void {
    if (state === 'stopped' || !isTried) {
      state = 'stopped'
      gone()
      return
    }
    if (isRenewed && !isRetired) {
      isRenewed = false
      state = 'waiting'
      void again()
      return
    }
    inARow = ageMs < YOUNG_MS ? inARow + 1 : 1
    const againInMs = isRetired ? null : (BACKOFF_MS[Math.min(inARow, BACKOFF_MS.length) - 1] ?? 0)
    watch.died(name, { ...death, inARow, againInMs })
    if (againInMs === null) {
      state = 'stopped'
      return
    }
    state = 'waiting'
    timer = setTimeout(again, againInMs)
  }

  async function again(): Promise<void> {
    await options.settled()
    // It may have been stopped meanwhile.
    if (state !== 'waiting') return
    // One that comes up and can't start is of no use: it goes the way of those that die.
    spawn().catch((error: unknown) => {
      if (state === 'starting') watch.failed(name, error)
      current?.kill('SIGKILL')
    })
  }

  const started = spawn().then((first) => {
    isTried = true
    return first
  })
  started.catch(() => current?.kill('SIGKILL'))

  return {
    name,
    started,
    get state() {
      return state
    },
    get pid() {
      return current?.pid ?? null
    },
    get restarts() {
      return lives - 1
    },
    get wire() {
      return line
    },
    retire() {
      isRetired = true
      clearTimeout(timer)
      if (state === 'waiting') state = 'stopped'
    },
    renew(graceMs) {
      if (current === null || state !== 'running' || isRetired) return
      isRenewed = true
      dismiss(current, graceMs)
    },
    async stop(graceMs) {
      clearTimeout(timer)
      state = 'stopped'
      if (current === null) return
      const ending = new Promise<void>((resolve) => {
        gone = resolve
      })
      dismiss(current, graceMs)
      await ending
    },
  }
}

/** The end of the channel asks for its exit. */
function dismiss(child: ChildProcess, graceMs: number): void {
  if (child.connected) child.disconnect()
  const kill = setTimeout(() => child.kill('SIGKILL'), graceMs)
  child.once('exit', () => clearTimeout(kill))
}

/** Asks that are made of whoever is there. Throws process-silent if nobody is. */
export function wireOf<Theirs>(child: Child<Theirs, unknown>): Wire<Theirs> {
  if (child.wire === null) throw new HeadraceError('process-silent', `${child.name} is not running`)
  return child.wire
}
