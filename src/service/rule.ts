// From a checked request to what is done with it: the view is made, routes or handler decide, the rules of the service
// change the fields, and the host comes last.

import type { Client } from '../accept/client.ts'
import type { Backend } from '../dial/backend.ts'
import { HeadraceError } from '../errors.ts'
import type { Decision } from '../handoff/decision.ts'
import type { HeaderRules } from '../handoff/fields.ts'
import { applyRules, originHead, withHost } from '../handoff/fields.ts'
import type { HandlerContext } from '../handoff/handler.ts'
import { runHandler } from '../handoff/handler.ts'
import { RequestView } from '../handoff/request-view.ts'
import type { RequestHead } from '../head/head.ts'
import { field } from '../head/head.ts'
import type { LocalAnswer } from '../head/refusal.ts'
import { localAnswer } from '../head/refusal.ts'
import type { Service } from './service.ts'

export interface Asked {
  readonly client: Client
  readonly head: RequestHead
  /** Without port, in lower case. */
  readonly host: string
  readonly isUpgrade: boolean
}

export type Ruling =
  /** `request` is the head that the origin gets. */
  | { readonly kind: 'handoff' | 'send'; readonly backend: Backend; readonly request: RequestHead }
  | { readonly kind: 'respond'; readonly answer: LocalAnswer }

/**
 * What is to be done with a request; `named`: the backend to which it is handed off, if that is decided already.
 * Throws route-missing, upgrade-required, handler-failed, handler-timeout, backend-unknown, or the reason of the
 * context's signal.
 */
export async function rule(
  service: Service,
  asked: Asked,
  context: HandlerContext,
  named: string | null = null,
): Promise<Ruling> {
  const view = viewOf(service, asked)
  const { decision, rules } = named === null ? await decide(service, view, context) : handoffTo(named)
  if (decision.kind === 'respond') {
    const fields = decision.headers.map(([name, value]) => field(name, value))
    return { kind: 'respond', answer: localAnswer(decision.status, fields, decision.body) }
  }
  if (decision.kind === 'handoff' && !asked.isUpgrade) {
    throw new HeadraceError('upgrade-required', `a handoff of ${view.method} ${view.path}`)
  }
  const backend = backendOf(service, decision.backend)
  const ruled = [service.options.headers, ...rules].reduce(applyRules, view.headers.fields)
  const request = { ...view.head(), fields: withHost(ruled, backend.options.overrideHost) }
  return { kind: decision.kind, backend, request }
}

interface Decided {
  readonly decision: Decision
  /** Those of the route, after those of the service. */
  readonly rules: readonly HeaderRules[]
}

function viewOf(service: Service, { client, head, host, isUpgrade }: Asked): RequestView {
  const { id, forwarded } = service.options
  const { address, port, tls } = client
  const start = originHead(head, client, isUpgrade, forwarded)
  return new RequestView(start, { isUpgrade, client: { address, port }, tls, service: id, host })
}

function handoffTo(backend: string): Decided {
  return { decision: { kind: 'handoff', backend }, rules: [] }
}

async function decide(service: Service, view: RequestView, context: HandlerContext): Promise<Decided> {
  const { handler, options, routes } = service
  if (handler !== null) {
    const decision = await runHandler(await handler, view, context, options.handlerTimeoutMs)
    view.isDecided = true
    return { decision, rules: [] }
  }
  const route = routes.find((one) => one.matches(view))
  if (route !== undefined) return { decision: route.action, rules: [route.headers] }
  const what = `${view.method} ${view.path} of service ${options.id}`
  throw new HeadraceError(view.isUpgrade ? 'route-missing' : 'upgrade-required', what)
}

function backendOf(service: Service, name: string): Backend {
  const backend = service.backends.get(name)
  if (backend !== undefined) return backend
  const known = [...service.backends.keys()].join(', ')
  throw new HeadraceError(
    'backend-unknown',
    `${JSON.stringify(name)}; service ${service.options.id} has ${known}`,
  )
}
