// The new release, as a child of the one that is to be replaced: the program anew from the disk, with its words and its
// environment, and the listening sockets as descriptors. Both talk over node's channel.
//
//   starting ── ready ──▶ ready ── accept, takeOver ──▶ in charge         its exit, `failed`, or its time is over ──▶ ended

import type { ChildProcess } from 'node:child_process'
import { spawn } from 'node:child_process'
import { HeadraceError } from '../errors.ts'
import { FIRST_INHERITED } from './child.ts'
import type { Identity } from './identity.ts'
import type { Wire } from './messages.ts'
import { wire } from './messages.ts'
import type { AfterAnswers, BeforeAnswers, Inheritance, LegacySocket, Release } from './protocol.ts'

/** In the environment of a program that a running one has started: it is to take over from its parent. */
export const TAKES_OVER = 'HEADRACE_TAKES_OVER'

const PASSED_ON = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR2'] as const

export interface Successor {
  readonly pid: number
  readonly wire: Wire<AfterAnswers>
  readonly release: Release
  /** Resolves with its exit code, or 1 if a signal has ended it. */
  readonly ended: Promise<number>
  /** With all that it has started: they end when it does. */
  kill(): void
  /** It is not told any more, and does not keep this process alive. */
  disown(): void
  /** From now on it gets the signals of this process as well. */
  passSignals(): void
  /** This process ends as that one does. */
  outlived(): Promise<never>
}

export interface SuccessorParts {
  /** The path of another node than the one that runs. */
  readonly node: string | undefined
  readonly inheritance: Inheritance
  /** What it has to know of the service manager. */
  readonly environment: Readonly<Record<string, string>>
  readonly identity: Identity
  readonly startTimeoutMs: number
  readonly operations: Omit<BeforeAnswers, 'inheritance' | 'ready' | 'failed'>
  started(pid: number): void
}

/** Resolves when it could take over. Throws upgrade-failed: then nothing is left of it. */
export async function startSuccessor(parts: SuccessorParts): Promise<Successor> {
  const { inheritance, startTimeoutMs, operations, started } = parts
  const { sockets, isAnchored } = inheritance
  const descriptors = [...new Set(sockets.flatMap((one) => one.descriptors))]
  // It opens what it needs as whoever has started this one, and then is who the config says.
  const child = parts.identity.raised(() =>
    startProcess(parts.node ?? process.execPath, descriptors, parts.environment),
  )
  // Not by `once`, which would reject where it can't be started.
  const ended = new Promise<number>((resolve) => void child.once('exit', (code) => resolve(code ?? 1)))
  let readied: (release: Release) => void = () => {}
  let failed: (reason: string) => void = () => {}
  const ready = new Promise<Release>((resolve, reject) => {
    readied = resolve
    failed = (reason) => reject(new HeadraceError('upgrade-failed', reason))
  })
  const own = wire<BeforeAnswers, AfterAnswers>('the new release', child, {
    ...operations,
    inheritance: async () => ({
      sockets: sockets.map((socket) => inherited(socket, descriptors)),
      isAnchored,
    }),
    ready: async (release) => readied(release),
    failed: async (reason) => failed(reason),
  })
  child.on('error', (error) => failed(`it can't be started: ${error.message}`))
  child.on('exit', (code, signal) => {
    failed(`the new release has ended by itself: ${signal ?? `exit code ${code}`}`)
    own.cut('has ended')
  })
  const timer = setTimeout(() => failed(`it was not ready within ${startTimeoutMs} ms`), startTimeoutMs)
  try {
    if (child.pid !== undefined) started(child.pid)
    const release = await ready
    return {
      pid: child.pid ?? 0,
      wire: own,
      release,
      ended,
      kill: () => void child.kill('SIGKILL'),
      disown() {
        child.unref()
        if (child.connected) child.disconnect()
      },
      passSignals() {
        for (const signal of PASSED_ON) process.on(signal, () => child.kill(signal))
      },
      async outlived() {
        return process.exit(await ended)
      },
    }
  } catch (error) {
    child.kill('SIGKILL')
    throw error
  } finally {
    clearTimeout(timer)
  }
}

/** As this one was started: what the words mean is looked up anew, so that a replaced folder or link counts. */
function startProcess(
  node: string,
  descriptors: readonly number[],
  environment: Readonly<Record<string, string>>,
): ChildProcess {
  return spawn(node, [...process.execArgv, ...process.argv.slice(1)], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc', ...descriptors],
    env: { ...process.env, ...environment, [TAKES_OVER]: '1' },
  })
}

function inherited(socket: LegacySocket, descriptors: readonly number[]): LegacySocket {
  const own = [...new Set(socket.descriptors)]
  return { ...socket, descriptors: own.map((one) => FIRST_INHERITED + descriptors.indexOf(one)) }
}
