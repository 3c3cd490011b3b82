// The admin API over HTTP.
//
//   GET    /healthz, /readyz                                  health.ts       for probes, no token
//   GET    /workers                                           workers.ts
//   POST   /drain
//   POST   /upgrade                                           upgrade.ts
//   GET    /tunnels, /tunnels/{id}                            tunnels.ts
//   DELETE /tunnels, /tunnels/{id}
//   GET    /services, /services/{id}, /backends               services.ts
//   PATCH  /services/{id}
//   GET PUT DELETE /enabled-products/v1/websockets/services/… fastly.ts       as Fastly has it
//   GET PATCH /zones/{zone_id}/settings/websockets            cloudflare.ts   as Cloudflare has it, also below /client/v4
//   GET    /metrics                                           metrics.ts
//   GET    /usage                                             usage.ts
//   POST   /reload                                            reload.ts
//   GET    /openapi.json                                      openapi.ts
//   GET    /, /events                                         page.ts
//
// A request passes: is it from here, which route, who asks and with which role, what is asked. A route is one entry.

import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http'
import type { ProgramLines } from '../observe/program-lines.ts'
import type { Prepared } from '../prepared.ts'
import type { Caller, Door } from './access.ts'
import { callerOf, strangerFault } from './access.ts'
import { readBody } from './body.ts'
import { cloudflareRoutes } from './cloudflare.ts'
import { fastlyRoutes } from './fastly.ts'
import type { AdminOptions, Front } from './front.ts'
import { openControlSocket, openFront } from './front.ts'
import { healthRoutes } from './health.ts'
import { createLive } from './live.ts'
import { metricsRoute } from './metrics.ts'
import { openapiRoute } from './openapi.ts'
import { pageRoutes } from './page.ts'
import { faultOf, problem } from './problem.ts'
import { reloadRoute } from './reload.ts'
import type { AdminOperations, Dialect, Fault, Params, Reply, Route, Streamed } from './route.ts'
import { paramsOf } from './route.ts'
import { serviceRoutes } from './services.ts'
import { tunnelRoutes } from './tunnels.ts'
import { upgradeRoute } from './upgrade.ts'
import { usageRoute } from './usage.ts'
import { workerRoutes } from './workers.ts'

export interface Admin {
  /** For the command line: whoever may open the file is a superuser. Throws listen-failed. */
  openSocket(path: string): Promise<void>
  /** Resolves with the address, its port included. Throws listen-failed or config-invalid. */
  open(options: AdminOptions): Promise<string>
  /** Listens no more, and hangs up on whoever waits for nothing; what was asked is still answered. */
  leave(): void
  /** For a reload; null: no address. Throws listen-failed or config-invalid: then nothing has changed. */
  prepare(options: AdminOptions | null): Promise<PreparedAdmin>
  close(): void
}

export interface PreparedAdmin extends Prepared {
  /** Where it listens after it; null: where it did. */
  readonly address: string | null
}

export const ROUTES: readonly Route[] = [
  ...healthRoutes,
  upgradeRoute,
  ...workerRoutes,
  ...tunnelRoutes,
  ...serviceRoutes,
  ...fastlyRoutes,
  ...cloudflareRoutes,
  metricsRoute,
  usageRoute,
  reloadRoute,
  ...pageRoutes,
  openapiRoute(() => ROUTES),
]

