// The way of one connection, from accept() to the tunnel. Each step is a room; this is the only file that knows them all.
// It declares what it needs (Surroundings); edge.ts supplies it. Every step before the tunnel can be aborted by one
// signal: the client has gone, a time limit, an operator. After the 101 nothing of this file is left but a Tunnel.

import type { Socket } from 'node:net'
import type { Readable } from 'node:stream'
import type { Client } from './accept/client.ts'
import { identify } from './accept/identify.ts'
import type { Arrival } from './accept/listener.ts'
import { secure } from './accept/secure.ts'
import type { Terms } from './accept/terms.ts'
import { hangUp } from './dial/backend.ts'
import type { Choice } from './dial/director.ts'
import type { Reached } from './dial/reach.ts'
import { reach } from './dial/reach.ts'
import type { Engine, SpliceEnd } from './engine/engine.ts'
import { asHeadraceError, HeadraceError } from './errors.ts'
import type { Ledger } from './gate/claims.ts'
import type { Gate } from './gate/gate.ts'
import type { Answer } from './handoff/exchange.ts'
import { ask, relayAnswer, switchingBytes } from './handoff/exchange.ts'
import type { Held } from './head/early.ts'
import { holdEarlyBytes } from './head/early.ts'
import { asksForUpgrade, checkAnswer, checkUpgrade } from './head/handshake.ts'
import type { RequestHead } from './head/head.ts'
import type { HeadLimits } from './head/llhttp.ts'
import { readRequestHead } from './head/read.ts'
import { closingBytes, refusalFor } from './head/refusal.ts'
import type { Checked } from './head/request.ts'
import { checkRequest } from './head/request.ts'
import type { Loop } from './linux/loop.ts'
import type { Served } from './local/endpoint.ts'
import type { Observer } from './observe/observer.ts'
import { startSpan } from './observe/trace.ts'
import type { PassedOver, PlainDecision, PlainOutcome } from './plain/serve.ts'
import { createPlainServer, withoutUpgrade } from './plain/serve.ts'
import type { Ruling } from './service/rule.ts'
import { rule } from './service/rule.ts'
import type { Service } from './service/service.ts'
import { asLocal, asPlain, serveHere } from './service/serving.ts'
import type { Switches } from './service/switch.ts'
import type { ServiceTable } from './service/table.ts'
import { throwIfAborted } from './signal.ts'
import { conclude } from './transport/conclude.ts'
import { splicePolitely } from './tunnel/polite.ts'
import type { Registry } from './tunnel/registry.ts'
import { SetUp } from './tunnel/set-up.ts'
import { Tunnel, type TunnelOwner } from './tunnel/tunnel.ts'
import type { Usage } from './usage/usage.ts'

export interface Limits extends HeadLimits {
  /** From accept to the end of the head, TLS handshake included, in ms. */
  readonly headTimeoutMs: number
  /** How many bytes of a client are held before the 101. */
  readonly earlySize: number
}

/** What a reload replaces, in one step. A request that is on its way goes on with the service that it has found. */
export interface Site {
  readonly services: ServiceTable
  readonly limits: Limits
}

/** What the way needs of the edge around it. */
export interface Surroundings extends Site {
  readonly switches: Switches
  readonly tunnels: Registry
  readonly usage: Pick<Usage, 'begin' | 'settle'>
  /** Counts what gates limit. */
  readonly ledger: Ledger
  readonly engine: Engine
  /** Where descriptors are watched, if the engine works on them. */
  readonly loop: Loop | null
  readonly observer: Observer
  newId(): string
}

