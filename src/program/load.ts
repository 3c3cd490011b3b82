// Loads the module of a program through node, with hooks that give it its scope. Two programs share no name of their scopes,
// also if both are the same file.

import { existsSync, readFileSync } from 'node:fs'
import * as nodeModule from 'node:module'
import { pathToFileURL } from 'node:url'
import { HeadraceError } from '../errors.ts'
import { told } from '../stack.ts'
import type { ProgramKind } from './hooks.ts'
import { load, markedUrl, resolve, SCOPES, syntaxFault } from './hooks.ts'

/** What a program finds: global names, and what it may import. */
export interface Scope {
  readonly globals: Readonly<Record<string, unknown>>
  readonly modules: Readonly<Record<string, Readonly<Record<string, unknown>>>>
}

const scopes = new Map<string, Scope>()
let count = 0
let isHooked = false

/** Resolves with what the module exports. Throws config-invalid. */
export async function loadModule(
  kind: ProgramKind,
  file: string,
  scope: Scope,
): Promise<Readonly<Record<string, unknown>>> {
  if (!existsSync(file)) throw invalid(file, 'there is no such file')
  if (!/\.m?js$/.test(file)) throw invalid(file, 'it is no .js or .mjs file; compile it first')
  hook()
  count += 1
  const id = `${kind}-${count}`
  scopes.set(id, scope)
  try {
    return (await import(markedUrl(pathToFileURL(file), id))) as Readonly<Record<string, unknown>>
  } catch (error) {
    throw invalid(
      file,
      `${error instanceof Error ? `${error.name}: ` : ''}${told(error)}${lineOf(file, error)}`,
      error,
    )
  }
}

export function invalid(file: string, reason: string, cause?: unknown): HeadraceError {
  return new HeadraceError('config-invalid', `the program ${file} can't be loaded: ${reason}`, cause)
}

/** Once for the process. They can't be taken away again, and do nothing for modules of others. */
function hook(): void {
  if (isHooked) return
  isHooked = true
  Object.defineProperty(globalThis, SCOPES, { value: scopes })
  const { registerHooks } = nodeModule as { registerHooks?: (hooks: object) => void }
  // Node 20 has only the hooks that run in a thread of their own.
  if (registerHooks !== undefined) registerHooks({ resolve, load })
  else nodeModule.register(new URL('./hooks.js', import.meta.url))
}

/** Where node prints a syntax error it keeps to itself. In a module that the program imports it stays unknown. */
function lineOf(file: string, error: unknown): string {
  const fault = error instanceof SyntaxError ? syntaxFault(readFileSync(file, 'utf8')) : null
  return fault === null ? '' : ` (${file}:${fault.line}:${fault.column + 1})`
}
