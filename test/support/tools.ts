// Programs that a test needs and npm can't give: on a developer's machine their tests are skipped, with a reason; in CI
// none may be missing.

import { spawnSync } from 'node:child_process'
import { ENVIRONMENT } from '../../bench/peers/program.ts'

/** For a test's options: why it is skipped, or false. Throws in CI. */
export function skipWithout(program: string): string | false {
  const { error } = spawnSync(program, ['--version'], { env: ENVIRONMENT })
  if (error === undefined) return false
  const why = `${program} is missing: scripts/install-peers installs it`
  if (process.env.CI === 'true') throw new Error(why)
  return why
}
