// The way of one connection, from accept() to the origin that is reached. Each step is a room; only this file and establish.ts
// know them all.
// It declares what it needs (Surroundings); edge.ts supplies it. Every step before the tunnel can be aborted by one
// signal: the client has gone, a time limit, an operator. After the 101 nothing of this file is left but a Tunnel.

import type { Socket } from 'node:net'
import type { Readable } from 'node:stream'
import type { Client } from './accept/client.ts'
import { identify } from './accept/identify.ts'
import type { Arrival } from './accept/listener.ts'
import { secure } from './accept/secure.ts'
import type { Terms } from './accept/terms.ts'
import type { Choice } from './dial/director.ts'
import type { Reached } from './dial/reach.ts'
import { reach } from './dial/reach.ts'
import type { Engine } from './engine/engine.ts'
import { asHeadraceError, HeadraceError } from './errors.ts'
import type { Bookkeeping } from './establish.ts'
import { createEstablishing } from './establish.ts'
import type { Gate } from './gate/gate.ts'
import { holdEarlyBytes } from './head/early.ts'
import { asksForUpgrade, checkUpgrade } from './head/handshake.ts'
import type { RequestHead } from './head/head.ts'
import type { HeadLimits } from './head/llhttp.ts'
import { readRequestHead } from './head/read.ts'
import { closingBytes, refusalFor } from './head/refusal.ts'
import type { Checked } from './head/request.ts'
import { checkRequest } from './head/request.ts'
import type { Loop } from './linux/loop.ts'
import { startSpan } from './observe/trace.ts'
import type { PassedOver, PlainDecision, PlainOutcome } from './plain/serve.ts'
import { createPlainServer, withoutUpgrade } from './plain/serve.ts'
import type { Named } from './service/referral.ts'
import type { Ruling } from './service/rule.ts'
import { rule } from './service/rule.ts'
import type { Service } from './service/service.ts'
import { asLocal, asPlain } from './service/serving.ts'
import type { Switches } from './service/switch.ts'
import type { ServiceTable } from './service/table.ts'
import { throwIfAborted } from './signal.ts'
import { conclude } from './transport/conclude.ts'
import { SetUp } from './tunnel/set-up.ts'
import type { TunnelOwner } from './tunnel/tunnel.ts'

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
export interface Surroundings extends Site, Bookkeeping {
  readonly switches: Switches
  readonly engine: Engine
  /** Where descriptors are watched, if the engine works on them. */
  readonly loop: Loop | null
  newId(): string
}

export interface Way extends TunnelOwner {
  /** Takes over what a listener accepted, until it is closed. */
  serve(arrival: Arrival, terms: Terms): Promise<void>
  /** Takes over a connection whose next request, already parsed, asks to become a WebSocket; `named`: it is decided. */
  upgrade(client: Client, head: RequestHead, rest: Buffer | null, named?: Named | null): Promise<void>
  follow(site: Site): void
  /** From now on only what listeners have accepted is handed off, and plain connections end with their answer. */
  drain(): void
  /** Whether a request is on its way, or is being answered. Who says nothing counts for a moment only, from `since` on; default: `drain`. */
  isBusy(since?: number): boolean
  /** WebSockets were switched off for a service: ends what is on its way to become one. */
  refuse(service: string): void
  /** Ends everything that is not a tunnel. */
  abort(): void
}

/** When nobody else is accepted: how long whoever has connected and says nothing is waited for, in ms. */
const LAST_HEADS_MS = 1_000

type Given = Extract<Ruling, { readonly choice: Choice }>

export function createWay(surroundings: Surroundings): Way {
  const { switches, ledger, engine, loop, observer, newId } = surroundings
  let { services, limits } = surroundings
  /** Those on their way. */
  const setUps = new Set<SetUp>()
  let drainingAt: number | null = null
  const establishing = createEstablishing(surroundings)
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
    named: Named | null = null,
  ): Promise<void> {
    const setUp = begin('head', client, head)
    setUp.referrer = typeof named === 'object' ? named : null
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
    named: Named | null,
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
    const applicant = { client, head, held }
    const extra: Record<string, unknown> = {}
    const context = setUp.context(extra)
    const ruling = await rule(service, { client, head, host, isUpgrade: true }, context, named)
    throwIfAborted(setUp.signal)
    if (ruling.kind === 'serve') {
      observer.accepted(establishing.withCode(setUp, applicant, service, ruling.served), head, extra)
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
    const dialled = await reachAny(setUp, ruling)
    const request = ruling.requestFor(dialled.backend)
    const reached = ruling.isPassedOn ? asLocal(dialled, service) : dialled
    const destination = { reached, request, splice: ruling.splicing(engine), limits }
    const tunnel = await establishing.withOrigin(setUp, applicant, destination)
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
    const isTold = setUp.referrer?.refused(error) ?? false
    if (refusal === null) client?.transport.destroy()
    else if (client !== null) conclude(client.transport, isTold ? '' : closingBytes(refusal))
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

  function isBusy(since = drainingAt ?? 0): boolean {
    if (plain.open > 0) return true
    if (setUps.size === 0) return false
    if (performance.now() - since < LAST_HEADS_MS) return true
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

  return { serve, upgrade, follow, drain, isBusy, settle: establishing.settle, refuse: refuseService, abort }
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
