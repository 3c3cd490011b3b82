// A listener: an address that accepts. Sockets come in, paused and unread; whoever is called with one owns it.
//
//   closed ──listen()──▶ listening ──close()──▶ closed        errors while accepting change nothing: they are told

import { once } from 'node:events'
import type { Server, SocketConstructorOpts } from 'node:net'
import { createServer, Socket } from 'node:net'
import { setTimeout as wait } from 'node:timers/promises'
import { HeadraceError } from '../errors.ts'
import { F_DUPFD_CLOEXEC, libcOrNull, systemError } from '../linux/libc.ts'
import type { Loop, Watcher } from '../linux/loop.ts'
import { CONNECTION_EDGES } from '../linux/loop.ts'
import type { Endpoint } from '../linux/sockaddr.ts'
import { callsFor, tune } from '../linux/tuning.ts'
import type { Prepared } from '../prepared.ts'
import { watchedTransport } from '../transport/descriptor.ts'
import { descriptorOf } from '../transport/node.ts'
import type { Acceptor } from './acceptor.ts'
import { acceptOn } from './acceptor.ts'
import { unmapped } from './addresses.ts'
import type { Client, Sender } from './client.ts'
import type { Place } from './place.ts'
import { BACKLOG, failedToListen, placeOf, removeStale } from './place.ts'
import { beginNoMore } from './quiet.ts'
import { watchDescriptors } from './spare.ts'
import type { Terms, TermsOptions } from './terms.ts'
import { letGoOf, makeTerms } from './terms.ts'

export interface ListenerOptions extends TermsOptions {
  /** `127.0.0.1:8080`, `[::1]:8443`, `:8080` for all interfaces, or `unix:/run/headrace.sock`. Port 0 is a free one that the system chooses. */
  readonly address: string
  /** A listening or bound socket of this address that the process was given, and that the listener owns from now on. */
  readonly socket?: PassedSocket
}

/** A descriptor that was inherited, or a handle of node's that came with a message. */
export type PassedSocket = number | SocketHandle

export interface SocketHandle {
  readonly fd: number
  close(): void
}

/** A node socket, paused and unread; or, where nothing has to be done before the head, the client itself. */
export type Arrival = Socket | Client

export interface Listener {
  /** The actual one, with the port that the system chose. */
  readonly address: string
  /** As they are now. */
  readonly terms: Terms
  /** Checks other options for the same address. Throws config-invalid. */
  prepare(options: TermsOptions): Prepared
  /**
   * Takes what waits already, and accepts no more. What was accepted lives on. With `lastMs`, no new connection is begun from
   * now on (Linux with koffi, unless the socket was given), and those that have begun are accepted for so long: nobody who is
   * connected is reset.
   */
  close(lastMs?: number): Promise<void>
}

/**
 * Opens a listener. `onConnection` owns each arrival from the call on; `onTrouble` is told what an operator should know.
 * With a loop, TCP is accepted as bare descriptors: then accepting can pause. Throws listen-failed or config-invalid.
 */
