// A listener: an address that accepts. Sockets come in, paused and unread; whoever is called with one owns it.
//
//   closed ──listen()──▶ listening ──close()──▶ closed        errors while accepting change nothing: they are told

import { once } from 'node:events'
import type { Server, SocketConstructorOpts } from 'node:net'
import { createServer, Socket } from 'node:net'
import { setTimeout as wait } from 'node:timers/promises'
import { HeadraceError } from '../errors.ts'
import { F_DUPFD_CLOEXEC, libcOrNull, systemError } from '../linux/libc.ts'
import type { Loop } from '../linux/loop.ts'
import type { Endpoint } from '../linux/sockaddr.ts'
import type { TcpOptions } from '../linux/tuning.ts'
import { callsFor, tune } from '../linux/tuning.ts'
import { descriptorTransport } from '../transport/descriptor.ts'
import { descriptorOf } from '../transport/node.ts'
import type { Acceptor } from './acceptor.ts'
import { acceptOn } from './acceptor.ts'
import type { AddressList } from './addresses.ts'
import { addressList, unmapped } from './addresses.ts'
import type { Certificates, TlsOptions } from './certificates.ts'
import { loadCertificates } from './certificates.ts'
import type { Client, Sender } from './client.ts'
import type { Handshakes } from './handshakes.ts'
import { createHandshakes } from './handshakes.ts'
import type { Place } from './place.ts'
import { BACKLOG, failedToListen, placeOf, removeStale } from './place.ts'
import { beginNoMore } from './quiet.ts'
import { watchDescriptors } from './spare.ts'

export interface ListenerOptions extends TcpOptions {
  /** `127.0.0.1:8080`, `[::1]:8443`, `:8080` for all interfaces, or `unix:/run/headrace.sock`. Port 0 is a free one that the system chooses. */
  readonly address: string
  /** A listening or bound socket of this address that the process has inherited, and that the listener owns from now on. */
  readonly descriptor?: number
  readonly tls: TlsOptions | undefined
  /** Addresses and CIDR blocks that may, and must, send a PROXY header. */
  readonly proxyProtocol: { readonly from: readonly string[] } | undefined
  /** Addresses and CIDR blocks whose X-Forwarded-* fields are kept. */
  readonly forwarded: { readonly from: readonly string[] } | undefined
}

/** A node socket, paused and unread; or, where nothing has to be done before the head, the client itself. */
export type Arrival = Socket | Client

export interface Listener {
  /** The actual address, with the port that the system chose. */
  readonly address: string
  /** Its peers have no address. */
  readonly isUnix: boolean
  readonly handshakes: Handshakes | null
  readonly certificates: Pick<Certificates, 'expiries'> | null
  readonly proxyFrom: AddressList | null
  readonly forwardedFrom: AddressList | null
  /**
   * Stops accepting. What was accepted lives on. With `lastMs`, no new connection is begun from now on (Linux with koffi,
   * unless the socket was inherited), and those that have begun are accepted for so long: nobody who is connected is reset.
   */
  close(lastMs?: number): Promise<void>
}

/**
 * Opens a listener. `onConnection` owns each arrival from the call on; `onTrouble` is told what an operator should know.
 * With a loop, TCP is accepted as bare descriptors: then accepting can pause. Throws listen-failed or config-invalid.
 */
