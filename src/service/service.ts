// A service: a site, compiled from its options once.

import { statSync } from 'node:fs'
import { isDeepStrictEqual } from 'node:util'
import type { Backend, BackendOptions } from '../dial/backend.ts'
import { createBackend, succeed } from '../dial/backend.ts'
import type { Director, DirectorOptions } from '../dial/director.ts'
import { createDirector } from '../dial/director.ts'
import { HeadraceError } from '../errors.ts'
import type { Gate, GateOptions } from '../gate/gate.ts'
import { createGate } from '../gate/gate.ts'
import type { HeaderRules } from '../handoff/fields.ts'
import type { Handler, Program } from '../handoff/handler.ts'
import { loadHandler } from '../handoff/handler.ts'
import type { Route, RouteOptions } from '../handoff/routes.ts'
import { compileRoute } from '../handoff/routes.ts'
import type { Local, LocalOptions } from '../local/endpoint.ts'
import { createLocal } from '../local/endpoint.ts'
import type { Counter } from './permits.ts'
import { permitsFor } from './permits.ts'
import type { Places } from './places.ts'
import { localBackend, onlyHere } from './places.ts'

export interface ServiceOptions {
  readonly id: string
  /** Exact names, `*.example.com`, or `*` for all. */
  readonly domains: readonly string[]
  /** The product switch. */
  readonly websockets: boolean
  /** What upgrades must pass; undefined: nothing. */
  readonly gate: GateOptions | undefined
  readonly backends: readonly BackendOptions[]
  /** Their names and those of the backends are different ones. */
  readonly directors: readonly DirectorOptions[]
  /** For each request that goes to an origin. */
  readonly headers: HeaderRules
  /** Asked in order, if there is no handler. */
  readonly routes: readonly RouteOptions[]
  /** A function, or the absolute path of a module whose default export is one. */
  readonly handler: Handler | string | undefined
  /** A program in the shape of another product, in the place of a handler. */
  readonly program: ProgramOptions | undefined
  /** Of a handler, and of a program: the answers of backends that it waits for included. */
  readonly handlerTimeoutMs: number
  /** Of the WebSockets that end here. */
  readonly local: LocalOptions
  /** Send RFC 7239's `Forwarded` besides X-Forwarded-*. */
  readonly forwarded: boolean
}

export interface ProgramOptions {
  readonly kind: 'fastly' | 'worker'
  /** The absolute path of its module. */
  readonly file: string
  /** What it finds in its environment. */
  readonly env: Readonly<Record<string, unknown>>
  /** Of a worker: names in its environment, and the classes of the objects that they stand for. */
  readonly objects: Readonly<Record<string, string>>
  /** Of a worker: the backend or director that has what it fetches of its own host; '' if there is none. */
  readonly backend: string
}

/** What is handed in from above. */
export interface ServiceMeans {
  readonly places: Places
  /** Rejects with config-invalid. */
  loadProgram(options: ProgramOptions, service: string): Promise<Program>
}

export interface Service {
  readonly options: ServiceOptions
  readonly gate: Gate | null
  readonly backends: ReadonlyMap<string, Backend>
  readonly directors: ReadonlyMap<string, Director>
  readonly routes: readonly Route[]
  /** Resolves when the handler's module is loaded; rejects with config-invalid. */
  readonly handler: Promise<Handler> | Handler | null
  /** As the handler. */
  readonly program: Promise<Program> | null
  /** When its file was changed last. */
  readonly programTime: number
  readonly local: Local
  /** Stands for this process where others have a backend. */
  readonly here: Backend
  readonly places: Places
}

const NO_PROGRAMS: ServiceMeans = {
  places: onlyHere,
  async loadProgram({ file }) {
    throw new HeadraceError('config-invalid', `the program ${file} can't run here`)
  },
}

/**
 * `before`: those of now, if these are to take their place. What has not changed goes on: backends with their health and
 * connections, gates with their counts, sessions, programs whose file is the same. Modules of handlers begin to load, in that case anew. Throws config-invalid.
 */
