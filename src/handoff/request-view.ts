// The request as routes and handlers see it: mutable; what they change is what the origin gets.

import { HeadraceError } from '../errors.ts'
import type { Field, RequestHead } from '../head/head.ts'
import { field } from '../head/head.ts'

/** RFC 9110 section 5.6.2. */
const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/
/** RFC 9110 section 5.5, in latin1: what can be sent as it is. */
const VALUE = /^[\t\x20-\x7e\x80-\xff]*$/
const TARGET = /^\/[\x21-\x7e\x80-\xff]*$/

/** What the handshake and the framing of messages own. Changing them could only break the connection, or smuggle. */
export const OWNED_FIELDS: ReadonlySet<string> = new Set([
  'connection',
  'upgrade',
  'keep-alive',
  'transfer-encoding',
  'content-length',
  'te',
  'trailer',
  'sec-websocket-key',
  'sec-websocket-version',
  'sec-websocket-accept',
])

export interface RequestFacts {
  readonly isUpgrade: boolean
  readonly client: { readonly address: string; readonly port: number }
  readonly tls: { readonly servername: string; readonly protocol: string; readonly cipher: string } | null
  /** The id of the service. */
  readonly service: string
  /** The host that was asked for, without port, in lower case. */
  readonly host: string
}

export class RequestView {
  readonly headers: HeaderView
  readonly isUpgrade: boolean
  readonly client: RequestFacts['client']
  readonly tls: RequestFacts['tls']
  readonly service: string
  readonly host: string
  /** True once the decision was made: nothing changes any more. */
  isDecided = false
  #method: string
  #url: string

  constructor(head: RequestHead, facts: RequestFacts) {
    this.headers = new HeaderView(head.fields)
    this.isUpgrade = facts.isUpgrade
    this.client = facts.client
    this.tls = facts.tls
    this.service = facts.service
    this.host = facts.host
    this.#method = head.method
    this.#url = head.target
  }

  get method(): string {
    return this.#method
  }

  /** Throws argument-invalid for what is no method, and on an upgrade, which is always GET. */
  set method(method: string) {
    if (!TOKEN.test(method)) throw invalid(`method: ${JSON.stringify(method)} is not a method`)
    if (this.isUpgrade && method !== 'GET') throw invalid('method: a WebSocket upgrade is always GET')
    this.#method = method
  }

  /** Path and query, as in the request line: `/chat?room=7`. */
  get url(): string {
    return this.#url
  }

  /** Throws argument-invalid unless it starts with `/` and has no space or control. */
  set url(url: string) {
    if (!TARGET.test(url)) throw invalid(`url: ${JSON.stringify(url)} is not a path with an optional query`)
    this.#url = url
  }

  /** The path without the query. */
  get path(): string {
    const mark = this.#url.indexOf('?')
    return mark === -1 ? this.#url : this.#url.slice(0, mark)
  }

  /** Replaces the path, the query stays. Throws as `url` does. */
  set path(path: string) {
    if (path.includes('?')) throw invalid('path: a path has no query, set url instead')
    this.url = path + this.#url.slice(this.path.length)
  }

  /** The parameters of the query, as a copy. */
  get query(): URLSearchParams {
    return new URLSearchParams(this.#url.slice(this.path.length))
  }

  /** The subprotocols that the client offers, in its order. */
  get protocols(): string[] {
    const offered = this.headers.get('sec-websocket-protocol') ?? ''
    return offered.split(',').flatMap((one) => one.trim() || [])
  }

  head(): RequestHead {
    return { method: this.#method, target: this.#url, version: '1.1', fields: this.headers.fields }
  }
}

/** The fields of a request. Names are found in any letter case, and kept in the one in which they were written. */
export class HeaderView {
  fields: readonly Field[]

  constructor(fields: readonly Field[]) {
    this.fields = fields
  }

  /** The values of this name, joined with `, `; null if there is none. */
  get(name: string): string | null {
    const values = this.getAll(name)
    return values.length === 0 ? null : values.join(', ')
  }

  getAll(name: string): string[] {
    const key = name.toLowerCase()
    return this.fields.filter((one) => one.key === key).map(({ value }) => value)
  }

  has(name: string): boolean {
    const key = name.toLowerCase()
    return this.fields.some((one) => one.key === key)
  }

  /** Puts one field in the place of all of this name, or at the end. Throws argument-invalid. */
  set(name: string, value: string): void {
    this.fields = withField(this.fields, checkField(name, value))
  }

  /** Adds a field at the end. Throws argument-invalid. */
  append(name: string, value: string): void {
    this.fields = [...this.fields, checkField(name, value)]
  }

  /** Removes all fields of this name. Throws argument-invalid. */
  delete(name: string): void {
    const { key } = checkField(name, '')
    this.fields = this.fields.filter((one) => one.key !== key)
  }

  *[Symbol.iterator](): Generator<[name: string, value: string]> {
    for (const { name, value } of this.fields) yield [name, value]
  }
}

/** `fields` with `one` in the place of the first of its name; others of that name go. */
export function withField(fields: readonly Field[], one: Field): Field[] {
  const at = fields.findIndex(({ key }) => key === one.key)
  if (at === -1) return [...fields, one]
  return fields.flatMap((old, index) => (index === at ? one : old.key === one.key ? [] : old))
}

function checkField(name: string, value: string): Field {
  if (!TOKEN.test(name)) throw invalid(`headers: ${JSON.stringify(name)} is not a field name`)
  if (!VALUE.test(value))
    throw invalid(`headers: the value of ${name} has characters that a field may not have`)
  if (OWNED_FIELDS.has(name.toLowerCase()))
    throw invalid(`headers: ${name} belongs to the connection, leave it alone`)
  return field(name, value)
}

function invalid(detail: string): HeadraceError {
  return new HeadraceError('argument-invalid', detail)
}
