// A Fastly Compute program in JavaScript, as it is: `addEventListener('fetch', …)`, events with `request`, `client`,
// `respondWith` and `waitUntil`, `fetch` of a backend by its name, and the handoff.

import { hostname } from 'node:os'
import type { Decision } from '../handoff/decision.ts'
import { handoffBackend } from '../handoff/decision.ts'
import type { Program } from '../handoff/handler.ts'
import { invalid, loadModule } from './load.ts'
import { answerOf, applyTo, bodyOf, headOf } from './messages.ts'
import type { Handling, Report } from './scope.ts'
import {
  answered,
  begin,
  conclude,
  current,
  currentOrNull,
  globalsOf,
  ProgramRequest,
  ProgramResponse,
  within,
} from './scope.ts'

export interface FastlyOptions {
  /** Absolute. */
  readonly file: string
  readonly env: Readonly<Record<string, unknown>>
  /** The id. */
  readonly service: string
}

type FetchListener = (event: FetchEvent) => unknown
type RequestInput = ConstructorParameters<typeof Request>[0]
type FastlyInit = RequestInit & { readonly backend?: unknown }

/** Resolves when the module is loaded. Throws config-invalid. */
export async function loadFastly({ file, env, service }: FastlyOptions, report: Report): Promise<Program> {
  const listeners = new Set<FetchListener>()
  const handoffs = new WeakMap<object, { readonly request: Request; readonly backend: string }>()
  const { createWebsocketHandoff, addEventListener, removeEventListener, fetch } = {
    createWebsocketHandoff(...given: [request: Request, backend: string]): Response {
      const isRequest = (value: unknown) => value instanceof Request
      const backend = handoffBackend(given, isRequest, () => currentOrNull()?.isDecided === false)
      const response = new ProgramResponse(null, { status: 101 })
      handoffs.set(response, { request: given[0], backend })
      return response
    },
    addEventListener(type: string, listener: FetchListener): void {
      if (type === 'fetch') listeners.add(listener)
    },
    removeEventListener(type: string, listener: FetchListener): void {
      if (type === 'fetch') listeners.delete(listener)
    },
    fetch: fetchBackend,
  }
  Object.defineProperty(createWebsocketHandoff, 'length', { value: 2 })
  // The sample on Fastly's page has lost its import line: the name is there without it, too.
  const own = { addEventListener, removeEventListener, fetch, Request: FastlyRequest, createWebsocketHandoff }
  await loadModule('fastly', file, {
    globals: globalsOf(own, report),
    modules: {
      'fastly:websocket': { createWebsocketHandoff },
      'fastly:env': { env: (name: string) => environmentOf(env, service, String(name)) },
    },
  })
  if (listeners.size === 0) throw invalid(file, "it listens to nothing: addEventListener('fetch', …)")

  return async (view, context) => {
    const handling = begin(view, context)
    const event = new FetchEvent(handling)
    let given: Response | null = null
    try {
      within(handling, () => {
        // What an async listener rejects with is nobody's answer.
        for (const listener of listeners) Promise.resolve(listener(event)).catch(report)
      })
      given = await event.answer()
      return decisionOf(given, handling)
    } finally {
      void conclude(handling, given, report)
    }
  }

  function decisionOf(response: Response, { view, first }: Handling): Decision {
    const handoff = handoffs.get(response)
    if (handoff === undefined) return answerOf(response, view.method)
    applyTo(view, handoff.request, first)
    return { kind: 'handoff', backend: handoff.backend }
  }
}

async function fetchBackend(input: RequestInput, init?: FastlyInit): Promise<Response> {
  const handling = current('fetch')
  const backend = init?.backend ?? (input instanceof Request ? backends.get(input) : undefined)
  const isAsItIs = input instanceof Request && Object.keys(init ?? {}).every((key) => key === 'backend')
  const request = isAsItIs ? (input as Request) : new FastlyRequest(input, init)
  if (backend === undefined) {
    throw new Error(
      `No backend specified for request with url ${request.url}. Must provide a \`backend\` property on the \`init\` object passed to either \`new Request()\` or \`fetch\``,
    )
  }
  const { context, first } = handling
  const answer = await context.ask(String(backend), headOf(request, first), bodyOf(request))
  return answered(handling, answer, request.method)
}

const backends = new WeakMap<object, unknown>()

/** Also says which backend it is for. */
class FastlyRequest extends ProgramRequest {
  constructor(input: RequestInput, init?: FastlyInit) {
    super(input, init)
    const backend = init?.backend ?? (input instanceof Request ? backends.get(input) : undefined)
    if (backend !== undefined) backends.set(this, backend)
  }

  static override [Symbol.hasInstance](value: unknown): boolean {
    return value instanceof Request
  }
}

class FetchEvent {
  readonly type = 'fetch'
  readonly request: Request
  readonly client: { readonly address: string; readonly port: number; readonly tlsProtocol: string | null }
  readonly #handling: Handling
  #answer: Promise<unknown> | null = null
  #isDispatched = false

  constructor(handling: Handling) {
    const { client, tls } = handling.view
    this.#handling = handling
    this.request = handling.request
    this.client = { ...client, tlsProtocol: tls?.protocol ?? null }
  }

  respondWith(response: Response | Promise<Response>): void {
    if (this.#isDispatched) {
      const text = 'FetchEvent#respondWith must be called synchronously from within a FetchEvent handler'
      throw new DOMException(text, 'InvalidStateError')
    }
    if (this.#answer !== null) {
      const text = "FetchEvent#respondWith can't be called twice on the same event"
      throw new DOMException(text, 'InvalidStateError')
    }
    this.#answer = Promise.resolve(response)
    // Whoever waits for it is told.
    this.#answer.catch(() => {})
  }

  waitUntil(pending: unknown): void {
    const promise = Promise.resolve(pending)
    promise.catch(() => {})
    this.#handling.pending.push(promise)
  }

  /** Throws TypeError if nobody has called respondWith, or with no Response. */
  async answer(): Promise<Response> {
    this.#isDispatched = true
    if (this.#answer === null) throw new TypeError('no listener of the event fetch has called respondWith')
    const response = await this.#answer
    if (!(response instanceof Response)) throw new TypeError('FetchEvent#respondWith got no Response')
    return response
  }
}

/** As Fastly's: '' for what is not known. */
function environmentOf(env: FastlyOptions['env'], service: string, name: string): string {
  if (Object.hasOwn(env, name)) return String(env[name])
  if (name === 'FASTLY_SERVICE_ID') return service
  return name === 'FASTLY_HOSTNAME' ? hostname() : ''
}