export function createServices(
  all: readonly ServiceOptions[],
  counter: Counter,
  before?: readonly Service[],
  means: ServiceMeans = NO_PROGRAMS,
): Service[] {
  const loading = new Map<string, Promise<Handler>>()
  const load = (file: string) => {
    const known = loading.get(file) ?? loadHandler(file, before !== undefined)
    loading.set(file, known)
    // Whoever waits for it is told; nobody waiting is no reason to end the process.
    known.catch(() => {})
    return known
  }
  const known = new Map(before?.map((one) => [one.options.id, one]))
  return all.map((options) =>
    createService(options, { ...means, counter, load, before: known.get(options.id) }),
  )
}

interface Means extends ServiceMeans {
  readonly counter: Counter
  load(file: string): Promise<Handler>
  readonly before: Service | undefined
}

function createService(options: ServiceOptions, means: Means): Service {
  const { counter, load, before } = means
  const { id, handler } = options
  const backends = new Map(
    backendsOf(options).map((one) => [
      one.name,
      createBackend(one, permitsFor(id, one, counter), before?.backends.get(one.name)),
    ]),
  )
  return {
    options,
    gate: options.gate === undefined ? null : gateOf(id, options.gate, before),
    backends,
    directors: new Map(options.directors.map((one) => [one.name, createDirector(one, backends)])),
    routes: options.routes.map(compileRoute),
    handler: typeof handler === 'string' ? load(handler) : (handler ?? null),
    ...programOf(options, means),
    local: isSameLocal(options, before) ? before.local : createLocal(options.local),
    here: before?.here ?? localBackend({ path: 'local' }),
    places: means.places,
  }
}

/** One that has not changed goes on, and with it the objects that it has. */
function programOf({ id, program: options }: ServiceOptions, { before, loadProgram }: Means) {
  if (options === undefined) return { program: null, programTime: 0 }
  const programTime = changedAt(options.file)
  const isSame = before?.programTime === programTime && isDeepStrictEqual(before.options.program, options)
  const program = isSame && before.program !== null ? before.program : loadProgram(options, id)
  // Whoever waits for it is told; nobody waiting is no reason to end the process.
  program.catch(() => {})
  return { program, programTime }
}

function changedAt(file: string): number {
  return statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0
}

function isSameLocal({ local }: ServiceOptions, before?: Service): before is Service {
  return before !== undefined && isDeepStrictEqual(before.options.local, local)
}

function gateOf(id: string, options: GateOptions, before?: Service): Gate {
  const isSame = before?.gate != null && isDeepStrictEqual(before.options.gate, options)
  return isSame ? before.gate : createGate(id, options, before?.gate?.counts)
}

/** How many connections each service expects at most; those that say nothing are not in it. */
export function expectations(services: readonly ServiceOptions[]): ReadonlyMap<string, number> {
  const expected = services.map(({ id, gate }) => [id, gate?.expectedConnections ?? null] as const)
  return new Map(expected.flatMap(([id, count]) => (count === null ? [] : [[id, count]])))
}

/** The backends of `after` take the place of those that had their names. */
export function succeedBackends(before: readonly Service[], after: readonly Service[]): void {
  const known = new Map(before.map((one) => [one.options.id, one.backends]))
  for (const { options, backends } of after) {
    for (const [name, backend] of backends) {
      const predecessor = known.get(options.id)?.get(name)
      if (predecessor !== undefined) succeed(predecessor, backend)
    }
  }
}

/** Ejected is who is passed by for others: a backend that is in no director has none. */
function backendsOf({ backends, directors }: ServiceOptions): BackendOptions[] {
  const members = new Set(directors.flatMap((director) => director.members.map(({ backend }) => backend)))
  return backends.map((one) => (members.has(one.name) ? one : { ...one, ejection: undefined }))
}
