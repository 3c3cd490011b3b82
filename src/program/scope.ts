// What programs of either kind have in common: their global scope, and who they are working for at the moment.

import { AsyncLocalStorage } from 'node:async_hooks'
import type { IncomingMessage } from 'node:http'
import type { ProgramContext } from '../handoff/handler.ts'
import type { RequestView } from '../handoff/request-view.ts'
import { LocalSocket } from '../local/socket.ts'
import type { First } from './messages.ts'
import { noteLength, requestOf, responseOf } from './messages.ts'

/** Told what fails beside a request: nobody else would hear of it. */
export type Report = (error: unknown) => void

/** The handling of one request by a program. */
export interface Handling {
  readonly view: RequestView
  readonly context: ProgramContext
  readonly first: First
  readonly request: Request
  /** What backends have answered. */
  readonly answers: { readonly body: ReadableStream | null; readonly answer: IncomingMessage }[]
  /** What is to be waited for before its leftovers are cleared away. */
  readonly pending: Promise<unknown>[]
  isDecided: boolean
}

/** Set in whatever a program does for a request, however late. */
const handlings = new AsyncLocalStorage<Handling>()

/** Throws TypeError for a request that the Fetch standard can't have. */
export function begin(view: RequestView, context: ProgramContext): Handling {
  const request = requestOf(view, () => context.body, ProgramRequest)
  const first = { url: request.url, target: view.url, fields: view.headers.fields }
  return { view, context, first, request, answers: [], pending: [], isDecided: false }
}

export function within<Result>(handling: Handling, act: () => Result): Result {
  return handlings.run(handling, act)
}

/** Throws Error outside of the handling of a request. */
export function current(call: string): Handling {
  const handling = handlings.getStore()
  if (handling === undefined) throw new Error(`${call}: only possible while a request is being handled`)
  return handling
}

/** Null outside. */
export function currentOrNull(): Handling | null {
  return handlings.getStore() ?? null
}

/** The answer of a backend, for the program. */
export function answered(handling: Handling, answer: IncomingMessage, method: string): Response {
  const response = responseOf(answer, method, ProgramResponse)
  handling.answers.push({ body: response.body, answer })
  return response
}

/** The request is decided, by this answer if it is one: what else backends have sent is not wanted any more. */
export async function conclude(handling: Handling, given: Response | null, report: Report): Promise<void> {
  handling.isDecided = true
  const waited = await Promise.allSettled(handling.pending)
  for (const one of waited) if (one.status === 'rejected') report(one.reason)
  for (const { body, answer } of handling.answers) {
    // Locked: it is read, or was copied.
    if (body !== null && body !== given?.body && !body.locked) answer.destroy()
  }
}

/** Node's own, but that a stream as its body needs no `duplex`, which other products don't ask for. */
export class ProgramRequest extends Request {
  constructor(input: ConstructorParameters<typeof Request>[0], init?: RequestInit) {
    const isStreamed = init?.body instanceof ReadableStream && !('duplex' in init)
    super(input, isStreamed ? ({ ...init, duplex: 'half' } as RequestInit) : init)
  }
}

export type ProgramResponseInit = ResponseInit & { readonly webSocket?: LocalSocket | null }

/** Node's own, and it may be a 101, with a WebSocket. */
export class ProgramResponse extends Response {
  readonly webSocket: LocalSocket | null

  constructor(body?: ConstructorParameters<typeof Response>[0], init?: ProgramResponseInit) {
    const isSwitch = init?.status === 101
    super(body, isSwitch ? ({ headers: init.headers ?? [] } as ResponseInit) : init)
    if (isSwitch) Object.defineProperties(this, { status: { value: 101 }, ok: { value: false } })
    this.webSocket = init?.webSocket ?? null
    noteLength(this, body)
  }

  static override json(data: unknown, init: ResponseInit = {}): Response {
    const headers = new Headers(init.headers)
    if (!headers.has('content-type')) headers.set('content-type', 'application/json')
    return new ProgramResponse(JSON.stringify(data), { ...init, headers })
  }
}

recognize(ProgramRequest, Request)
recognize(ProgramResponse, Response)

/** For `instanceof`, what node has made is one, too; what a program derives is its own business. */
function recognize(ours: object, nodes: object): void {
  Object.defineProperty(ours, Symbol.hasInstance, {
    value(this: unknown, value: unknown) {
      return Function.prototype[Symbol.hasInstance].call(this === ours ? nodes : this, value)
    },
  })
}

/** The global names of a program: its own, and behind them node's. */
export function globalsOf(
  own: Readonly<Record<string, unknown>>,
  report: Report,
): Readonly<Record<string, unknown>> {
  const globals: Record<string, unknown> = {
    Request: ProgramRequest,
    Response: ProgramResponse,
    WebSocket: LocalSocket,
    setTimeout: (act: Act, ms?: number, ...given: unknown[]) =>
      setTimeout(guarded(act, report), ms, ...given),
    setInterval: (act: Act, ms?: number, ...given: unknown[]) =>
      setInterval(guarded(act, report), ms, ...given),
    queueMicrotask: (act: Act) => queueMicrotask(guarded(act, report)),
    ...own,
  }
  const scope: unknown = new Proxy(globals, {
    get: (known, name) =>
      Object.hasOwn(known, name) ? known[name as string] : Reflect.get(globalThis, name),
    has: (known, name) => Object.hasOwn(known, name) || name in globalThis,
  })
  globals.self = scope
  globals.globalThis = scope
  return globals
}

type Act = (...given: unknown[]) => unknown

/** What a timer throws would end the process, and with it everybody's tunnels. */
function guarded(act: Act, report: Report): Act {
  return (...given) => {
    try {
      return act(...given)
    } catch (error) {
      report(error)
      return undefined
    }
  }
}
