// Module hooks for programs of other products (node:module): their own specifiers, and their global scope. Everything else of
// loading is node's. Only modules that a program's module has imported are touched; they are known by a mark in their URL.
//
//   file:///srv/main.js?headrace-program=fastly-1      a module of a program: the names of its scope stand in front of it
//   headrace-program:fastly-1/fastly:websocket         what the edge offers to it
//
// Node 20 runs this in a thread of its own: nothing here knows anything but text.

import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { Pattern, Program as Syntax } from 'acorn'
import { parse } from 'acorn'

const MARK = 'headrace-program'

export type ProgramKind = 'fastly' | 'worker'

/** What can be imported, by specifier. */
const OFFERED: Readonly<Record<ProgramKind, Readonly<Record<string, readonly string[]>>>> = {
  fastly: {
    'fastly:websocket': ['createWebsocketHandoff'],
    'fastly:env': ['env'],
  },
  worker: {
    'cloudflare:workers': ['DurableObject', 'WorkerEntrypoint', 'env'],
  },
}

/** The global names that a program has, instead of node's or besides. */
const COMMON = [
  'globalThis',
  'self',
  'fetch',
  'Request',
  'Response',
  'WebSocket',
  'setTimeout',
  'setInterval',
  'queueMicrotask',
]
const GLOBALS: Readonly<Record<ProgramKind, readonly string[]>> = {
  fastly: [...COMMON, 'addEventListener', 'removeEventListener', 'createWebsocketHandoff'],
  worker: [...COMMON, 'WebSocketPair', 'WebSocketRequestResponsePair'],
}

/** Where the main thread puts what programs see: scopes by the mark of their program. */
export const SCOPES = Symbol.for('headrace.programs')

/** `id`: such as `fastly-1`. */
export function markedUrl(file: URL, id: string): string {
  return `${file.href}?${MARK}=${id}`
}

interface ResolveContext {
  readonly parentURL?: string | undefined
}

interface Resolved {
  readonly url: string
  readonly format?: string | null | undefined
  readonly shortCircuit?: boolean
}

interface Loaded {
  readonly format: string | null | undefined
  readonly source?: string | ArrayBuffer | NodeJS.TypedArray | undefined
  readonly shortCircuit?: boolean
}

type Next<Context, Result> = (specifier: string, context?: Context) => Result

/** Both hooks answer in the way in which the next one does: at once, or by a promise. */
export function resolve<Result extends Resolved | Promise<Resolved>>(
  specifier: string,
  context: ResolveContext,
  next: Next<ResolveContext, Result>,
): Result | Resolved {
  const id = idOf(context.parentURL ?? '')
  if (id === null) return next(specifier, context)
  if (/^(fastly|cloudflare):/.test(specifier)) return offered(specifier, id)
  const result = next(specifier, context)
  if (result instanceof Promise) return result.then((one) => marked(one, id)) as Result
  return marked(result, id)
}

export function load<Context, Result extends Loaded | Promise<Loaded>>(
  url: string,
  context: Context,
  next: Next<Context, Result>,
): Result | Loaded {
  const id = idOf(url)
  if (id === null) return next(url, context)
  if (url.startsWith(`${MARK}:`))
    return { format: 'module', source: offeredSource(url, id), shortCircuit: true }
  const source = readFileSync(fileURLToPath(url), 'utf8')
  return { format: 'module', source: scoped(source, id), shortCircuit: true }
}

function idOf(url: string): string | null {
  const [, id] = /[?:](?:headrace-program=)?((?:fastly|worker)-[0-9]+)(?:$|\/)/.exec(url) ?? []
  return id !== undefined && url.includes(MARK) ? id : null
}

function kindOf(id: string): ProgramKind {
  return id.startsWith('fastly') ? 'fastly' : 'worker'
}

function offered(specifier: string, id: string): Resolved {
  const known = OFFERED[kindOf(id)]
  if (Object.hasOwn(known, specifier))
    return { url: `${MARK}:${id}/${specifier}`, format: 'module', shortCircuit: true }
  throw new Error(`${specifier} is not offered; there is ${Object.keys(known).join(', ')}`)
}

/** Modules of packages that are CommonJS, JSON and node's own are left to node. */
function marked(resolved: Resolved, id: string): Resolved {
  const { url, format } = resolved
  const isModule = format === 'module' || !url.includes('/node_modules/')
  if (!url.startsWith('file:') || !/\.m?js$/.test(url) || !isModule) return resolved
  return { ...resolved, url: `${url}?${MARK}=${id}`, format: 'module' }
}

function offeredSource(url: string, id: string): string {
  const specifier = url.slice(url.indexOf('/') + 1)
  const names = OFFERED[kindOf(id)][specifier] ?? []
  return `export const { ${names.join(', ')} } = ${scopeOf(id)}.modules[${JSON.stringify(specifier)}]`
}

/** In the first line, so that every line keeps its number. What the module declares itself stays its own. */
function scoped(source: string, id: string): string {
  const declared = declaredIn(source)
  const names = GLOBALS[kindOf(id)].filter((name) => !declared.has(name))
  return `const { ${names.join(', ')} } = ${scopeOf(id)}.globals; ${source.replace(/^#!/, '//')}`
}

function scopeOf(id: string): string {
  return `(0, eval)('globalThis')[Symbol.for('headrace.programs')].get('${id}')`
}

/** Where a module is wrong; null if it isn't. */
export function syntaxFault(source: string): { readonly line: number; readonly column: number } | null {
  try {
    parse(source, SYNTAX)
    return null
  } catch (error) {
    return (error as { readonly loc?: { readonly line: number; readonly column: number } }).loc ?? null
  }
}

const SYNTAX = { ecmaVersion: 'latest', sourceType: 'module', allowHashBang: true } as const

/** The names that a module binds at its top. None if it is not understood: what is wrong with it, node says best. */
function declaredIn(source: string): ReadonlySet<string> {
  const names = new Set<string>()
  try {
    const { body } = parse(source, SYNTAX)
    for (const statement of body) declare(statement, names)
  } catch {
    return names
  }
  return names
}

function declare(statement: Syntax['body'][number], names: Set<string>): void {
  switch (statement.type) {
    case 'ImportDeclaration':
      for (const { local } of statement.specifiers) names.add(local.name)
      return
    case 'ExportNamedDeclaration':
      if (statement.declaration) declare(statement.declaration, names)
      return
    case 'ExportDefaultDeclaration': {
      const { declaration } = statement
      if ('id' in declaration && declaration.id && declaration.type !== 'FunctionExpression')
        names.add(declaration.id.name)
      return
    }
    case 'FunctionDeclaration':
    case 'ClassDeclaration':
      names.add(statement.id.name)
      return
    case 'VariableDeclaration':
      for (const { id } of statement.declarations) bind(id, names)
  }
}

function bind(pattern: Pattern | null, names: Set<string>): void {
  switch (pattern?.type) {
    case 'Identifier':
      names.add(pattern.name)
      return
    case 'ObjectPattern':
      for (const one of pattern.properties) bind(one.type === 'Property' ? one.value : one.argument, names)
      return
    case 'ArrayPattern':
      for (const one of pattern.elements) bind(one, names)
      return
    case 'AssignmentPattern':
      bind(pattern.left, names)
      return
    case 'RestElement':
      bind(pattern.argument, names)
  }
}
