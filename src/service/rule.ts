// From a checked request to what is done with it: the view is made, routes or handler decide, the rules of the service
// change the fields, and the host comes last: that of the backend that is reached.

import type { Client } from '../accept/client.ts'
import type { Backend } from '../dial/backend.ts'
import type { Choice } from '../dial/director.ts'
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
import { choiceOf } from './origins.ts'
import type { Service } from './service.ts'

export interface Asked {
  readonly client: Client
  readonly head: RequestHead
  /** Without port, in lower case. */
  readonly host: string
  readonly isUpgrade: boolean
}

export type Ruling =
  | {
      readonly kind: 'handoff' | 'send'
      readonly choice: Choice
      /** The head that the origin gets if it is this one. */
      requestFor(backend: Backend): RequestHead
    }
  | { readonly kind: 'respond'; readonly answer: LocalAnswer }

/**
 * What is to be done with a request; `named`: the backend or director to which it is handed off, if that is decided already.
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
  const choice = choiceOf(service, decision.backend, view)
  const head = view.head()
  const ruled = [service.options.headers, ...rules].reduce(applyRules, head.fields)
  const requestFor = ({ options }: Backend) => ({ ...head, fields: withHost(ruled, options.overrideHost) })
  return { kind: decision.kind, choice, requestFor }
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
