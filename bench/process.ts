// The processes of the benchmark, and calls to them over IPC: one message there, one back. The parent starts a compiled
// module with `startProcess`; the module says with `answerCalls` what it can be asked.

import type { ChildProcess, Serializable } from 'node:child_process'
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { placed } from './placement.ts'

/** No call of the benchmark takes longer; one that does has lost a byte or a tunnel. */
const CALL_TIMEOUT_MS = 180_000
const STOP_TIMEOUT_MS = 5_000

/** What a process can be asked: functions of things that IPC can carry. */
export type Calls<Names> = { readonly [Name in keyof Names]: (...given: never[]) => unknown }

export interface Process<Known extends Calls<Known>> {
  readonly pid: number
  /** Rejects with what the call threw there, when the process is gone, or after 3 min. */
  call<Name extends keyof Known & string>(
    name: Name,
    ...given: Parameters<Known[Name]>
  ): Promise<Awaited<ReturnType<Known[Name]>>>
  /** Resolves when the process has ended. */
  stop(): Promise<void>
}

interface Question {
  readonly id: number
  readonly name: string
  readonly given: readonly unknown[]
}

interface Reply {
  readonly id: number
  readonly value?: unknown
  readonly error?: string
}

interface Waiting {
  readonly resolve: (value: unknown) => void
  readonly reject: (error: Error) => void
}

export interface ProcessOptions {
  /** Of node. */
  readonly flags?: readonly string[]
  /** What it writes to standard output is thrown away. */
  readonly isMute?: boolean
  /** Where it runs. */
  readonly cpus?: string | null
}

/** Starts `module` (a URL of compiled code) with node; `label` stands in front of what is thrown. */
export async function startProcess<Known extends Calls<Known>>(
  label: string,
  module: URL,
  { flags = [], isMute = false, cpus = null }: ProcessOptions = {},
): Promise<Process<Known>> {
  const [execPath, execArgv] = placed(cpus, process.execPath, flags)
  const child = fork(fileURLToPath(module), {
    execPath,
    execArgv: [...execArgv],
    stdio: ['ignore', isMute ? 'ignore' : 'inherit', 'inherit', 'ipc'],
    // Samples travel as arrays of numbers, not as text.
    serialization: 'advanced',
  })
  await once(child, 'spawn')
  const { pid = 0 } = child
  const waiting = new Map<number, Waiting>()
  let count = 0
  child.on('message', (message) => {
    const { id, value, error } = message as Reply
    const one = waiting.get(id)
    waiting.delete(id)
    if (error === undefined) one?.resolve(value)
    else one?.reject(new Error(`${label}: ${error}`))
  })
  child.on('exit', (code, signal) => {
    const reason = `${label}: the process has ended: ${signal ?? code}`
    for (const { reject } of waiting.values()) reject(new Error(reason))
    waiting.clear()
  })

  async function call(name: string, ...given: unknown[]): Promise<unknown> {
    if (child.exitCode !== null || !child.connected) throw new Error(`${label}: the process has ended`)
    count += 1
    const id = count
    const answer = new Promise((resolve, reject) => waiting.set(id, { resolve, reject }))
    child.send({ id, name, given } satisfies Question as Serializable)
    const timer = setTimeout(() => {
      waiting.get(id)?.reject(new Error(`${label}: ${name}: no answer in ${CALL_TIMEOUT_MS / 1_000} s`))
    }, CALL_TIMEOUT_MS)
    return await answer.finally(() => clearTimeout(timer))
  }

  return { pid, call: call as Process<Known>['call'], stop: () => stopped(child) }
}

async function stopped(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exit = once(child, 'exit')
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS)
  if (child.connected) child.disconnect()
  await exit
  clearTimeout(timer)
}

/** The other end: answers calls until the parent disconnects; `atEnd`: what must be over before it can exit. */
export function answerCalls<Known extends Calls<Known>>(known: Known, atEnd: () => void = () => {}): void {
  const answers = known as unknown as Readonly<Record<string, (...given: unknown[]) => unknown>>
  process.on('message', async (message) => {
    const { id, name, given } = message as Question
    try {
      const value = await answers[name]?.(...given)
      process.send?.({ id, value } satisfies Reply)
    } catch (error) {
      process.send?.({ id, error: error instanceof Error ? error.message : String(error) } satisfies Reply)
    }
  })
  // An exit by code, so that `node --cpu-prof` writes its profile.
  process.on('disconnect', () => {
    atEnd()
    process.exit(0)
  })
}
