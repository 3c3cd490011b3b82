// From a checked request to what is done with it: the view is made; routes, a handler or a program decide; the rules of the
// service change the fields, and the host comes last: that of the backend that is reached.

import type { IncomingMessage } from 'node:http'
import type { Readable } from 'node:stream'
import type { Client } from '../accept/client.ts'
import type { Backend } from '../dial/backend.ts'
import type { Choice } from '../dial/director.ts'
import { onlyChoice } from '../dial/director.ts'
import type { Engine } from '../engine/engine.ts'
import { HeadraceError } from '../errors.ts'
import type { Decision } from '../handoff/decision.ts'
import type { HeaderRules } from '../handoff/fields.ts'
import { applyRules, originHead, withHost } from '../handoff/fields.ts'
import type { HandlerContext, ProgramContext } from '../handoff/handler.ts'
import { runHandler } from '../handoff/handler.ts'
import type { RequestFacts } from '../handoff/request-view.ts'
import { RequestView } from '../handoff/request-view.ts'
import { withoutCookie } from '../head/cookies.ts'
import type { RequestHead } from '../head/head.ts'
import { field } from '../head/head.ts'
import type { LocalAnswer, StreamedAnswer } from '../head/refusal.ts'
import { localAnswer } from '../head/refusal.ts'
import type { Served } from '../local/endpoint.ts'
import { askBackend } from '../plain/ask.ts'
import { splicePolitely } from '../tunnel/polite.ts'
import { choiceOf } from './origins.ts'
import type { Passed } from './passed.ts'
import { factsOf, passedHead } from './passed.ts'
import type { Named, Referral } from './referral.ts'
import { backendOf, referredHead } from './referral.ts'
import type { Service } from './service.ts'

/** How long a worker that starts, or takes the place of a dead one, is waited for, in ms. */
const AWAIT_MS = 5_000

export interface Asked {
  readonly client: Client
  readonly head: RequestHead
  /** Without port, in lower case. */
  readonly host: string
  readonly isUpgrade: boolean
  /** Of a plain request. */
  readonly body?: () => Readable
  /** Another process has passed it on to this one, where its session lives. */
  readonly passed?: Passed
}

export type Ruling =
  | {
      readonly kind: 'handoff' | 'send'
      readonly choice: Choice
      /** The head that the origin gets if it is this one. */
      requestFor(backend: Backend): RequestHead
      /** It goes to the process where its session lives. */
      readonly isPassedOn: boolean
      /** Of a handoff: what moves the bytes. */
      splicing(engine: Engine): Engine['splice']
    }
  | { readonly kind: 'respond'; readonly answer: LocalAnswer }
  | { readonly kind: 'stream'; readonly answer: StreamedAnswer }
  | { readonly kind: 'serve'; readonly served: Served }

/**
 * What is to be done with a request; `named`: where it is handed off to, if that is decided already.
 * Throws route-missing, upgrade-required, handler-failed, handler-timeout, backend-unknown, or the reason of the
 * context's signal.
 */
export async function rule(
  service: Service,
  asked: Asked,
  context: HandlerContext,
  named: Named | null = null,
): Promise<Ruling> {
  if (typeof named === 'object' && named !== null) return referred(service, asked, named)
  const view = viewOf(service, asked)
  const { decision, rules } = named === null ? await decide(service, view, asked, context) : handoffTo(named)
  if (decision.kind === 'respond') return answerOf(decision)
  if (decision.kind === 'serve') return servedOrPassed(service, asked, decision.served)
  if (decision.kind === 'pass') return passOn(service, asked, decision.session, view.head(), true)
  if (decision.kind === 'handoff' && !asked.isUpgrade) {
    throw new HeadraceError('upgrade-required', `a handoff of ${view.method} ${view.path}`)
  }
  const choice = choiceOf(service, decision.backend, view, asked)
  const requestFor = headsOf(service, choice, view.head(), rules)
  return { kind: decision.kind, choice, requestFor, isPassedOn: false, splicing: asUsual }
}

function asUsual({ splice }: Engine): Engine['splice'] {
  return splice
}

/** The rules of the service are for what its own code decides. */
function referred(service: Service, asked: Asked, referral: Referral): Ruling {
  const view = new RequestView(referredHead(asked.head), viewFactsOf(service, asked))
  const choice = onlyChoice(backendOf(referral, view))
  const splicing = (engine: Engine) => referral.splicing(engine)
  return { kind: 'handoff', choice, requestFor: () => view.head(), isPassedOn: false, splicing }
}

interface Decided {
  readonly decision: Decision
  /** Those of the route, after those of the service. */
  readonly rules: readonly HeaderRules[]
}

