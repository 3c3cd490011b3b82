// What the commands do. Each resolves with the exit code.

import { existsSync } from 'node:fs'
import { loadCertificates } from '../accept/certificates.ts'
import type { LoadedConfig } from '../config/load.ts'
import { loadConfig } from '../config/load.ts'
import type { Path, Problem } from '../config/problems.ts'
import { problem, problemLine, problemsOf } from '../config/problems.ts'
import { jsonSchema } from '../config/schema.ts'
import { createBackend } from '../dial/backend.ts'
import { HeadraceError } from '../errors.ts'
import { loadHandler } from '../handoff/handler.ts'
import { actAsUser } from '../process/identity.ts'
import { startPrimary } from '../process/primary.ts'
import type { Wanted } from './usage.ts'
import { printUsage } from './usage.ts'

/** The exit code of a program that has cut tunnels, since somebody could not wait or they did not end. */
const TUNNELS_CUT = 4

export async function run(file: string): Promise<number> {
  const config = await read(file)
  if (config === null) return 1
  const running = await startPrimary(config).catch((error: unknown) => reasonsOf(error, config))
  if (Array.isArray(running)) return complain(running, file)
  process.stdout.write(`headrace listens on ${running.addresses.join(', ')}\n`)
  const { cut } = await running.stopped
  return cut > 0 ? TUNNELS_CUT : 0
}

/** Why a config that is valid by itself can't be used: with the places of the files that it names. */
async function reasonsOf(error: unknown, config: LoadedConfig): Promise<Problem[]> {
  const isConfig = error instanceof HeadraceError && error.code === 'config-invalid'
  const problems = isConfig ? await tryFiles(config) : []
  if (problems.length === 0) throw error
  return problems
}

export async function check(file: string): Promise<number> {
  const config = await load(file)
  if (config === null) return 1
  const problems = await tryFiles(config)
  if (problems.length > 0) return complain(problems, file)
  const { listeners, edge } = config
  process.stdout.write(`${file}: ok, ${count(listeners, 'listener')}, ${count(edge.services, 'service')}\n`)
  return 0
}

export async function usage(file: string, wanted: Wanted): Promise<number> {
  const config = await load(file)
  return config === null ? 1 : await printUsage(config, wanted)
}

export function printSchema(): number {
  process.stdout.write(`${JSON.stringify(jsonSchema(), null, 2)}\n`)
  return 0
}

/** Null if it is not valid: every problem has been told. */
async function read(file: string): Promise<LoadedConfig | null> {
  try {
    return await loadConfig(file, process.env)
  } catch (error) {
    if (!(error instanceof HeadraceError)) throw error
    complain(problemsOf(error), file)
    return null
  }
}

/** The same, for a command that then does what it does as the program would. */
export async function load(file: string): Promise<LoadedConfig | null> {
  const config = await read(file)
  actAsUser(config?.runAs ?? null)
  return config
}

/** One problem in a line. */
function complain(problems: readonly Problem[], file: string): number {
  for (const one of problems) process.stderr.write(`${problemLine(one, file)}\n`)
  return 1
}

/** What only shows when the files that a config names are opened. */
async function tryFiles({ listeners, edge, locate }: LoadedConfig): Promise<Problem[]> {
  const problems: Problem[] = []
  const attempt = async (path: Path, remedy: string, act: (tell: (error: unknown) => void) => unknown) => {
    const tell = (error: unknown) => {
      if (!(error instanceof HeadraceError)) throw error
      problems.push(problem(path, error.detail, remedy, locate))
    }
    await Promise.resolve(tell).then(act).catch(tell)
  }
  for (const [at, { tls }] of listeners.entries()) {
    if (tls === undefined) continue
    const remedy = 'name PEM files of a certificate that is valid and of its key'
    for (const [index, pair] of tls.pairs.entries()) {
      const path = ['listeners', at, 'tls', ...(tls.pairs.length > 1 ? [index] : [])]
      await attempt(path, remedy, (tell) => loadCertificates({ pairs: [pair] }, tell).close())
    }
  }
  for (const [at, { backends, handler }] of edge.services.entries()) {
    for (const [index, backend] of backends.entries()) {
      const path = ['services', at, 'backends', index, 'clientCertificate']
      await attempt(path, 'name PEM files of a certificate and its key', () => createBackend(backend))
    }
    if (typeof handler !== 'string') continue
    const remedy = 'name a module whose default export is a function'
    await attempt(['services', at, 'handler'], remedy, () => openHandler(handler))
  }
  return problems
}

/** Node's own message about a missing module names our files, not the user's. */
async function openHandler(file: string): Promise<void> {
  if (!existsSync(file)) throw new HeadraceError('config-invalid', `${file} can't be read: ENOENT`)
  await loadHandler(file)
}

function count(items: readonly unknown[], word: string): string {
  return `${items.length} ${word}${items.length === 1 ? '' : 's'}`
}