export interface Way extends TunnelOwner {
  /** Takes over what a listener accepted, until it is closed. */
  serve(arrival: Arrival, terms: Terms): Promise<void>
  /** Takes over a connection whose next request, already parsed, asks to become a WebSocket; `named`: it is decided. */
  upgrade(client: Client, head: RequestHead, rest: Buffer | null, named?: string | null): Promise<void>
  follow(site: Site): void
  /** From now on only what listeners have accepted is handed off, and plain connections end with their answer. */
  drain(): void
  /** Whether a request is on its way, or is being answered. Who says nothing counts for a moment only. */
  isBusy(): boolean
  /** WebSockets were switched off for a service: ends what is on its way to become one. */
  refuse(service: string): void
  /** Ends everything that is not a tunnel. */
  abort(): void
}

/** While draining: how long whoever has connected and says nothing is waited for, in ms. */
const LAST_HEADS_MS = 1_000

type Given = Extract<Ruling, { readonly choice: Choice }>

export function createWay(surroundings: Surroundings): Way {
  const { switches, tunnels, usage, ledger, engine, loop, observer, newId } = surroundings
  let { services, limits } = surroundings
  /** Those on their way. */
  const setUps = new Set<SetUp>()
  let drainingAt: number | null = null
  const plain = createPlainServer({ newId, decide: decidePlain, upgrade, passedOver, answered }, limits)

  async function serve(arrival: Arrival, terms: Terms): Promise<void> {
    const setUp = begin('accept', null, null)
    setUp.expect(limits.headTimeoutMs, 'head-timeout')
    try {
      const client = 'transport' in arrival ? arrival : await admit(arrival, terms, setUp)
      setUp.client = client
      setUp.enter('head')
      const { head, rest } = await readRequestHead(client.transport, limits, setUp.signal)
      setUp.meet()
      setUp.head = head
      if (asksForUpgrade(head)) return await handOff(setUp, client, head, rest, null)
      checkRequest(head)
      plain.serve(client, withoutUpgrade(head), rest, null)
    } catch (error) {
      refuse(setUp, asHeadraceError(error))
    } finally {
      finish(setUp)
    }
  }

  async function upgrade(
    client: Client,
    head: RequestHead,
    rest: Buffer | null,
    named: string | null = null,
  ): Promise<void> {
    const setUp = begin('head', client, head)
    try {
      if (drainingAt !== null) throw new HeadraceError('draining')
      await handOff(setUp, client, head, rest, named)
    } catch (error) {
      refuse(setUp, asHeadraceError(error))
    } finally {
      finish(setUp)
    }
  }

  async function handOff(
    setUp: SetUp,
    client: Client,
    asked: RequestHead,
    rest: Buffer | null,
    named: string | null,
  ): Promise<void> {
    setUp.span = startSpan(setUp.id, client, asked)
    // Node's parser, which read this head if it isn't a connection's first, counts no fields.
    if (asked.fields.length > limits.headFields) {
      throw new HeadraceError('head-too-many-fields', `over ${limits.headFields} fields`)
    }
    const { host, head } = checkRequest(asked)
    checkUpgrade(head)
    const service = serviceOf(host)
    setUp.service = service.options.id
    observer.asked(service.options.id)
    setUp.enter('gate')
    if (!switches.isOn(service.options.id)) throw switchedOff(service.options.id)
    const passing = service.gate === null ? undefined : pass(setUp, service.gate, client, head)
    // Most gates count nothing, and nobody has to wait.
    if (passing !== undefined) await passing
    throwIfAborted(setUp.signal)

    setUp.enter('decide')
    const held = holdEarlyBytes(client.transport, rest, limits.earlySize, (error) => setUp.abort(error))
    const extra: Record<string, unknown> = {}
    const context = setUp.context(extra)
    const ruling = await rule(service, { client, head, host, isUpgrade: true }, context, named)
    throwIfAborted(setUp.signal)
    if (ruling.kind === 'serve') {
      observer.accepted(openHere(setUp, client, head, service, ruling.served, held), head, extra)
      return
    }
    if (ruling.kind === 'respond') {
      conclude(client.transport, closingBytes(ruling.answer))
      setUp.span?.answered(ruling.answer.status)
      observer.answered(setUp, ruling.answer.status, 0)
      return
    }
    if (ruling.kind !== 'handoff') {
      plain.serve(client, withoutUpgrade(head), held.joined(), asPlain(ruling, service))
      return
    }
    const reached = await reachAny(setUp, ruling)
    const request = ruling.requestFor(reached.backend)
    const tunnel = ruling.isPassedOn
      ? await connect(setUp, client, head, request, asLocal(reached, service), held, splicePolitely)
      : await connect(setUp, client, head, request, reached, held, engine.splice)
    if (tunnel !== null) observer.accepted(tunnel, request, extra)
  }

  /** Rules, Origin, rates and caps of a service. A promise if something is counted elsewhere. */
  function pass(setUp: SetUp, gate: Gate, client: Client, head: RequestHead): Promise<void> | undefined {
    const note = (name: string) => observer.noted(setUp, name)
    const { rule, claims } = gate.check(setUp.id, client.address, head, note)
    setUp.rule = rule
    if (claims === null) return undefined
    setUp.isCounted = claims.seats.length > 0
    const verdict = ledger.take(claims)
    if (verdict instanceof Promise) return verdict.then(gate.heed)
    gate.heed(verdict)
    return undefined
  }

  /** Nothing of the request is sent yet: whoever can be reached gets it. */
  function reachAny(setUp: SetUp, { choice }: Given): Promise<Reached> {
    setUp.enter('dial')
    return reach(choice, setUp.signal, { loop }, (backend, error, isLast) => {
      setUp.backend = backend.options.name
      if (!isLast) observer.passedOver(setUp, error)
    })
  }

  /** From the head to the tunnel; null if the origin gave another answer than a 101. */
  async function connect(
    setUp: SetUp,
    client: Client,
    asked: RequestHead,
    request: RequestHead,
    reached: Reached,
    held: Held,
    splice: Engine['splice'],
  ): Promise<Tunnel | null> {
    const { backend, origin } = reached
    setUp.backend = backend.options.name
    try {
      setUp.enter('answer')
      setUp.expect(backend.options.firstByteTimeoutMs, 'answer-timeout')
      const given = setUp.span?.carried(request) ?? request
      const answer = await ask(given, client.transport, reached, limits, setUp.signal)
      setUp.meet()
      backend.health.answered()
      setUp.span?.answered(answer.head.status)
      if (answer.head.status !== 101) {
        await relayAnswer(answer, client.transport, origin.transport)
        observer.refused(setUp, new HeadraceError('answer-refused'), answer.head.status)
        hangUp(backend)
        return null
      }
      answer.parser.free()
      checkAnswer(asked, answer.head)
      throwIfAborted(setUp.signal)
      setUp.leave()
      return open(setUp, client, reached, answer, held, splice)
    } catch (error) {
      origin.transport.destroy()
      hangUp(backend)
      backend.health.failed(asHeadraceError(error))
      throw error
    }
  }

  function open(
    setUp: SetUp,
    client: Client,
    { backend, origin }: Reached,
    answer: Answer,
    held: Held,
    splice: Engine['splice'],
  ): Tunnel {
    const switching = switchingBytes(answer)
    client.transport.write(switching)
    const tunnel = new Tunnel(setUp.facts(client, origin.address), backend, settle)
    const early = { fromClient: held.take(), fromOrigin: answer.rest === null ? [] : [answer.rest] }
    tunnel.splicing = splice(client.transport, origin.transport, early, tunnel)
    register(setUp, tunnel, answer.requestSize, switching.length)
    return tunnel
  }

  /** The origin is code of the service. */
  function openHere(
    setUp: SetUp,
    client: Client,
    head: RequestHead,
    service: Service,
    served: Served,
    held: Held,
  ): Tunnel {
    setUp.leave()
    const common = { facts: setUp.facts(client, 'local'), client, head, settle }
    const parts = { ...common, early: held.take(), failed: observer.trouble }
    const { tunnel, headSize } = serveHere(service, served, parts)
    setUp.span?.answered(101)
    register(setUp, tunnel, 0, headSize)
    return tunnel
  }

  function register(setUp: SetUp, tunnel: Tunnel, headToOrigin: number, headToClient: number): void {
    tunnels.add(tunnel)
    usage.begin(tunnel, headToOrigin, headToClient)
    setUp.isCounted = false
  }

  /** Once for each tunnel, when both of its connections are over. */
  function settle(tunnel: Tunnel, end: SpliceEnd): void {
    tunnels.remove(tunnel)
    usage.settle(tunnel)
    hangUp(tunnel.backend)
    if (tunnel.facts.isCounted) ledger.give(tunnel.facts.id)
    observer.closed(tunnel, end)
  }

  async function decidePlain(
    client: Client,
    { host, head }: Checked,
    signal: AbortSignal,
    body: () => Readable,
  ): Promise<PlainDecision> {
    const service = serviceOf(host)
    const ruling = await rule(service, { client, head, host, isUpgrade: false, body }, { signal, log: {} })
    return asPlain(ruling, service)
  }

  function passedOver(client: Client, head: RequestHead, { id, service, backend, error }: PassedOver): void {
    const facts = { id, phase: 'dial', client, service, backend: backend.options.name, head } as const
    observer.passedOver(facts, error)
  }

  function answered(client: Client, head: RequestHead | null, outcome: PlainOutcome): void {
    const { id, phase, status, service, backend, durationMs, error } = outcome
    const facts = { id, phase, client, service, backend: backend?.options.name ?? null, head }
    if (error === null) observer.answered(facts, status, durationMs)
    else observer.refused(facts, error)
  }

  /** The one way out for a connection that goes no further. */
  function refuse(setUp: SetUp, error: HeadraceError): void {
    const { client } = setUp
    const refusal = refusalFor(error, setUp.id)
    setUp.span?.failed(error)
    observer.refused(setUp, error)
    if (refusal === null) client?.transport.destroy()
    else if (client !== null) conclude(client.transport, closingBytes(refusal))
  }

  function serviceOf(host: string): Service {
    const service = services(host)
    if (service === undefined) throw new HeadraceError('service-unknown', host)
    return service
  }

  function begin(phase: 'accept' | 'head', client: Client | null, head: RequestHead | null): SetUp {
    const setUp = new SetUp(newId(), phase, client, head)
    setUps.add(setUp)
    return setUp
  }

  function finish(setUp: SetUp): void {
    setUp.meet()
    setUp.span?.end(setUp.service, setUp.backend)
    if (setUp.isCounted) ledger.give(setUp.id)
    setUps.delete(setUp)
  }

  function follow(site: Site): void {
    ;({ services, limits } = site)
    plain.limit(limits)
  }

  function drain(): void {
    drainingAt ??= performance.now()
    plain.close(false)
  }

  function isBusy(): boolean {
    if (plain.open > 0) return true
    if (setUps.size === 0) return false
    if (performance.now() - (drainingAt ?? 0) < LAST_HEADS_MS) return true
    for (const { head } of setUps) if (head !== null) return true
    return false
  }

  function refuseService(id: string): void {
    for (const setUp of setUps) if (setUp.service === id) setUp.abort(switchedOff(id))
  }

  function abort(): void {
    drain()
    for (const setUp of setUps) setUp.abort(new HeadraceError('draining'))
    plain.close(true)
  }

  return { serve, upgrade, follow, drain, isBusy, settle, refuse: refuseService, abort }
}

function switchedOff(id: string): HeadraceError {
  return new HeadraceError('websockets-off', `${id}; switch them on with: headrace websockets on ${id}`)
}

/** What comes before the head: the PROXY header, TLS. */
async function admit(socket: Socket, terms: Terms, setUp: SetUp): Promise<Client> {
  const sender = await identify(socket, terms, setUp.signal)
  setUp.enter('tls')
  return await secure(socket, sender, terms, setUp.signal)
}
