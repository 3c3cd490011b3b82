// What ends in this program: code of the service is the origin.

import type { Client } from '../accept/client.ts'
import { hangUp } from '../dial/backend.ts'
import type { Reached } from '../dial/reach.ts'
import { HeadraceError } from '../errors.ts'
import type { RequestHead } from '../head/head.ts'
import { firstValue } from '../head/head.ts'
import type { Served } from '../local/endpoint.ts'
import type { PlainDecision } from '../plain/serve.ts'
import { withoutUpgrade } from '../plain/serve.ts'
import { told } from '../stack.ts'
import type { TunnelFacts } from '../tunnel/tunnel.ts'
import { Tunnel } from '../tunnel/tunnel.ts'
import type { Ruling } from './rule.ts'
import type { Service } from './service.ts'

export interface Serving {
  readonly facts: TunnelFacts
  readonly client: Client
  /** The request, as it was checked. */
  readonly head: RequestHead
  readonly early: readonly Buffer[]
  readonly settle: Tunnel['settle']
  /** What a listener of the socket threw. */
  failed(error: HeadraceError): void
}

/** Answers with a 101, of `headSize` bytes; the tunnel is open. Throws upgrade-invalid. */
export function serveHere(
  service: Service,
  served: Served,
  { facts, client, head, early, settle, failed }: Serving,
): { readonly tunnel: Tunnel; readonly headSize: number } {
  const { local, here, options } = service
  const tunnel = new Tunnel(facts, here, settle)
  const arrived = { transport: client.transport, early, ...handshakeOf(head) }
  const splicing = local.open(arrived, served, tunnel, (thrown) =>
    failed(
      new HeadraceError('handler-failed', `service ${options.id}, ${facts.id}: ${told(thrown)}`, thrown),
    ),
  )
  tunnel.splicing = splicing
  here.connections += 1
  return { tunnel, headSize: splicing.headSize }
}

/** What the endpoint needs of a checked upgrade request. */
export function handshakeOf({ fields }: RequestHead): { readonly key: string; readonly extensions: string } {
  return {
    key: firstValue(fields, 'sec-websocket-key') ?? '',
    extensions: firstValue(fields, 'sec-websocket-extensions') ?? '',
  }
}

/** A session in another process is as local as one in this. */
export function asLocal(reached: Reached, { here }: Service): Reached {
  hangUp(reached.backend)
  here.connections += 1
  return { ...reached, backend: here, origin: { ...reached.origin, address: 'local' } }
}

/** What the branch for ordinary HTTP does of it. Throws upgrade-required: it has no sessions. */
export function asPlain(ruling: Ruling, { options: { id: service } }: Service): PlainDecision {
  if (ruling.kind === 'serve') throw new HeadraceError('upgrade-required', 'a session')
  if (ruling.kind === 'respond' || ruling.kind === 'stream') return { ...ruling, service }
  const { choice, requestFor } = ruling
  return { kind: 'send', service, choice, requestFor: (backend) => withoutUpgrade(requestFor(backend)) }
}
