// What is wrong with a config: all of it at once, each with where, why, and what to do.

import { distance } from 'fastest-levenshtein'
import { HeadraceError } from '../errors.ts'

export type Path = readonly (string | number)[]

export interface Problem {
  /** Such as `services[0].backends[1].address`; '' for the whole. */
  readonly path: string
  readonly reason: string
  readonly remedy: string
  /** In the file, from 1; absent if it didn't come from one. */
  readonly line?: number
  readonly column?: number
}

/** Finds the place of a path in the file that it came from. */
export type Locate = (path: Path) => { readonly line: number; readonly column: number } | undefined

export function problem(path: Path, reason: string, remedy: string, locate?: Locate): Problem {
  return { path: pathText(path), reason, remedy, ...locate?.(path) }
}

/** One HeadraceError `config-invalid` for all of them; `file` stands in front of each line. */
export function configError(problems: readonly Problem[], file = ''): HeadraceError {
  const lines = problems.map((one) => problemLine(one, file))
  return new HeadraceError(
    'config-invalid',
    lines.length === 1 ? (lines[0] ?? '') : `\n${lines.join('\n')}`,
    problems,
  )
}

/** The problems of an error that `configError` made; one made of its text for any other. */
export function problemsOf(error: HeadraceError): readonly Problem[] {
  if (Array.isArray(error.cause)) return error.cause as Problem[]
  return [{ path: '', reason: error.detail || error.message, remedy: error.remedy }]
}

export function problemLine({ path, reason, remedy, line, column }: Problem, file = ''): string {
  const place = line === undefined ? file : `${file}:${line}:${column}`
  return `${place === '' ? '' : `${place}: `}${path === '' ? '' : `${path}: `}${reason}; ${remedy}`
}

/** ` (did you mean x?)`, or nothing if no known word is near. */
export function suggestion(word: string, known: readonly string[]): string {
  const [nearest] = [...known].sort((a, b) => distance(word, a) - distance(word, b))
  if (nearest === undefined || distance(word, nearest) > Math.max(2, nearest.length / 3)) return ''
  return ` (did you mean ${nearest}?)`
}

function pathText(path: Path): string {
  return path
    .map((part, at) => (typeof part === 'number' ? `[${part}]` : at === 0 ? part : `.${part}`))
    .join('')
}