export function createAdmin(operations: AdminOperations, lines: ProgramLines): Admin {
  const live = createLive(operations)
  const closing: (() => void)[] = [live.close]
  const retiring: (() => void)[] = []
  let front: Front | null = null

  function serving(door: () => Door): RequestListener {
    return (request, response) => {
      void answer(request, response, door).catch((error: unknown) => {
        // Its client has gone; whatever else it was has been answered.
        if (!response.headersSent) send(response, problem, faultOf(error))
        else response.destroy()
      })
    }
  }

  async function answer(request: IncomingMessage, response: ServerResponse, door: () => Door): Promise<void> {
    const [path = '', search = ''] = (request.url ?? '').split('?', 2)
    const routed = routeOf(request.method ?? '', path)
    const dialect = 'route' in routed ? routed.route.dialect : problem
    const outcome =
      strangerFault(request, door()) ??
      ('route' in routed ? await run(routed, search, request, door()) : routed)
    if ('detail' in outcome && (outcome.status === 401 || outcome.status === 403 || outcome.status === 421)) {
      const { remoteAddress = '' } = request.socket
      lines.denied(outcome.status, request.method ?? '', path, remoteAddress, outcome.detail)
    }
    if ('stream' in outcome) {
      stream(request, response, outcome, () => 'route' in routed && mayStill(request, door(), routed.route))
    } else send(response, dialect, outcome)
  }

  async function run(
    { route, params }: Routed,
    search: string,
    request: IncomingMessage,
    door: Door,
  ): Promise<Reply | Fault> {
    try {
      const caller = callerOf(request, door, route.role)
      if ('detail' in caller) return caller
      const body = await readBody(request)
      if ('detail' in body) return body
      const query = Object.fromEntries(new URLSearchParams(search))
      const { accept = '' } = request.headers
      const given = { operations, live, params, query, body: body.value, accept }
      return await route.run({ ...given, changed: changedBy(caller) })
    } catch (error) {
      return faultOf(error)
    }
  }

  function changedBy(who: Caller) {
    return (what: string, of: string, before: unknown, after: unknown, ended: number) =>
      lines.changed({ who, what, of, before, after, ended })
  }

  const means = { serving, trouble: lines.trouble }

  return {
    async openSocket(path) {
      const { close, retire } = await openControlSocket(path, means)
      closing.push(close)
      retiring.push(retire)
    },
    async open(options) {
      front = await openFront(options, means)
      return front.address
    },
    async prepare(options) {
      const before = front
      if (before !== null && before.options.address === options?.address) {
        return { ...before.prepare(options), address: null }
      }
      const opened = options === null ? null : await openFront(options, means)
      return {
        address: opened?.address ?? null,
        commit() {
          front = opened
          before?.retire()
        },
        drop: () => opened?.close(),
      }
    },
    leave() {
      live.close()
      for (const retire of retiring) retire()
      front?.retire()
    },
    close() {
      for (const act of closing.splice(0)) act()
      front?.close()
    },
  }
}

interface Routed {
  readonly route: Route
  readonly params: Params
}

function routeOf(method: string, path: string): Routed | Fault {
  const wanted = method === 'HEAD' ? 'GET' : method
  const found = ROUTES.flatMap((route): Routed[] => {
    const params = paramsOf(route.path, path)
    return params === null ? [] : [{ route, params }]
  })
  const routed = found.find(({ route }) => route.method === wanted)
  if (routed !== undefined) return routed
  if (found.length === 0) return { status: 404, detail: `no route ${path}; see /openapi.json` }
  const allowed = found.map(({ route }) => route.method).join(', ')
  return { status: 405, detail: `${method} is not for ${path}: ${allowed}`, fields: { Allow: allowed } }
}

const COMMON = { 'Cache-Control': 'no-store', 'X-Content-Type-Options': 'nosniff' }

/** A token may be revoked while an answer goes on. */
function mayStill(request: IncomingMessage, door: Door, { role }: Route): boolean {
  try {
    return !('detail' in callerOf(request, door, role))
  } catch {
    return false
  }
}

function stream(
  { method }: IncomingMessage,
  response: ServerResponse,
  outcome: Streamed,
  mayStay: () => boolean,
): void {
  response.writeHead(outcome.status, { ...COMMON, 'Content-Type': outcome.type })
  if (method === 'HEAD') return void response.end()
  response.flushHeaders()
  outcome.stream(response, mayStay)
}

function send(response: ServerResponse, dialect: Dialect, outcome: Exclude<Reply, Streamed> | Fault): void {
  if (outcome.status === 204) return void response.writeHead(204, COMMON).end()
  const [type, text, fields] = contentOf(dialect, outcome)
  const length = Buffer.byteLength(text)
  response.writeHead(outcome.status, { ...COMMON, ...fields, 'Content-Type': type, 'Content-Length': length })
  response.end(text)
}

function contentOf(
  dialect: Dialect,
  outcome: Exclude<Reply, Streamed> | Fault,
): [type: string, text: string, fields?: Fault['fields']] {
  if ('detail' in outcome) return [dialect.type, JSON.stringify(dialect.write(outcome)), outcome.fields ?? {}]
  if ('json' in outcome) return ['application/json', JSON.stringify(outcome.json)]
  return 'text' in outcome ? [outcome.type, outcome.text, outcome.fields] : ['text/plain', '']
}
