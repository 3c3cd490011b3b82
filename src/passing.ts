// What other workers pass on, because its session lives here: on a private Unix socket, with a field that says who the client
// is. Whoever passes it has the tunnel, its gate and its usage; here it is served and nothing is counted.

import { readdir } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import type { Readable } from 'node:stream'
import { setTimeout } from 'node:timers/promises'
import type { Client } from './accept/client.ts'
import type { Arrival, Listener } from './accept/listener.ts'
import { listen } from './accept/listener.ts'
import { removeStale } from './accept/place.ts'
import { asHeadraceError, HeadraceError } from './errors.ts'
import { asksForUpgrade, checkUpgrade } from './head/handshake.ts'
import type { RequestHead } from './head/head.ts'
import type { HeadLimits } from './head/llhttp.ts'
import { readRequestHead } from './head/read.ts'
import { closingBytes, refusalFor } from './head/refusal.ts'
import type { Checked } from './head/request.ts'
import { checkRequest } from './head/request.ts'
import type { LocalSplicing } from './local/endpoint.ts'
import { createPlainServer, withoutUpgrade } from './plain/serve.ts'
import type { Passed } from './service/passed.ts'
import { readPassed } from './service/passed.ts'
import type { Ruling } from './service/rule.ts'
import { rule } from './service/rule.ts'
import type { Service } from './service/service.ts'
import { asPlain, handshakeOf } from './service/serving.ts'
import { SetUpSignal } from './signal.ts'
import { told } from './stack.ts'
import { conclude } from './transport/conclude.ts'
import { nodeTransport } from './transport/node.ts'
import type { Transport } from './transport/transport.ts'

export interface PassingParts {
  /** Found by their id. */
  serviceOf(id: string): Service | undefined
  readonly limits: HeadLimits & { readonly headTimeoutMs: number }
  newId(): string
  trouble(what: HeadraceError): void
}

export interface Passing {
  /** Takes nothing more; the path is free. What was passed on is served on. */
  close(): Promise<void>
  /** Ends what is left of it, each with a close frame, and waits for that a moment. */
  end(): Promise<void>
}

/** What the ends may take, in ms: an endpoint itself waits 2 s for a client. */
const END_TIMEOUT_MS = 3_000

/** What the field that is added may take of a head. */
const MORE_HEAD = 8_192

/**
 * Accepts at this path, in a folder that only this user may enter. Sockets that those with the same name before its last dash
 * have left there go. Throws listen-failed.
 */
export async function openPassing(
  path: string,
  { serviceOf, limits, newId, trouble }: PassingParts,
): Promise<Passing> {
  const wider = { ...limits, headSize: limits.headSize + MORE_HEAD, headFields: limits.headFields + 10 }
  const way = { newId, decide: decidePlain, upgrade: () => {}, passedOver: () => {}, answered: () => {} }
  const plain = createPlainServer(way, wider)
  const open = new Set<LocalSplicing>()
  let tellEmpty: () => void = () => {}

  function arrived(arrival: Arrival): void {
    // A Unix socket comes as a node socket.
    if ('transport' in arrival) arrival.transport.destroy()
    else void take(nodeTransport(arrival))
  }

  async function take(transport: Transport): Promise<void> {
    try {
      const read = await readRequestHead(transport, wider, new SetUpSignal())
      const { rest } = read
      const client = { transport, address: '', port: 0, tls: null, mayForward: false, listener: 'passed' }
      if (!asksForUpgrade(read.head)) return plain.serve(client, read.head, rest, null)
      const { host, head } = checkRequest(read.head)
      await serve(transport, head, host, rest)
    } catch (error) {
      refuse(transport, asHeadraceError(error))
    }
  }

  async function serve(
    transport: Transport,
    asked: RequestHead,
    host: string,
    rest: Buffer | null,
  ): Promise<void> {
    checkUpgrade(asked)
    const { passed, head } = readPassed(asked)
    const service = known(passed)
    const client: Client = { ...passed.client, transport }
    const ruling = await decide(service, passed, { client, head, host, isUpgrade: true, passed })
    if (ruling.kind !== 'serve') {
      plain.serve(client, withoutUpgrade(head), rest, asPlain(ruling, service))
      return
    }
    const arrived = { transport, early: rest === null ? [] : [rest], ...handshakeOf(head) }
    const failed = (thrown: unknown) => trouble(failureOf(service, thrown))
    const ended = {
      spliceEnded() {
        open.delete(splicing)
        if (open.size === 0) tellEmpty()
      },
    }
    const splicing = service.local.open(arrived, ruling.served, ended, failed)
    open.add(splicing)
  }

  async function decidePlain(client: Client, checked: Checked, signal: AbortSignal, body: () => Readable) {
    const { passed, head } = readPassed(checked.head)
    const service = known(passed)
    const whose: Client = { ...passed.client, transport: client.transport }
    const asked = { client: whose, head, host: checked.host, isUpgrade: false, body, passed }
    const ruling = await decide(service, passed, asked, signal)
    return asPlain(ruling, service)
  }

  /** The process that has passed it on says nothing of why it was refused. */
  async function decide(
    service: Service,
    passed: Passed,
    asked: Parameters<typeof rule>[1],
    signal = new AbortController().signal,
  ): Promise<Ruling> {
    try {
      return await rule(service, asked, { signal, log: {} })
    } catch (error) {
      const { code, detail } = asHeadraceError(error)
      if (!signal.aborted) trouble(new HeadraceError(code, `session ${passed.session}: ${detail}`, error))
      throw error
    }
  }

  function known({ service: id }: Passed): Service {
    const service = serviceOf(id)
    if (service === undefined) throw new HeadraceError('service-unknown', id)
    return service
  }

  function refuse(transport: Transport, error: HeadraceError): void {
    const refusal = refusalFor(error, newId())
    if (refusal === null) transport.destroy()
    else conclude(transport, closingBytes(refusal))
  }

  const listener = await openAt(path, arrived, trouble)
  return {
    async close() {
      await listener.close()
      plain.close(false)
    },
    async end() {
      if (open.size === 0) return
      const empty = new Promise<void>((resolve) => {
        tellEmpty = resolve
      })
      for (const splicing of [...open]) splicing.stop('fin')
      await Promise.race([empty, setTimeout(END_TIMEOUT_MS)])
    },
  }
}

async function openAt(
  path: string,
  arrived: (arrival: Arrival) => void,
  trouble: (what: HeadraceError) => void,
): Promise<Listener> {
  const options = {
    address: `unix:${path}`,
    tls: undefined,
    proxyProtocol: undefined,
    forwarded: undefined,
    keepaliveMs: 0,
    keepaliveIntervalMs: undefined,
    keepaliveProbes: undefined,
    userTimeoutMs: undefined,
  }
  const [, name] = /^(.*)-[0-9]+\.sock$/.exec(basename(path)) ?? []
  const others = (await readdir(dirname(path))).filter((one) => one.startsWith(`${name}-`))
  // One that lives is still drained.
  for (const one of others) await removeStale(join(dirname(path), one)).catch(() => {})
  return await listen(options, arrived, trouble)
}

function failureOf({ options: { id } }: Service, thrown: unknown): HeadraceError {
  return new HeadraceError('handler-failed', `service ${id}: ${told(thrown)}`, thrown)
}