function viewOf(service: Service, asked: Asked): RequestView {
  const { client, head, isUpgrade, passed } = asked
  // What is for an object is as somebody has decided it elsewhere.
  const start = passed?.isForObject ? head : originHead(head, client, isUpgrade, service.options.forwarded)
  return new RequestView(start, viewFactsOf(service, asked))
}

function viewFactsOf({ options }: Service, { client, host, isUpgrade }: Asked): RequestFacts {
  const { address, port, tls } = client
  return { isUpgrade, client: { address, port }, tls, service: options.id, host }
}

function handoffTo(backend: string): Decided {
  return { decision: { kind: 'handoff', backend }, rules: [] }
}

async function decide(
  service: Service,
  view: RequestView,
  asked: Asked,
  context: HandlerContext,
): Promise<Decided> {
  const { handler, program, options, routes } = service
  if (handler !== null) {
    const decision = await runHandler(await handler, view, context, options.handlerTimeoutMs)
    view.isDecided = true
    return { decision, rules: [] }
  }
  if (program !== null) {
    const means = programContext(service, view, asked, context)
    const decision = await runHandler(await program, view, means, options.handlerTimeoutMs)
    view.isDecided = true
    return { decision, rules: [] }
  }
  const route = routes.find((one) => one.matches(view))
  if (route !== undefined) return { decision: route.action, rules: [route.headers] }
  const what = `${view.method} ${view.path} of service ${options.id}`
  throw new HeadraceError(view.isUpgrade ? 'route-missing' : 'upgrade-required', what)
}

function programContext(
  service: Service,
  view: RequestView,
  asked: Asked,
  context: HandlerContext,
): ProgramContext {
  const { id } = service.options
  return {
    // An AbortSignal is made only for who asks for it.
    get signal() {
      return context.signal
    },
    log: context.log,
    get body() {
      return asked.body?.() ?? null
    },
    object: asked.passed?.isForObject ? asked.passed.session : null,
    isElsewhere: (session) => asked.passed === undefined && service.places.of(id, session) !== null,
    async ask(backend, head, body): Promise<IncomingMessage> {
      const choice = choiceOf(service, backend, view, asked)
      const headFor = headsOf(service, choice, head, [])
      return await askBackend({ choice, headFor, body, signal: context.signal })
    },
    async askSession(session, head, body): Promise<IncomingMessage> {
      const { choice, requestFor: headFor } = passOn(service, asked, session, head, true)
      return await askBackend({ choice, headFor, body, signal: context.signal })
    },
  }
}

/** The heads that backends get of this one. */
function headsOf(service: Service, { sticky }: Choice, head: RequestHead, rules: readonly HeaderRules[]) {
  const fields = sticky === undefined ? head.fields : withoutCookie(head.fields, sticky.cookie)
  const ruled = [service.options.headers, ...rules].reduce(applyRules, fields)
  return ({ options }: Backend) => ({ ...head, fields: withHost(ruled, options.overrideHost) })
}

function answerOf({ status, reason, headers, body }: Decision & { readonly kind: 'respond' }): Ruling {
  const fields = headers.map(([name, value]) => field(name, value))
  if (typeof body === 'string') return { kind: 'respond', answer: localAnswer(status, fields, body) }
  return { kind: 'stream', answer: { status, reason, fields, body } }
}

/** Code that was asked again where the session lives decides the same, or something is wrong with it. */
function servedOrPassed(service: Service, asked: Asked, served: Served): Ruling {
  const { passed, head } = asked
  const { session } = served
  if (passed === undefined) {
    const isHere = session === null || service.places.of(service.options.id, session) === null
    return isHere ? { kind: 'serve', served } : passOn(service, asked, session, head, false)
  }
  if (passed.isForObject || session === passed.session) return { kind: 'serve', served }
  const detail = `asked again in the process of session ${passed.session}, it chose ${session ?? 'none'}`
  throw new HeadraceError('handler-failed', detail)
}

function passOn(
  service: Service,
  { client }: Asked,
  session: string,
  head: RequestHead,
  isForObject: boolean,
): Extract<Ruling, { readonly choice: Choice }> {
  const { id } = service.options
  const place = service.places.of(id, session)
  if (place === null) throw new HeadraceError('internal', `session ${session} lives here`)
  const passed = passedHead(head, { service: id, session, isForObject, client: factsOf(client) })
  return {
    kind: 'handoff',
    choice: { backends: [place], timeoutMs: AWAIT_MS, isAwaited: true },
    requestFor: () => passed,
    isPassedOn: true,
    splicing: () => splicePolitely,
  }
}
