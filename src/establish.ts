// From a request that is allowed to the tunnel: the origin, or code of the service, is given it, and once it has switched
// protocols the two connections are one tunnel that is listed and counted, until both are over.

import type { Client } from './accept/client.ts'
import { hangUp } from './dial/backend.ts'
import type { Reached } from './dial/reach.ts'
import type { Engine, SpliceEnd } from './engine/engine.ts'
import { asHeadraceError, HeadraceError } from './errors.ts'
import type { Ledger } from './gate/claims.ts'
import type { Answer } from './handoff/exchange.ts'
import { ask, relayAnswer, switchingBytes } from './handoff/exchange.ts'
import type { Held } from './head/early.ts'
import { checkAnswer } from './head/handshake.ts'
import type { RequestHead } from './head/head.ts'
import type { HeadLimits } from './head/llhttp.ts'
import type { Served } from './local/endpoint.ts'
import type { Observer } from './observe/observer.ts'
import type { Service } from './service/service.ts'
import { serveHere } from './service/serving.ts'
import { throwIfAborted } from './signal.ts'
import type { Registry } from './tunnel/registry.ts'
import type { SetUp } from './tunnel/set-up.ts'
import { Tunnel, type TunnelOwner } from './tunnel/tunnel.ts'
import type { Usage } from './usage/usage.ts'

/** Who is told that a tunnel is open, and that it is over. */
export interface Bookkeeping {
  readonly tunnels: Registry
  readonly usage: Pick<Usage, 'begin' | 'settle'>
  /** Counts what gates limit. */
  readonly ledger: Ledger
  readonly observer: Observer
}

/** A client whose request is as good as it has to be. */
export interface Applicant {
  readonly client: Client
  /** As it was checked. */
  readonly head: RequestHead
  /** What the client sends before the 101. */
  readonly held: Held
}

/** An origin that was reached. */
export interface Destination {
  readonly reached: Reached
  /** What it gets. */
  readonly request: RequestHead
  readonly splice: Engine['splice']
  /** Of its answer. */
  readonly limits: HeadLimits
}

export interface Establishing extends TunnelOwner {
  /** With an origin. Null if it gave another answer than a 101, which is relayed. */
  withOrigin(setUp: SetUp, applicant: Applicant, destination: Destination): Promise<Tunnel | null>
  /** With code of the service. */
  withCode(setUp: SetUp, applicant: Applicant, service: Service, served: Served): Tunnel
}

export function createEstablishing({ tunnels, usage, ledger, observer }: Bookkeeping): Establishing {
  async function withOrigin(
    setUp: SetUp,
    applicant: Applicant,
    { reached, request, splice, limits }: Destination,
  ): Promise<Tunnel | null> {
    const { client } = applicant
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
      checkAnswer(applicant.head, answer.head)
      throwIfAborted(setUp.signal)
      setUp.leave()
      setUp.referrer?.switched(answer.head, origin.address)
      return open(setUp, applicant, reached, answer, splice)
    } catch (error) {
      origin.transport.destroy()
      hangUp(backend)
      backend.health.failed(asHeadraceError(error))
      throw error
    }
  }

  function open(
    setUp: SetUp,
    { client, held }: Applicant,
    { backend, origin }: Reached,
    answer: Answer,
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

  function withCode(
    setUp: SetUp,
    { client, head, held }: Applicant,
    service: Service,
    served: Served,
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

  return { withOrigin, withCode, settle }
}