export async function listen(
  options: ListenerOptions,
  onConnection: (arrival: Arrival, terms: Terms) => void,
  onTrouble: (what: HeadraceError) => void,
  loop: Loop | null = null,
): Promise<Listener> {
  const calls = callsFor(options, `listener ${options.address}`)
  const where = placeOf(options.address)
  const isUnix = where.path !== undefined
  // From here on files are watched: whatever fails below has to close them.
  const checked = makeTerms(options, { address: options.address, isUnix }, onTrouble)
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true })
  try {
    await bind(server, where, options)
  } catch (error) {
    checked.certificates?.close()
    throw error
  }
  let terms = { ...checked, address: options.socket === undefined ? addressOf(server) : options.address }
  let accepting: Accepting
  const trouble = (error: NodeJS.ErrnoException) => onTrouble(troubleOf(error, terms.address))
  server.on('error', trouble)
  server.on('connection', (socket: Socket) => {
    socket.on('error', ignore)
    socket.setKeepAlive(true, terms.keepaliveMs)
    onConnection(socket, terms)
  })
  if (loop === null || isUnix) accepting = acceptByNode(server, trouble)
  else {
    const arrived = (descriptor: number, from: Endpoint) => {
      const isPlain = terms.handshakes === null && terms.proxyFrom === null
      const arrival = isPlain ? descriptorClient(loop, descriptor, from, terms) : descriptorSocket(descriptor)
      if (typeof arrival === 'number') return arrival
      onConnection(arrival, terms)
      return 0
    }
    accepting = acceptByLoop(server, loop, arrived, trouble)
  }
  const tuneFor = (tcp: TermsOptions) => {
    const means = loop?.calls ?? calls ?? callsFor(tcp, `listener ${options.address}`)
    // What is not said any more is the system's again: 0, tcp(7).
    const { userTimeoutMs = 0 } = tcp
    if (means !== null && !isUnix) tune(means, accepting.descriptor(), { ...tcp, userTimeoutMs })
  }
  tuneFor(options)
  return {
    address: terms.address,
    get terms() {
      return terms
    },
    prepare(other) {
      callsFor(other, `listener ${options.address}`)
      const next = makeTerms(other, terms, onTrouble, terms)
      return {
        commit() {
          letGoOf(terms, next)
          terms = next
          tuneFor(other)
        },
        drop: () => letGoOf(next, terms),
      }
    },
    async close(lastMs = 0) {
      terms.certificates?.close()
      if (lastMs > 0) {
        const means = options.socket === undefined && !isUnix ? (loop?.calls ?? libcOrNull()) : null
        if (means !== null) beginNoMore(means, accepting.descriptor())
        await wait(lastMs)
      }
      await accepting.close()
    },
  }
}

interface Accepting {
  /** Of the listening socket. */
  descriptor(): number
  close(): Promise<void>
}

function acceptByNode(server: Server, trouble: (error: NodeJS.ErrnoException) => void): Accepting {
  const spare = watchDescriptors(trouble)
  let count = 0
  server.on('connection', () => {
    count += 1
  })
  return {
    descriptor: () => descriptorOf(server),
    async close() {
      spare.close()
      // libuv takes one connection in each turn of the event loop (its issue 3696). Whoever comes all the time does not keep
      // it open for ever.
      let before = -1
      for (let left = BACKLOG; left > 0 && count > before; left -= 1) {
        before = count
        await new Promise(setImmediate)
        await new Promise(setImmediate)
      }
      // Its callback waits for the connections that were accepted; that the port is free is known at once.
      server.close()
    },
  }
}

function acceptByLoop(
  server: Server,
  loop: Loop,
  arrived: (descriptor: number, from: Endpoint) => number,
  trouble: (error: NodeJS.ErrnoException) => void,
): Accepting {
  const listening = takenFrom(server, loop)
  const acceptor: Acceptor = acceptOn(loop, listening, arrived, trouble)
  return { descriptor: () => listening, close: async () => acceptor.close() }
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
  const isOut = ['EMFILE', 'ENFILE', 'ENOSPC'].includes(error.code ?? '')
  const code = isOut ? 'descriptors-exhausted' : 'listen-failed'
  return new HeadraceError(code, `accepting on ${address}: ${error.code}`, error)
}

/** The same as node's server makes of what it accepts. */
function descriptorSocket(descriptor: number): Socket {
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

/** Or, if the system refuses to watch it, the number of the error: then it is closed. */
function descriptorClient(loop: Loop, descriptor: number, from: Endpoint, terms: Terms): Client | number {
  if (!loop.watch(descriptor, NOBODY, CONNECTION_EDGES)) {
    const error = loop.calls.errno()
    loop.calls.close(descriptor)
    return error
  }
  const sender = senderOf(unmapped(from.address), from.port, terms)
  return {
    transport: watchedTransport(loop, descriptor),
    ...sender,
    tls: null,
    listener: terms.address,
  }
}

const NOBODY: Watcher = { ready() {} }

/** What the listener believes of a direct peer. */
export function senderOf(address: string, port: number, { forwardedFrom }: Terms): Sender {
  return { address, port, mayForward: forwardedFrom?.has(address) ?? false }
}

/** Every socket has a listener for errors from birth on; whoever owns it adds one that does something. */
function ignore(): void {}

async function bind(server: Server, place: Place, { address, socket }: ListenerOptions): Promise<void> {
  try {
    // Node takes the length of the queue from the options only if it opens the socket itself.
    if (typeof socket === 'number') server.listen({ fd: socket }, BACKLOG)
    else if (socket !== undefined) server.listen(socket, BACKLOG)
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
