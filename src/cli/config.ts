// The config that a command is given; what is wrong with it is told in lines.

import type { LoadedConfig } from '../config/load.ts'
import { loadConfig } from '../config/load.ts'
import type { Problem } from '../config/problems.ts'
import { problemLine, problemsOf } from '../config/problems.ts'
import { HeadraceError } from '../errors.ts'
import { actAsUser } from '../process/identity.ts'

/** Null if it is not valid: every problem has been told. */
export async function read(file: string): Promise<LoadedConfig | null> {
  return await told(file, () => loadConfig(file, process.env))
}

export async function told(
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

/** As `read`, for a command that then does what it does as the program would. */
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
