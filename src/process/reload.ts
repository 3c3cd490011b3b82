// A reload: the config is read again and checked, with all the files that it names; then all processes make ready what is
// new, and if all of them can, put it in the place of the old. Until then nothing has changed, and a failure leaves it so.
//
//   read ─▶ check, in a process of its own ─▶ open added sockets ─▶ prepare, everywhere ─▶ commit, everywhere
//     └────────────┴──────────────────────────────┴─────────────────────┴──▶ problems: drop all of it

import type { Given } from '../accept/given.ts'
import { fixedInProgram } from '../config/fixed.ts'
import type { LoadedConfig } from '../config/load.ts'
import { loadConfig } from '../config/load.ts'
import type { Problem } from '../config/problems.ts'
import { configError, problem, problemsOf } from '../config/problems.ts'
import { asHeadraceError, HeadraceError } from '../errors.ts'
import type { Changes, Reloaded } from '../operations.ts'
import { askChecker } from './ask-checker.ts'
import { changesOf } from './changes.ts'
import type { Child } from './child.ts'
import type { Identity } from './identity.ts'
import type { Wire } from './messages.ts'
import type { ControlAnswers, ControlStarted, WorkerAnswers } from './protocol.ts'
import type { Sockets } from './sockets.ts'
import { relisten } from './sockets.ts'

/** The same once more in each worker, on a busy machine. */
const PREPARE_TIMEOUT_MS = 20_000

export interface ReloadParts {
  current(): { readonly config: LoadedConfig; readonly sockets: Sockets }
  readonly workers: readonly Child<WorkerAnswers, unknown>[]
  readonly control: Child<ControlAnswers, unknown>
  /** Whether nothing may change any more. */
  isOver(): boolean
  /** From here on it is so for whoever asks, and for processes that start; the rest are told. */
  replace(config: LoadedConfig, sockets: Sockets): void
  /** Something went wrong that keeps nobody from going on. */
  trouble(error: HeadraceError): void
  /** What the service manager has opened. */
  readonly given: Given
  readonly identity: Identity
  readonly watch: ReloadWatch
}

/** Whoever has to know of each of them: lines, a service manager. */
export interface ReloadWatch {
  began(): void
  done(changes: Changes, durationMs: number): void
  /** Nothing has changed. */
  failed(problems: readonly Problem[], durationMs: number): void
  /** The admin API has another address. */
  admin(address: string): void
}

export async function reload(parts: ReloadParts): Promise<Reloaded> {
  const { config } = parts.current()
  const { file } = config
  const startedAt = performance.now()
  const durationMs = () => Math.round(performance.now() - startedAt)
  parts.watch.began()
  try {
    const changes = await attempt(parts)
    const took = durationMs()
    parts.watch.done(changes, took)
    return { isDone: true, file, changes, durationMs: took }
  } catch (error) {
    const problems = problemsOf(asHeadraceError(error))
    parts.watch.failed(problems, durationMs())
    return { isDone: false, file, problems }
  }
}

/** Throws config-invalid with every problem, or what else went wrong: then nothing has changed. */
async function attempt(parts: ReloadParts): Promise<Changes> {
  const before = parts.current()
  const next = await loadConfig(before.config.file, process.env)
  const found = [
    ...fixedInProgram(before.config, next, next.locate),
    ...(await askChecker(next, parts.identity).catch((error: unknown) => [
      blamedHandler(next, asHeadraceError(error)),
    ])),
  ]
  if (found.length > 0) throw configError(found, next.file)
  const listening = await relisten(before, next, parts.given, parts.identity)
  try {
    return await replace(parts, before.config, next, listening)
  } catch (error) {
    listening.drop()
    throw error
  }
}

async function replace(
  parts: ReloadParts,
  before: LoadedConfig,
  next: LoadedConfig,
  listening: Awaited<ReturnType<typeof relisten>>,
): Promise<Changes> {
  const { file, edge, listeners, admin } = next
  const { workers, control } = parts
  const addresses = listening.sockets.map(({ address }) => address)
  const asked: Asked[] = [
    ...livesOf(workers, async (line, at) => {
      await listening.send(line, at)
      await line.ask('prepare', [{ edge, listeners, addresses }], PREPARE_TIMEOUT_MS)
      return null
    }),
    ...livesOf([control], (line) => line.ask('prepare', [{ edge, admin }], PREPARE_TIMEOUT_MS)),
  ]
  const results = await Promise.allSettled(asked.map(({ prepared }) => prepared))
  const failures = results.flatMap((result, at) =>
    result.status === 'rejected' && asked[at]?.isAlive() ? [asProblem(asHeadraceError(result.reason))] : [],
  )
  if (parts.isOver()) failures.push(asProblem(new HeadraceError('draining')))
  if (failures.length > 0) {
    await Promise.allSettled(asked.map(({ drop }) => drop()))
    // All of them have the same files: what one says the others say, too.
    const texts = new Map(failures.map((one) => [one.reason, one]))
    throw configError([...texts.values()], file)
  }
  parts.replace(next, listening.sockets)
  listening.commit()
  const committed = await Promise.allSettled(asked.map(({ commit }) => commit()))
  for (const [at, result] of committed.entries()) {
    // It has taken the order; whoever has died has a successor that begins with the new config.
    if (result.status === 'rejected' && asked[at]?.isAlive()) parts.trouble(asHeadraceError(result.reason))
  }
  for (const result of results) if (result.status === 'fulfilled') tellAdmin(result.value, parts.watch)
  return changesOf(before, next, listening.changed)
}

/** One process that has been asked to prepare. */
interface Asked {
  readonly prepared: Promise<ControlStarted | null>
  isAlive(): boolean
  commit(): Promise<void>
  drop(): Promise<void>
}

function livesOf<Theirs extends WorkerAnswers | ControlAnswers>(
  children: readonly Child<Theirs, unknown>[],
  prepare: (line: Wire<Theirs>, at: number) => Promise<ControlStarted | null>,
): Asked[] {
  return children.flatMap((child, at): Asked[] => {
    const { wire: line } = child
    if (line === null) return []
    const { ask } = line as Wire<Pick<ControlAnswers, 'commit' | 'drop'>>
    return [
      {
        prepared: prepare(line, at),
        isAlive: () => child.wire === line,
        commit: () => ask('commit', []),
        drop: () => ask('drop', []),
      },
    ]
  })
}

function tellAdmin(started: ControlStarted | null, watch: ReloadWatch): void {
  if (started !== null && started.address !== null) watch.admin(started.address)
}

/** Other than handlers nothing blocks or ends a process; which of several it was, nobody knows. */
function blamedHandler({ edge, locate }: LoadedConfig, { detail }: HeadraceError): Problem {
  const found = edge.services.flatMap(({ handler }, at) => (typeof handler === 'string' ? [at] : []))
  const [only, ...more] = found
  const path = only === undefined || more.length > 0 ? ['services'] : ['services', only, 'handler']
  return problem(path, detail, 'let no module block or end the process that loads it', locate)
}

function asProblem(error: HeadraceError): Problem {
  return problem([], error.message, error.remedy)
}
