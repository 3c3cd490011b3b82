// A service: a site, compiled from its options once.

import { isDeepStrictEqual } from 'node:util'
import type { Backend, BackendOptions } from '../dial/backend.ts'
import { createBackend, succeed } from '../dial/backend.ts'
import type { Director, DirectorOptions } from '../dial/director.ts'
import { createDirector } from '../dial/director.ts'
import type { Gate, GateOptions } from '../gate/gate.ts'
import { createGate } from '../gate/gate.ts'
import type { HeaderRules } from '../handoff/fields.ts'
import type { Handler } from '../handoff/handler.ts'
import { loadHandler } from '../handoff/handler.ts'
import type { Route, RouteOptions } from '../handoff/routes.ts'
import { compileRoute } from '../handoff/routes.ts'
import type { Counter } from './permits.ts'
import { permitsFor } from './permits.ts'

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
  readonly handlerTimeoutMs: number
  /** Send RFC 7239's `Forwarded` besides X-Forwarded-*. */
  readonly forwarded: boolean
}

export interface Service {
  readonly options: ServiceOptions
  readonly gate: Gate | null
  readonly backends: ReadonlyMap<string, Backend>
  readonly directors: ReadonlyMap<string, Director>
  readonly routes: readonly Route[]
  /** Resolves when the handler's module is loaded; rejects with config-invalid. */
  readonly handler: Promise<Handler> | Handler | null
}

/**
 * `before`: those of now, if these are to take their place. What has not changed goes on: backends with their health and
 * connections, gates with their counts. Modules of handlers begin to load, in that case anew. Throws config-invalid.
 */
export function createServices(
  all: readonly ServiceOptions[],
  counter: Counter,
  before?: readonly Service[],
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
  return all.map((options) => createService(options, { counter, load, before: known.get(options.id) }))
}

interface Means {
  readonly counter: Counter
  load(file: string): Promise<Handler>
  readonly before: Service | undefined
}

function createService(options: ServiceOptions, { counter, load, before }: Means): Service {
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
  }
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
