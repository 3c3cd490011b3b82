// Objects of a worker's classes, one for each name, in the process where that lives: what Durable Objects are to chats. They
// are in memory: one that nobody uses goes after a while, and all go with their process.

import { createHash, randomBytes } from 'node:crypto'
import { LocalSocket } from '../local/socket.ts'
import type { ProgramResponse, Report } from './scope.ts'

/** How long an object without sockets and requests is kept, in ms. */
const IDLE_MS = 10_000

/** Of an object: its class's binding, and a digest of its name. */
export class ObjectId {
  readonly #text: string

  constructor(text: string) {
    this.#text = text
  }

  toString(): string {
    return this.#text
  }

  equals(other: unknown): boolean {
    return String(other) === this.#text
  }
}

export const ids = {
  fromName: (name: unknown) => new ObjectId(createHash('sha256').update(String(name)).digest('hex')),
  unique: () => new ObjectId(randomBytes(32).toString('hex')),
  /** Throws TypeError. */
  fromString(text: unknown): ObjectId {
    if (typeof text !== 'string' || !/^[0-9a-f]{64}$/.test(text))
      throw new TypeError('idFromString: no id of an object')
    return new ObjectId(text)
  },
}

/** A socket with what Workers put beside it. */
export class WorkerSocket extends LocalSocket {
  #attachment: unknown = null

  serializeAttachment(attachment: unknown): void {
    this.#attachment = structuredClone(attachment)
  }

  deserializeAttachment(): unknown {
    return structuredClone(this.#attachment)
  }
}

/** What the classes have in common: `DurableObject` of `cloudflare:workers`. */
export class DurableObject {
  readonly ctx: ObjectState
  readonly env: unknown

  constructor(ctx: ObjectState, env: unknown) {
    this.ctx = ctx
    this.env = env
  }
}

/** The methods that we call. */
interface Live {
  fetch?(request: Request): unknown
  webSocketMessage?(socket: WorkerSocket, message: unknown): unknown
  webSocketClose?(socket: WorkerSocket, code: number, reason: string, wasClean: boolean): unknown
  webSocketError?(socket: WorkerSocket, error: unknown): unknown
}

export type ObjectClass = new (state: ObjectState, env: unknown) => Live

interface AutoResponse {
  readonly request: string
  readonly response: string
}

/** What an object knows of itself: its `ctx`, or `state`. */
export class ObjectState {
  readonly id: ObjectId
  readonly #report: Report
  readonly #sockets = new Map<WorkerSocket, readonly string[]>()
  #autoResponse: AutoResponse | null = null
  /** What requests wait for. */
  ready: Promise<unknown> = Promise.resolve()
  object: Live | null = null

  constructor(id: ObjectId, report: Report) {
    this.id = id
    this.#report = report
  }

  get storage(): never {
    throw new Error('ctx.storage is not offered: objects live in memory; keep what must last with a backend')
  }

  waitUntil(pending: unknown): void {
    Promise.resolve(pending).catch(this.#report)
  }

  async blockConcurrencyWhile<Result>(act: () => Promise<Result>): Promise<Result> {
    const result = Promise.resolve().then(act)
    this.ready = Promise.all([this.ready, result])
    this.ready.catch(() => {})
    return await result
  }

  /** What arrives there is told to the object's own methods. */
  acceptWebSocket(socket: WorkerSocket, tags: readonly string[] = []): void {
    socket.accept()
    this.#sockets.set(socket, tags)
    socket.addEventListener('message', ({ data }) => {
      if (data === this.#autoResponse?.request) return socket.send(this.#autoResponse?.response ?? '')
      return this.object?.webSocketMessage?.(socket, data)
    })
    socket.addEventListener('close', ({ code = 1006, reason = '', wasClean = false }) => {
      this.#sockets.delete(socket)
      return this.object?.webSocketClose?.(socket, code, reason, wasClean)
    })
    socket.addEventListener('error', ({ error }) => this.object?.webSocketError?.(socket, error))
  }

  getWebSockets(tag?: string): WorkerSocket[] {
    const all = [...this.#sockets]
    return all.flatMap(([socket, tags]) => (tag === undefined || tags.includes(tag) ? socket : []))
  }

  getTags(socket: WorkerSocket): readonly string[] {
    return this.#sockets.get(socket) ?? []
  }

  setWebSocketAutoResponse(pair: AutoResponse | null = null): void {
    this.#autoResponse = pair
  }

  getWebSocketAutoResponse(): AutoResponse | null {
    return this.#autoResponse
  }
}

export class WebSocketRequestResponsePair implements AutoResponse {
  readonly request: string
  readonly response: string

  constructor(request: string, response: string) {
    this.request = request
    this.response = response
  }
}

interface Instance {
  readonly object: Live
  readonly state: ObjectState
  /** Requests and sockets. */
  uses: number
  timer: NodeJS.Timeout | undefined
}

export interface Objects {
  /** Has the object of this id answer, which is made if there is none. `socketOf`: what it serves with its answer. */
  fetch(binding: string, id: string, request: Request): Promise<unknown>
}

export function createObjects(
  classOf: (binding: string) => ObjectClass,
  env: unknown,
  socketOf: (response: ProgramResponse) => WorkerSocket | null,
  report: Report,
): Objects {
  const instances = new Map<string, Instance>()

  function instanceOf(binding: string, id: string): Instance {
    const key = `${binding}/${id}`
    const known = instances.get(key)
    if (known !== undefined) return known
    const state = new ObjectState(new ObjectId(id), report)
    const object = new (classOf(binding))(state, env)
    state.object = object
    const instance = { object, state, uses: 0, timer: undefined }
    instances.set(key, instance)
    return instance
  }

  function release(key: string, instance: Instance): void {
    instance.uses -= 1
    if (instance.uses > 0) return
    instance.timer = setTimeout(() => instances.delete(key), IDLE_MS).unref()
  }

  return {
    async fetch(binding, id, request) {
      const key = `${binding}/${id}`
      const instance = instanceOf(binding, id)
      clearTimeout(instance.timer)
      instance.uses += 1
      try {
        await instance.state.ready
        if (typeof instance.object.fetch !== 'function')
          throw new TypeError(`the class of ${binding} has no fetch`)
        const response = await instance.object.fetch(request)
        const socket = response instanceof Response ? socketOf(response as ProgramResponse) : null
        if (socket !== null) {
          instance.uses += 1
          socket.addEventListener('close', () => release(key, instance))
        }
        return response
      } finally {
        release(key, instance)
      }
    },
  }
}
