// `headrace run`: the program itself, from a config file or around a program of another product.

import type { LoadedConfig } from '../config/load.ts'
import type { Problem } from '../config/problems.ts'
import { HeadraceError } from '../errors.ts'
import { checkFiles } from '../process/check-files.ts'
import { predecessor } from '../process/predecessor.ts'
import { startPrimary } from '../process/primary.ts'
import { complain, read, told } from './config.ts'
import type { ProgramWords } from './program-config.ts'
import { PROGRAM_FILE, programConfig } from './program-config.ts'

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
