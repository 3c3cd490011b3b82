// The acceptor alone, for tests: a listener whose connections become clients or fail, and ways to play with both sides.

import { EventEmitter, once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import type { AddressInfo, Socket } from 'node:net'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import type { Client } from '../../src/accept/client.ts'
import { identify } from '../../src/accept/identify.ts'
import type { Arrival, Listener, ListenerOptions } from '../../src/accept/listener.ts'
import { listen } from '../../src/accept/listener.ts'
import { secure } from '../../src/accept/secure.ts'
import type { Terms } from '../../src/accept/terms.ts'
import { HeadraceError } from '../../src/errors.ts'
import type { Reader, Transport } from '../../src/transport/transport.ts'
import type { Peer } from './peer.ts'
import { placeOf } from './peer.ts'

export interface Outcome {
  readonly socket: Socket
  readonly client: Client | null
  readonly error: unknown
}

export interface Accepting {
  readonly listener: Listener
  readonly address: string
  readonly troubles: HeadraceError[]
  /** Emits `socket` for each accepted socket, before anything is read from it. */
  readonly events: EventEmitter
  /** The next connection that has become a client or has failed. */
  next(): Promise<Outcome>
}

/** A listener whose connections go through identify and secure, as on the way. */
export async function accepting(
  t: Test,
  options: Partial<ListenerOptions> = {},
  signal: AbortSignal = new AbortController().signal,
): Promise<Accepting> {
  const done: Outcome[] = []
  const waiting: ((outcome: Outcome) => void)[] = []
  const troubles: HeadraceError[] = []
  const events = new EventEmitter()
  const serve = async (arrival: Arrival, terms: Terms) => {
    const socket = arrival as Socket
    t.teardown(() => socket.destroy())
    events.emit('socket', socket)
    const outcome = await identify(socket, terms, signal)
      .then((sender) => secure(socket, sender, terms, signal))
      .then(
        (client) => ({ socket, client, error: null }),
        (error: unknown) => ({ socket, client: null, error }),
      )
    const next = waiting.shift()
    if (next === undefined) done.push(outcome)
    else next(outcome)
  }
  const listener = await listen(optionsOf(options), serve, (trouble) => troubles.push(trouble))
  t.teardown(() => listener.close())
  return {
    listener,
    address: listener.address,
    troubles,
    events,
    next() {
      const outcome = done.shift()
      return outcome === undefined
        ? new Promise((resolve) => waiting.push(resolve))
        : Promise.resolve(outcome)
    },
  }
}

export function optionsOf(options: Partial<ListenerOptions>): ListenerOptions {
  return {
    address: '127.0.0.1:0',
    tls: undefined,
    proxyProtocol: undefined,
    forwarded: undefined,
    keepaliveMs: 60_000,
    keepaliveIntervalMs: undefined,
    keepaliveProbes: undefined,
    userTimeoutMs: undefined,
    ...options,
  }
}

export async function nextClient(accepting: Accepting): Promise<Client> {
  const { client, error } = await accepting.next()
  if (client === null) throw error
  return client
}

/** The code of the error that the next connection ends with; its socket must be destroyed by then. */
export async function nextFailure(t: Test, accepting: Accepting): Promise<HeadraceError> {
  const { error, socket } = await accepting.next()
  t.ok(socket.destroyed, 'the socket is destroyed')
  if (!(error instanceof HeadraceError)) throw new Error('no HeadraceError', { cause: error })
  return error
}

export async function failureOf(promise: Promise<unknown> | (() => unknown)): Promise<HeadraceError> {
  try {
    await (typeof promise === 'function' ? promise() : promise)
  } catch (error) {
    if (error instanceof HeadraceError) return error
    throw error
  }
  throw new Error('nothing was thrown')
}

/** What a transport brings. */
export class Heard implements Reader {
  readonly closes: Promise<string>
  #text = ''
  #changed = () => {}
  #isOver = false
  #close: (code: string) => void = () => {}

  constructor(transport: Transport) {
    this.closes = new Promise((resolve) => {
      this.#close = resolve
    })
    transport.attach(this)
  }

  data(chunk: Buffer): void {
    this.#text += chunk.toString('latin1')
    this.#changed()
  }

  end(): void {
    this.#isOver = true
    this.#changed()
  }

  drain(): void {}

  closed(error: NodeJS.ErrnoException | undefined): void {
    this.#close(error?.code ?? '')
    this.end()
  }

  /** All that came until FIN or the close. */
  all(): Promise<string> {
    return this.#when(() => this.#isOver)
  }

  until(length: number): Promise<string> {
    return this.#when(() => this.#text.length >= length)
  }

  #when(isThere: () => boolean): Promise<string> {
    return new Promise((resolve) => {
      this.#changed = () => isThere() && resolve(this.#text)
      this.#changed()
    })
  }
}

/** Says hello both ways, and that nothing else came. */
export async function greet(t: Test, { transport }: Client, peer: Peer): Promise<void> {
  const heard = new Heard(transport)
  peer.write('hello')
  t.equal(await heard.until(5), 'hello')
  transport.write('welcome')
  t.equal(await peer.until(7), 'welcome')
}

/**
 * A relay to `address` that changes what the client sends: `change` gets each chunk and its number, from 0. What it
 * returns goes on in one segment. Resolves with the relay's own address.
 */
export async function relayTo(
  t: Test,
  address: string,
  change: (chunk: Buffer, at: number) => Buffer,
): Promise<string> {
  const server = createServer((client) => {
    const target = connect({ ...placeOf(address), noDelay: true })
    let count = 0
    client.on('data', (chunk) => target.write(change(chunk, count++)))
    client.on('end', () => target.end())
    target.pipe(client)
    for (const socket of [client, target]) socket.on('error', () => {})
    client.on('close', () => target.destroy())
    target.on('close', () => client.destroy())
    t.teardown(() => client.destroy())
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  return `127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** A path that is short enough for a socket: tap's own folders are not. */
export async function socketPath(t: Test): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'headrace-'))
  t.teardown(() => rm(folder, { recursive: true }))
  return join(folder, 'edge.sock')
}
