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

/** Tells one problem. */
export type Complain = (path: Path, reason: string, remedy: string) => void

export function problem(path: Path, reason: string, remedy: string, locate?: Locate): Problem {
  return { path: pathText(path), reason, remedy, ...locate?.(path) }
}

/** One HeadraceError `config-invalid` for all of them, in the order of the file, which stands in front of each line. */
export function configError(problems: readonly Problem[], file = ''): HeadraceError {
  const sorted = [...problems].sort(byPlace)
  const lines = sorted.map((one) => problemLine(one, file))
  return new HeadraceError(
    'config-invalid',
    lines.length === 1 ? (lines[0] ?? '') : `\n${lines.join('\n')}`,
    sorted,
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
  const [nearest = ''] = [...known].sort((a, b) => distance(word, a) - distance(word, b))
  const changes = distance(word, nearest)
  // Words of which every letter has changed have nothing in common, however short.
  const isNear = changes <= Math.max(2, nearest.length / 3) && changes < nearest.length
  return isNear ? ` (did you mean ${nearest}?)` : ''
}

export function pathText(path: Path): string {
  return path
    .map((part, at) => (typeof part === 'number' ? `[${part}]` : at === 0 ? part : `.${part}`))
    .join('')
}

function byPlace(a: Problem, b: Problem): number {
  return (a.line ?? 0) - (b.line ?? 0) || (a.column ?? 0) - (b.column ?? 0)
}
