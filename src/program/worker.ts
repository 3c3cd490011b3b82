// A Cloudflare Worker in module form, as it is: `export default { fetch(request, env, ctx) }`, WebSocketPair, and objects of
// its classes by name. The worker is the endpoint of a WebSocket, gives it to an object, or to the service's backend.

import type { Decision } from '../handoff/decision.ts'
import type { Program } from '../handoff/handler.ts'
import { invalid, loadModule } from './load.ts'
import { answerOf, applyTo, bodyOf, headOf } from './messages.ts'
import type { ObjectClass } from './objects.ts'
import {
  createObjects,
  DurableObject,
  ids,
  ObjectId,
  WebSocketRequestResponsePair,
  WorkerSocket,
} from './objects.ts'
import type { Handling, Report } from './scope.ts'
import {
  answered,
  begin,
  conclude,
  current,
  globalsOf,
  ProgramRequest,
  ProgramResponse,
  within,
} from './scope.ts'

export interface WorkerOptions {
  /** Absolute. */
  readonly file: string
  readonly env: Readonly<Record<string, unknown>>
  /** Names in `env`, and the classes of their objects. */
  readonly objects: Readonly<Record<string, string>>
  /** Where `fetch` of the service's own host goes; '' if nowhere. */
  readonly backend: string
}

type RequestInput = ConstructorParameters<typeof Request>[0]
type Exports = Readonly<Record<string, unknown>>
type Entry = (request: Request, context: WorkerContext) => unknown

/** What a Response stands for that is none yet. */
type Meant =
  | { readonly kind: 'handoff'; readonly request: Request }
  | { readonly kind: 'pass'; readonly request: Request; readonly session: string }

/** Resolves when the module is loaded. Throws config-invalid. */
export async function loadWorker(options: WorkerOptions, report: Report): Promise<Program> {
  const { file, backend } = options
  const meant = new WeakMap<object, Meant>()
  const env: Record<string, unknown> = { ...options.env }
  for (const binding of Object.keys(options.objects)) env[binding] = namespaceOf(binding)
  const own = { fetch: fetchOwn, WebSocketPair, WebSocketRequestResponsePair }
  const modules = { 'cloudflare:workers': { DurableObject, WorkerEntrypoint, env } }
  const exported = await loadModule('worker', file, { globals: globalsOf(own, report), modules })
  const classes = classesOf(options, exported)
  const entry = entryOf(file, exported, env)
  const objects = createObjects((binding) => classes.get(binding) as ObjectClass, env, socketOf, report)

  return async (view, context) => {
    const handling = begin(view, context)
    let given: Response | null = null
    try {
      const answer = await within(handling, () => answerTo(handling))
      if (!(answer instanceof Response)) throw new TypeError('fetch has returned no Response')
      given = answer
      return decisionOf(answer as ProgramResponse, handling)
    } finally {
      void conclude(handling, given, report)
    }
  }

  /** Of the object, if somebody else has decided that; else of the worker. */
  function answerTo(handling: Handling): unknown {
    const { request, context } = handling
    if (context.object === null) return entry(request, new WorkerContext(handling))
    const [binding = '', id = ''] = context.object.split('/')
    return objects.fetch(binding, id, request)
  }

  function decisionOf(response: ProgramResponse, { view, first }: Handling): Decision {
    const stands = meant.get(response)
    if (stands !== undefined) {
      applyTo(view, stands.request, first)
      return stands.kind === 'handoff'
        ? { kind: 'handoff', backend }
        : { kind: 'pass', session: stands.session }
    }
    const socket = socketOf(response)
    if (socket !== null) {
      if (!view.isUpgrade) throw new TypeError('a WebSocket for a request that is no upgrade')
      return servedOf(response, socket, view.protocols)
    }
    if (response.status === 101)
      throw new TypeError('a Response of status 101 without a webSocket of a WebSocketPair')
    return answerOf(response, view.method)
  }

  /** `fetch` of the service's own host: an upgrade is handed off when its Response is returned. */
  async function fetchOwn(input: RequestInput, init?: RequestInit): Promise<Response> {
    const handling = current('fetch')
    const request = input instanceof Request && init === undefined ? input : new ProgramRequest(input, init)
    const { host } = new URL(request.url)
    if (host !== new URL(handling.first.url).host) {
      throw new Error(`fetch: ${host} is not the host of this service, and only its backends are dialled`)
    }
    if (backend === '') throw new Error('fetch: there is no backend for it; name one as program.backend')
    if (isUpgrade(request, handling)) return standIn({ kind: 'handoff', request })
    const { context, first } = handling
    return answered(
      handling,
      await context.ask(backend, headOf(request, first), bodyOf(request)),
      request.method,
    )
  }

  function standIn(what: Meant): Response {
    const response = new ProgramResponse(null, { status: 101 })
    meant.set(response, what)
    return response
  }

  function namespaceOf(binding: string) {
    const get = (id: unknown) => stubOf(binding, id instanceof ObjectId ? id : ids.fromString(id))
    return {
      idFromName: ids.fromName,
      idFromString: ids.fromString,
      newUniqueId: ids.unique,
      get,
      getByName: (name: unknown) => get(ids.fromName(name)),
    }
  }

  function stubOf(binding: string, id: ObjectId) {
    const session = `${binding}/${id}`
    return {
      id,
      async fetch(input: RequestInput, init?: RequestInit): Promise<unknown> {
        const handling = current('fetch of an object')
        const { context, first } = handling
        const request =
          input instanceof Request && init === undefined ? input : new ProgramRequest(input, init)
        if (!context.isElsewhere(session)) return await objects.fetch(binding, id.toString(), request)
        if (isUpgrade(request, handling)) return standIn({ kind: 'pass', request, session })
        const answer = await context.askSession(session, headOf(request, first), bodyOf(request))
        return answered(handling, answer, request.method)
      },
    }
  }
}

