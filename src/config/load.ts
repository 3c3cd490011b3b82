// A config file: YAML, with the environment in its values.

import { readFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { Document } from 'yaml'
import { isNode, LineCounter, parseDocument } from 'yaml'
import { HeadraceError } from '../errors.ts'
import type { Config } from './parse.ts'
import { parseConfig } from './parse.ts'
import type { Path, Problem } from './problems.ts'
import { configError } from './problems.ts'
import type { ConfigInput } from './schema.ts'

export type Environment = Readonly<Record<string, string | undefined>>

/** How often one YAML anchor may be used: a bound for documents that unfold into gigabytes. */
const MAX_ALIASES = 100

/** Reads and checks a config file. Throws config-invalid with every problem, each with its line. */
export async function loadConfig(file: string, environment: Environment): Promise<Config> {
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (error) {
    throw new HeadraceError(
      'config-invalid',
      `${file} can't be read: ${(error as NodeJS.ErrnoException).code}`,
      error,
    )
  }
  return readConfig(text, file, environment)
}

export function readConfig(text: string, file: string, environment: Environment): Config {
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, uniqueKeys: true })
  const locate = (path: Path) => placeOf(document, path, lines)
  if (document.errors.length > 0) {
    const problems = document.errors.map(({ message, pos }): Problem => {
      const { line, col } = lines.linePos(pos[0])
      return { path: '', reason: `not YAML: ${message}`, remedy: 'mend the syntax there', line, column: col }
    })
    throw configError(problems, file)
  }
  const problems: Problem[] = []
  const input = withEnvironment(
    document.toJS({ maxAliasCount: MAX_ALIASES }),
    environment,
    [],
    (path, name) => {
      problems.push({
        path: path.join('.'),
        reason: `the environment has no ${name}`,
        remedy: `set it, or write \${${name}:-default}`,
        ...locate(path),
      })
    },
  )
  if (problems.length > 0) throw configError(problems, file)
  return parseConfig(input as ConfigInput, { file, folder: dirname(file), logLevel: 'info', locate })
}

/** The place of the nearest node on a path: an absent key is reported where its section starts. */
function placeOf(
  document: Document,
  path: Path,
  lines: LineCounter,
): { line: number; column: number } | undefined {
  for (let length = path.length; length >= 0; length -= 1) {
    const node = document.getIn(path.slice(0, length), true)
    if (!isNode(node) || node.range === undefined || node.range === null) continue
    const { line, col } = lines.linePos(node.range[0])
    return { line, column: col }
  }
  return undefined
}

/** `${NAME}` and `${NAME:-default}` in every text; `$${` stands for a literal `${`. */
function withEnvironment(
  value: unknown,
  environment: Environment,
  path: Path,
  absent: (path: Path, name: string) => void,
): unknown {
  if (typeof value === 'string') {
    return value.replace(
      /\$?\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}/g,
      (whole, name: string, preset?: string) => {
        if (whole.startsWith('$$')) return whole.slice(1)
        const found = environment[name] ?? preset
        if (found === undefined) absent(path, name)
        return found ?? ''
      },
    )
  }
  if (Array.isArray(value))
    return value.map((one, at) => withEnvironment(one, environment, [...path, at], absent))
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value).map(([key, one]) => [
      key,
      withEnvironment(one, environment, [...path, key], absent),
    ]),
  )
}
