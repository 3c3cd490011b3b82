// A service: a site, compiled from its options once.

import type { Backend, BackendOptions } from '../dial/backend.ts'
import { createBackend } from '../dial/backend.ts'
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

/** Throws config-invalid. A handler's module begins to load. */
export function createService(options: ServiceOptions, counter: Counter): Service {
  const { handler } = options
  const loading = typeof handler === 'string' ? loadHandler(handler) : (handler ?? null)
  // Whoever waits for it is told; nobody waiting is no reason to end the process.
  if (loading instanceof Promise) loading.catch(() => {})
  const backends = new Map(
    backendsOf(options).map((one) => [one.name, createBackend(one, permitsFor(options.id, one, counter))]),
  )
  return {
    options,
    gate: options.gate === undefined ? null : createGate(options.id, options.gate),
    backends,
    directors: new Map(options.directors.map((one) => [one.name, createDirector(one, backends)])),
    routes: options.routes.map(compileRoute),
    handler: loading,
  }
}

/** Ejected is who is passed by for others: a backend that is in no director has none. */
function backendsOf({ backends, directors }: ServiceOptions): BackendOptions[] {
  const members = new Set(directors.flatMap((director) => director.members.map(({ backend }) => backend)))
  return backends.map((one) => (members.has(one.name) ? one : { ...one, ejection: undefined }))
}
