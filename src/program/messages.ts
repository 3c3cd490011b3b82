// Requests and answers in the shape of the Fetch standard, which is what programs see, and back to the heads that are sent.
// Fields that a program leaves alone keep their bytes: letter case, order, and how they were split.

import type { IncomingMessage } from 'node:http'
import { Readable } from 'node:stream'
import type { ReadableStream } from 'node:stream/web'
import type { Decision } from '../handoff/decision.ts'
import type { AskedBody } from '../handoff/handler.ts'
import type { RequestView } from '../handoff/request-view.ts'
import { OWNED_FIELDS } from '../handoff/request-view.ts'
import type { Field, RequestHead } from '../head/head.ts'
import { endToEnd, field, fieldsOf, firstValue } from '../head/head.ts'

const WITHOUT_BODY = new Set(['GET', 'HEAD'])
/** Statuses whose answers have no body in the Fetch standard. */
const NULL_BODY = new Set([101, 103, 204, 205, 304])

/** The bodies of requests that are as they came. */
const ownBodies = new WeakSet<object>()

/** The request that a program gets. Throws TypeError for a method or host that the Fetch standard can't have. */
export function requestOf(
  view: RequestView,
  body: () => Readable | null,
  Made: typeof Request = Request,
): Request {
  const scheme = view.tls === null ? 'http' : 'https'
  const init: RequestInit = { method: view.method, headers: headersOf(view.headers.fields) }
  const source = WITHOUT_BODY.has(view.method) || !hasBody(view) ? null : body()
  if (source !== null) {
    const stream = Readable.toWeb(source)
    ownBodies.add(stream)
    Object.assign(init, { body: stream, duplex: 'half' })
  }
  return new Made(`${scheme}://${view.headers.get('host')}${view.url}`, init)
}

function hasBody({ headers }: RequestView): boolean {
  return headers.has('transfer-encoding') || Number(headers.get('content-length') ?? 0) > 0
}

/** What a program asks for, as a head: `first` is the request as it came. */
export function headOf(request: Request, first: First): RequestHead {
  const { pathname, search } = new URL(request.url)
  // What nobody has changed keeps its bytes, which a URL would have normalized.
  const target = request.url === first.url ? first.target : pathname + search
  return { method: request.method, target, version: '1.1', fields: fieldsFor(request, first) }
}

/** The request as it came, before a program had it. */
export interface First {
  readonly url: string
  readonly target: string
  readonly fields: readonly Field[]
}

/** Makes of the view what a program has made of the request. Throws argument-invalid for what an upgrade can't be. */
export function applyTo(view: RequestView, request: Request, first: First): void {
  const { method, target } = headOf(request, first)
  view.method = method
  if (target !== view.url) view.url = target
  view.headers.fields = fieldsFor(request, first, (key) => OWNED_FIELDS.has(key))
}

/** The body to be sent with it. */
export function bodyOf({ body }: Request): AskedBody | null {
  if (body === null) return null
  return { stream: Readable.fromWeb(body as ReadableStream), isOwn: ownBodies.has(body) }
}

/** The fields of a request that a program has made, with its Host. `isKept`: whatever it has made of that one. */
function fieldsFor(
  request: Request,
  { url, fields: before }: First,
  isKept = (_key: string) => false,
): Field[] {
  const fields = merged(before, request.headers, isKept)
  const { host } = new URL(request.url)
  const given = request.headers.get('host')
  // A host that was written into the fields is meant; else that of the URL is.
  if (given !== null && (host === new URL(url).host || given !== firstValue(before, 'host'))) return fields
  return [field('Host', host), ...fields.filter(({ key }) => key !== 'host')]
}

/** `original`, changed to what `headers` says; but for what is kept. */
function merged(original: readonly Field[], headers: Headers, isKept = (_key: string) => false): Field[] {
  const before = headersOf(original)
  const seen = new Set<string>()
  const kept = original.flatMap((one) => {
    const { key, name } = one
    if (isKept(key) || isSame(key, before, headers)) return one
    if (seen.has(key)) return []
    seen.add(key)
    return valuesIn(headers, key).map((value) => field(name, value))
  })
  const added = [...headers].filter(([name]) => !before.has(name) && !isKept(name))
  return [...kept, ...added.map(([name, value]) => field(name, value))]
}

function isSame(key: string, before: Headers, after: Headers): boolean {
  return valuesIn(before, key).join('\n') === valuesIn(after, key).join('\n')
}

function valuesIn(headers: Headers, key: string): string[] {
  if (key === 'set-cookie') return headers.getSetCookie()
  const value = headers.get(key)
  return value === null ? [] : [value]
}

function headersOf(fields: readonly Field[]): Headers {
  const headers = new Headers()
  for (const { name, value } of fields) headers.append(name, value)
  return headers
}

/** What is known of answers of backends, by the body, or by the answer if that has none. */
const origins = new WeakMap<object, readonly Field[]>()
/** How long bodies are that a program has made of texts and bytes. */
const lengths = new WeakMap<object, number>()

/** The answer of a backend as a program sees it. */
export function responseOf(answer: IncomingMessage, method: string, Made: typeof Response): Response {
  const fields = endToEnd(fieldsOf(answer.rawHeaders))
  const { statusCode: status = 502, statusMessage: statusText = '' } = answer
  const hasNone = method === 'HEAD' || NULL_BODY.has(status)
  if (hasNone) answer.resume()
  const body = hasNone ? null : (Readable.toWeb(answer) as ConstructorParameters<typeof Response>[0])
  const response = new Made(body, { status, statusText, headers: headersOf(fields) })
  origins.set(response.body ?? response, fields)
  return response
}

/** Told of each answer that a program makes: what it was made of. */
export function noteLength(response: Response, made: unknown): void {
  if (response.body === null) return
  if (typeof made === 'string') lengths.set(response.body, Buffer.byteLength(made))
  else if (made instanceof ArrayBuffer || ArrayBuffer.isView(made))
    lengths.set(response.body, made.byteLength)
}

/** What is sent of an answer that a program gives. Throws TypeError if its body was used already. */
export function answerOf(response: Response, method: string): Decision {
  const { status, statusText: reason, headers, body } = response
  if (response.bodyUsed || body?.locked) throw new TypeError('the body of the answer was used already')
  const before = origins.get(body ?? response)
  const length = body === null ? undefined : lengths.get(body)
  const isFramed = before !== undefined && (body !== null || method === 'HEAD' || status === 304)
  const all = endToEnd(merged(before ?? [], headers)).filter(
    ({ key }) => isFramed || key !== 'content-length',
  )
  if (length !== undefined) all.push(field('Content-Length', String(length)))
  const fields = all.map(({ name, value }) => [name, value] as const)
  const common = { kind: 'respond', status, headers: fields, reason } as const
  if (body === null && method !== 'HEAD') return { ...common, body: '' }
  return { ...common, body: body === null ? Readable.from([]) : Readable.fromWeb(body as ReadableStream) }
}
