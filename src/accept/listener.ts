// A listener: an address that accepts. Sockets come in, paused and unread; whoever is called with one owns it.
//
//   closed ──listen()──▶ listening ──close()──▶ closed        errors while accepting change nothing: they are told

import { once } from 'node:events'
import { lstat, unlink } from 'node:fs/promises'
import type { ListenOptions, Server, SocketConstructorOpts } from 'node:net'
import { connect, createServer, Socket } from 'node:net'
import { HeadraceError } from '../errors.ts'
import { F_DUPFD_CLOEXEC, systemError } from '../linux/libc.ts'
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
import type { TlsOptions } from './certificates.ts'
import { loadCertificates } from './certificates.ts'
import type { Client, Sender } from './client.ts'
import type { Handshakes } from './handshakes.ts'
import { createHandshakes } from './handshakes.ts'
import { watchDescriptors } from './spare.ts'

export interface ListenerOptions extends TcpOptions {
  /** `127.0.0.1:8080`, `[::1]:8443`, `:8080` for all interfaces, or `unix:/run/headrace.sock`. Port 0 is a free one that the system chooses. */
  readonly address: string
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
  readonly proxyFrom: AddressList | null
  readonly forwardedFrom: AddressList | null
  /** Stops accepting. What was accepted lives on. */
  close(): Promise<void>
}

/** The longest queue of connections that wait to be accepted; the system may have a lower limit (listen(2)). */
const BACKLOG = 4_096

/** sun_path without its final NUL (unix(7)). Node 20 cuts a longer path short without a word. */
const UNIX_PATH_BYTES = 107

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
    await bind(server, where, options.address)
  } catch (error) {
    certificates?.close()
    throw error
  }
  if (calls !== null) tune(calls, descriptorOf(server), options)
  let acceptor: Pick<Acceptor, 'close'> | null = null
  const listener: Listener = {
    address: addressOf(server),
    isUnix: where.path !== undefined,
    handshakes: certificates === null ? null : createHandshakes(certificates),
    proxyFrom,
    forwardedFrom,
    async close() {
      certificates?.close()
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
  if (loop === null || listener.isUnix) {
    acceptor = watchDescriptors(trouble)
    return listener
  }
  tune(loop.calls, descriptorOf(server), options)
  const isPlain = certificates === null && proxyFrom === null
  const arrivalOf = isPlain ? descriptorClient : descriptorSocket
  const arrived = (descriptor: number, from: Endpoint) =>
    onConnection(arrivalOf(loop, descriptor, from, listener), listener)
  acceptor = acceptOn(loop, takenFrom(server, loop), arrived, trouble)
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

function placeOf(address: string): ListenOptions {
  if (address.startsWith('unix:')) return { path: pathOf(address), backlog: BACKLOG }
  const [, v6, v4, port] = /^(?:\[([^\]]+)\]|([^:]*)):([0-9]{1,5})$/.exec(address) ?? []
  if (port === undefined || Number(port) > 65_535) {
    throw new HeadraceError(
      'config-invalid',
      `${JSON.stringify(address)} is no address to listen on: host:port or unix:/path`,
    )
  }
  const host = v6 ?? v4
  return { port: Number(port), backlog: BACKLOG, ...(host ? { host } : {}) }
}

function pathOf(address: string): string {
  const path = address.slice('unix:'.length)
  if (path === '' || path.includes('\0') || Buffer.byteLength(path) > UNIX_PATH_BYTES) {
    const detail = `${JSON.stringify(address)} needs a path of 1 to ${UNIX_PATH_BYTES} bytes`
    throw new HeadraceError('config-invalid', detail)
  }
  return path
}

async function bind(server: Server, place: ListenOptions, address: string): Promise<void> {
  try {
    if (place.path !== undefined) await removeStale(place.path)
    server.listen(place)
    await once(server, 'listening')
  } catch (error) {
    if (error instanceof HeadraceError) throw error
    const { code = String(error) } = error as NodeJS.ErrnoException
    throw new HeadraceError('listen-failed', `${code} ${address}${hintFor(code)}`, error)
  }
}

function hintFor(code: string): string {
  if (code === 'EADDRINUSE') return ': something else listens there'
  if (code === 'EACCES') return ': not allowed, ports below 1024 need privileges'
  if (code === 'EADDRNOTAVAIL') return ': this machine does not have the address'
  return ''
}

/** A socket file that nobody listens on any more is left over from a process that was killed. */
async function removeStale(path: string): Promise<void> {
  const found = await lstat(path).catch(() => null)
  if (found === null) return
  if (!found.isSocket())
    throw new HeadraceError('listen-failed', `unix:${path} exists and is no socket: move it away`)
  const probe = connect(path)
  probe.on('error', ignore)
  const code = await once(probe, 'connect').then(
    () => 'EADDRINUSE',
    (error: NodeJS.ErrnoException) => error.code,
  )
  probe.destroy()
  // EAGAIN: somebody listens, with a full queue (unix(7)).
  if (code === 'EADDRINUSE' || code === 'EAGAIN') {
    throw new HeadraceError('listen-failed', `EADDRINUSE unix:${path}: another process listens there`)
  }
  // Whatever else keeps us from asking (EACCES) keeps us from removing, too: then bind(2) says what is wrong.
  if (code === 'ECONNREFUSED') await unlink(path)
}

function addressOf(server: Server): string {
  const address = server.address()
  if (address === null || typeof address === 'string') return `unix:${address ?? ''}`
  return address.family === 'IPv6'
    ? `[${address.address}]:${address.port}`
    : `${address.address}:${address.port}`
}
