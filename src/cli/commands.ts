// What the commands do. Each resolves with the exit code.

import type { LoadedConfig } from '../config/load.ts'
import { loadConfig } from '../config/load.ts'
import type { Problem } from '../config/problems.ts'
import { problemLine, problemsOf } from '../config/problems.ts'
import { jsonSchema } from '../config/schema.ts'
import { HeadraceError } from '../errors.ts'
import { checkFiles } from '../process/check-files.ts'
import { actAsUser } from '../process/identity.ts'
import { predecessor } from '../process/predecessor.ts'
import { startPrimary } from '../process/primary.ts'
import type { ProgramWords } from './program-config.ts'
import { PROGRAM_FILE, programConfig } from './program-config.ts'
import type { Wanted } from './usage.ts'
import { printUsage } from './usage.ts'

/** The exit code of a program that has cut tunnels, since somebody could not wait or they did not end. */
const TUNNELS_CUT = 4

export async function run(file: string): Promise<number> {
  return await runLoaded(() => read(file), file)
}

/** Without a file: a program, and what it needs. Throws UsageError. */
export async function runProgram(words: ProgramWords): Promise<number> {
  return await runLoaded(() => told(PROGRAM_FILE, () => programConfig(words)), PROGRAM_FILE)
}

async function runLoaded(load: () => Promise<LoadedConfig | null>, file: string): Promise<number> {
  const before = predecessor()
  const config = await load()
  if (config === null) {
    await before?.fail(`${file} is not valid for the new release`)
    return 1
  }
  const running = await startPrimary(config, before).catch(async (error: unknown) => {
    await before?.fail(error instanceof Error ? error.message : String(error))
    return await reasonsOf(error, config)
  })
  if (Array.isArray(running)) return complain(running, file)
  process.stdout.write(`headrace listens on ${running.addresses.join(', ')}\n`)
  const { cut } = await running.stopped
  return cut > 0 ? TUNNELS_CUT : 0
}

/** Why a config that is valid by itself can't be used: with the places of the files that it names. */
async function reasonsOf(error: unknown, config: LoadedConfig): Promise<Problem[]> {
  const isConfig = error instanceof HeadraceError && error.code === 'config-invalid'
  const problems = isConfig ? await checkFiles(config) : []
  if (problems.length === 0) throw error
  return problems
}

export async function check(file: string): Promise<number> {
  const config = await load(file)
  if (config === null) return 1
  const problems = await checkFiles(config)
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
  return await told(file, () => loadConfig(file, process.env))
}

async function told(
  file: string,
  load: () => LoadedConfig | Promise<LoadedConfig>,
): Promise<LoadedConfig | null> {
  try {
    return await load()
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
export function complain(problems: readonly Problem[], file: string): number {
  for (const one of problems) process.stderr.write(`${problemLine(one, file)}\n`)
  return 1
}

function count(items: readonly unknown[], word: string): string {
  return `${items.length} ${word}${items.length === 1 ? '' : 's'}`
}