export async function listen(
  options: ListenerOptions,
  onConnection: (arrival: Arrival, listener: Listener) => void,
  onTrouble: (what: HeadraceError) => void,
  loop: Loop | null = null,
): Promise<Listener> {
  const calls = callsFor(options, `listener ${options.address}`)
  const where = placeOf(options.address)
  const proxyFrom = options.proxyProtocol === undefined ? null : addressList(options.proxyProtocol.from)
  const forwardedFrom = options.forwarded === undefined ? null : addressList(options.forwarded.from)
  // From here on files are watched: whatever fails below has to close them.
  const certificates = options.tls === undefined ? null : loadCertificates(options.tls, onTrouble)
  const server = createServer({
    allowHalfOpen: true,
    pauseOnConnect: true,
    noDelay: true,
    keepAlive: true,
    keepAliveInitialDelay: options.keepaliveMs,
  })
  try {
    await bind(server, where, options)
  } catch (error) {
    certificates?.close()
    throw error
  }
  if (calls !== null) tune(calls, descriptorOf(server), options)
  let acceptor: Pick<Acceptor, 'close'> | null = null
  let quiet = () => {}
  const listener: Listener = {
    address: options.descriptor === undefined ? addressOf(server) : options.address,
    isUnix: where.path !== undefined,
    handshakes: certificates === null ? null : createHandshakes(certificates),
    certificates,
    proxyFrom,
    forwardedFrom,
    async close(lastMs = 0) {
      certificates?.close()
      if (lastMs > 0) {
        if (options.descriptor === undefined) quiet()
        await wait(lastMs)
      }
      acceptor?.close()
      // Its callback waits for the connections that were accepted; that the port is free is known at once.
      server.close()
    },
  }
  server.on('connection', (socket: Socket) => {
    socket.on('error', ignore)
    onConnection(socket, listener)
  })
  const trouble = (error: NodeJS.ErrnoException) => onTrouble(troubleOf(error, listener.address))
  server.on('error', trouble)
  const silencing = listener.isUnix ? null : libcOrNull()
  if (silencing !== null) quiet = () => beginNoMore(silencing, descriptorOf(server))
  if (loop === null || listener.isUnix) {
    acceptor = watchDescriptors(trouble)
    return listener
  }
  tune(loop.calls, descriptorOf(server), options)
  const isPlain = certificates === null && proxyFrom === null
  const arrivalOf = isPlain ? descriptorClient : descriptorSocket
  const arrived = (descriptor: number, from: Endpoint) =>
    onConnection(arrivalOf(loop, descriptor, from, listener), listener)
  const listening = takenFrom(server, loop)
  quiet = () => beginNoMore(loop.calls, listening)
  acceptor = acceptOn(loop, listening, arrived, trouble)
  return listener
}

/**
 * The listening socket goes on without node's server: a duplicate keeps it open (close(2)), with all that waits in its
 * backlog. What node has accepted before comes out of the server.
 */
function takenFrom(server: Server, loop: Loop): number {
  const listening = loop.calls.fcntl(descriptorOf(server), F_DUPFD_CLOEXEC, 0)
  const error = listening === -1 ? systemError(loop.calls.errno(), 'fcntl') : null
  server.close()
  if (error !== null) throw new HeadraceError('listen-failed', `${error.code}: no descriptor is left`, error)
  return listening
}

function troubleOf(error: NodeJS.ErrnoException, address: string): HeadraceError {
  const isOut = error.code === 'EMFILE' || error.code === 'ENFILE'
  const code = isOut ? 'descriptors-exhausted' : 'listen-failed'
  return new HeadraceError(code, `accepting on ${address}: ${error.code}`, error)
}

/** The same as node's server makes of what it accepts. */
function descriptorSocket(_loop: Loop, descriptor: number): Socket {
  // `pauseOnCreate` is what `pauseOnConnect` of a server is made of; @types/node has no word for it.
  const options: SocketConstructorOpts & { readonly pauseOnCreate: true } = {
    fd: descriptor,
    readable: true,
    writable: true,
    allowHalfOpen: true,
    pauseOnCreate: true,
  }
  const socket = new Socket(options)
  socket.on('error', ignore)
  return socket
}

function descriptorClient(loop: Loop, descriptor: number, from: Endpoint, listener: Listener): Client {
  const sender = senderOf(unmapped(from.address), from.port, listener)
  return {
    transport: descriptorTransport(loop, descriptor),
    ...sender,
    tls: null,
    listener: listener.address,
  }
}

/** What the listener believes of a direct peer. */
export function senderOf(address: string, port: number, { forwardedFrom }: Listener): Sender {
  return { address, port, mayForward: forwardedFrom?.has(address) ?? false }
}

/** Every socket has a listener for errors from birth on; whoever owns it adds one that does something. */
function ignore(): void {}

async function bind(server: Server, place: Place, { address, descriptor }: ListenerOptions): Promise<void> {
  try {
    // Node takes the length of the queue from the options only if it opens the socket itself.
    if (descriptor !== undefined) server.listen({ fd: descriptor }, BACKLOG)
    else {
      if (place.path !== undefined) await removeStale(place.path)
      server.listen({ ...place, backlog: BACKLOG })
    }
    await once(server, 'listening')
  } catch (error) {
    throw failedToListen(address, error)
  }
}

function addressOf(server: Server): string {
  const address = server.address()
  if (address === null || typeof address === 'string') return `unix:${address ?? ''}`
  return address.family === 'IPv6'
    ? `[${address.address}]:${address.port}`
    : `${address.address}:${address.port}`
}
