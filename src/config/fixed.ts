// What stays as it was when the config was read first: a reload that changes it is refused as a whole.

import { isDeepStrictEqual } from 'node:util'
import type { Config } from './parse.ts'
import type { Locate, Path, Problem } from './problems.ts'
import { problem } from './problems.ts'

type Fixed = readonly [path: Path, value: (config: Config) => unknown]

const EDGE: readonly Fixed[] = [
  [['engine'], ({ edge }) => edge.engine],
  [['stateDirectory'], ({ edge }) => edge.stateDirectory],
  [['rateStore'], ({ edge }) => edge.redis],
]

const PROGRAM: readonly Fixed[] = [
  ...EDGE,
  [['workers'], ({ workers }) => workers],
  [['user'], ({ runAs }) => runAs?.user],
  [['group'], ({ runAs }) => runAs?.group],
]

/** Of a library: it has no processes, and its admin API is somebody else's. */
export function fixedInEdge(before: Config, after: Config): Problem[] {
  return problemsOf(EDGE, before, after, 'create another tunnel for that')
}

export function fixedInProgram(before: Config, after: Config, locate: Locate): Problem[] {
  const remedy = 'use headrace upgrade for that, or restart it'
  const problems = problemsOf(PROGRAM, before, after, remedy, locate)
  const isSwitching =
    before.admin !== null &&
    before.admin.address === after.admin?.address &&
    (before.admin.tls === null) !== (after.admin.tls === null)
  if (!isSwitching) return problems
  const reason = 'one address is not switched between HTTP and HTTPS while the program runs'
  return [...problems, problem(['admin', 'tls'], reason, `take another admin.address, or ${remedy}`, locate)]
}

function problemsOf(
  fixed: readonly Fixed[],
  before: Config,
  after: Config,
  remedy: string,
  locate?: Locate,
): Problem[] {
  return fixed.flatMap(([path, of]) => {
    const value = of(before)
    if (isDeepStrictEqual(value, of(after))) return []
    return problem(path, `${textOf(value)} can't be changed by a reload`, remedy, locate)
  })
}

/** A URL of Redis may hold a password. */
function textOf(value: unknown): string {
  if (value === undefined) return 'the default'
  return typeof value === 'string' && value.includes('://') ? new URL(value).host : String(value)
}
