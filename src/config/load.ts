// A config file: YAML, with the environment in its values, and every problem with its line.

import { readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import type { Document } from 'yaml'
import { isMap, isNode, isScalar, LineCounter, parseDocument } from 'yaml'
import type { Config } from './parse.ts'
import { parseConfig } from './parse.ts'
import type { Complain, Locate, Path, Problem } from './problems.ts'
import { configError, problem } from './problems.ts'
import type { ConfigInput } from './schema.ts'

export type Environment = Readonly<Record<string, string | undefined>>

export interface LoadedConfig extends Config {
  /** What was read, for other processes to read the same. */
  readonly file: string
  readonly text: string
  readonly locate: Locate
}

/** How often one YAML anchor may be used: a bound for documents that unfold into gigabytes. */
const MAX_ALIASES = 100

/** Reads and checks a config file. Throws config-invalid with every problem, each with its line. */
export async function loadConfig(file: string, environment: Environment): Promise<LoadedConfig> {
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (error) {
    const { code = String(error) } = error as NodeJS.ErrnoException
    throw configError([problem([], `can't be read: ${code}`, 'name a YAML file that exists')], file)
  }
  return readConfig(text, file, environment)
}

/** The same for the text of a file; relative paths start from the folder of `file`. */
export function readConfig(text: string, file: string, environment: Environment): LoadedConfig {
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, uniqueKeys: true })
  const problems = syntaxProblems(document, text, lines)
  if (document.errors.some(({ code }) => code !== 'DUPLICATE_KEY')) throw configError(problems, file)
  const locate: Locate = (path) => placeOf(document, path, lines)
  const complain: Complain = (path, reason, remedy) => problems.push(problem(path, reason, remedy, locate))
  const input = withEnvironment(plainValue(document, file), environment, [], complain)
  const { listeners } = (input ?? {}) as { listeners?: unknown }
  if (input !== null && (listeners === undefined || (Array.isArray(listeners) && listeners.length === 0))) {
    complain(['listeners'], 'nowhere to listen', 'write such as listeners: [{ address: 127.0.0.1:8080 }]')
  }
  const preset = { logLevel: 'info', stateDirectory: 'state' }
  const context = { file, folder: dirname(file), ...preset, locate, problems }
  return { ...parseConfig(input as ConfigInput, context), file, text, locate }
}

/**
 * Which node the config names for a new release, as the file is now. Nothing else of it is looked at: it is the new release's,
 * which may know more keys. Undefined if it says nothing, or can't be read: that, too, the new release finds.
 */
export function upgradeNode(file: string): string | undefined {
  try {
    const node: unknown = parseDocument(readFileSync(file, 'utf8')).getIn(['upgrade', 'node'])
    return typeof node === 'string' ? resolve(dirname(file), node) : undefined
  } catch {
    return undefined
  }
}

function syntaxProblems(document: Document.Parsed, text: string, lines: LineCounter): Problem[] {
  return document.errors.map(({ code, message, pos: [start] }): Problem => {
    const { line, col } = lines.linePos(start)
    const [key] = /^[^:\s]+/.exec(text.slice(start)) ?? []
    const isTwice = code === 'DUPLICATE_KEY'
    const reason = isTwice ? `the key ${key} is there twice` : `not YAML: ${message}`
    return { path: '', reason, remedy: isTwice ? 'remove one of them' : 'mend the syntax', line, column: col }
  })
}

function plainValue(document: Document, file: string): unknown {
  try {
    return document.toJS({ maxAliasCount: MAX_ALIASES })
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw configError([problem([], `not YAML: ${reason}`, 'write out what the aliases stand for')], file)
  }
}

/** Where the key of a path is, or the item of a list; what is absent is reported where its section starts. */
function placeOf(document: Document, path: Path, lines: LineCounter): ReturnType<Locate> {
  for (let length = path.length; length >= 0; length -= 1) {
    const start = startOf(document, path.slice(0, length))
    if (start === undefined) continue
    const { line, col } = lines.linePos(start)
    return { line, column: col }
  }
  return undefined
}

function startOf(document: Document, path: Path): number | undefined {
  const section: unknown = path.length === 0 ? null : document.getIn(path.slice(0, -1), true)
  const pair = isMap(section)
    ? section.items.find(({ key }) => isScalar(key) && String(key.value) === path.at(-1))
    : undefined
  const node: unknown = pair?.key ?? document.getIn(path, true)
  return isNode(node) ? node.range?.[0] : undefined
}

/** `${NAME}` and `${NAME:-default}` in every text; `$${` stands for a literal `${`. */
function withEnvironment(value: unknown, environment: Environment, path: Path, complain: Complain): unknown {
  if (typeof value === 'string') return expanded(value, environment, path, complain)
  if (Array.isArray(value)) {
    return value.map((one, at) => withEnvironment(one, environment, [...path, at], complain))
  }
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value).map(([key, one]) => [
      key,
      withEnvironment(one, environment, [...path, key], complain),
    ]),
  )
}

function expanded(text: string, environment: Environment, path: Path, complain: Complain): string {
  return text.replace(
    /\$?\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}/g,
    (whole, name: string, preset?: string) => {
      if (whole.startsWith('$$')) return whole.slice(1)
      // As in a shell, `:-` stands in for what is empty, too.
      const found = preset === undefined ? environment[name] : environment[name] || preset
      if (found !== undefined) return found
      complain(path, `the environment has no ${name}`, `set it, or write \${${name}:-default}`)
      return ''
    },
  )
}