function isUpgrade(request: Request, { view }: Handling): boolean {
  return view.isUpgrade && request.headers.get('upgrade')?.toLowerCase() === 'websocket'
}

/** What the class of each binding is. Throws config-invalid. */
function classesOf({ file, objects }: WorkerOptions, exported: Exports): ReadonlyMap<string, ObjectClass> {
  return new Map(
    Object.entries(objects).map(([binding, name]) => {
      if (typeof exported[name] === 'function') return [binding, exported[name] as ObjectClass]
      throw invalid(file, `it exports no class ${name}, which objects.${binding} names`)
    }),
  )
}

/** Throws config-invalid. */
function entryOf(file: string, { default: main }: Exports, env: unknown): Entry {
  if (typeof main === 'function' && typeof main.prototype?.fetch === 'function') {
    const Made = main as new (context: WorkerContext, env: unknown) => { fetch(request: Request): unknown }
    return (request, context) => new Made(context, env).fetch(request)
  }
  const worker = main as
    | { fetch?(request: Request, env: unknown, context: WorkerContext): unknown }
    | undefined
  if (typeof worker?.fetch !== 'function')
    throw invalid(file, 'its default export has no fetch(request, env, ctx)')
  return (request, context) => worker.fetch?.(request, env, context)
}

class WorkerContext {
  readonly #handling: Handling

  constructor(handling: Handling) {
    this.#handling = handling
  }

  waitUntil(pending: unknown): void {
    const promise = Promise.resolve(pending)
    promise.catch(() => {})
    this.#handling.pending.push(promise)
  }

  /** There is no cache in front of anything that could answer instead. */
  passThroughOnException(): void {}
}

/** `WorkerEntrypoint` of `cloudflare:workers`. */
class WorkerEntrypoint {
  readonly ctx: WorkerContext
  readonly env: unknown

  constructor(ctx: WorkerContext, env: unknown) {
    this.ctx = ctx
    this.env = env
  }
}

/** The ends that go to clients, and the ones that the code has. */
const ends = new WeakMap<object, WorkerSocket>()

/** Two ends: 0 goes to the client in a Response, 1 is the code's. */
class WebSocketPair {
  readonly 0 = new WorkerSocket()
  readonly 1 = new WorkerSocket()

  constructor() {
    ends.set(this[0], this[1])
  }
}

/** The code's end of what a Response gives to the client. */
function socketOf({ webSocket }: ProgramResponse): WorkerSocket | null {
  return (webSocket && ends.get(webSocket)) ?? null
}

const HANDSHAKE = /^(connection|upgrade|content-length|transfer-encoding|sec-websocket-.*)$/

/** Throws TypeError for a subprotocol that nobody offered. */
function servedOf(response: ProgramResponse, socket: WorkerSocket, offered: readonly string[]): Decision {
  const { headers, webSocket } = response
  // It is given away once.
  if (webSocket !== null) ends.delete(webSocket)
  const protocol = headers.get('sec-websocket-protocol') ?? undefined
  if (protocol !== undefined && !offered.includes(protocol)) {
    throw new TypeError(`the client did not offer the subprotocol ${protocol}`)
  }
  const fields = [...headers].filter(([name]) => !HANDSHAKE.test(name))
  return { kind: 'serve', served: { socket, session: null, protocol, fields, begin() {} } }
}
