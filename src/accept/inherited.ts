// Listening sockets that are opened here and accepted from elsewhere: by worker processes that inherit their descriptors.
// They stay open here, so that a worker that is replaced leaves no connection refused: what comes waits in the backlog.
//
//   spread   one socket (SO_REUSEPORT) for each worker: the kernel chooses by a hash of both addresses, and no worker is
//            woken for nothing. Linux with koffi, TCP
//   shared   one socket for all: whoever is awake first accepts

import { lookup } from 'node:dns/promises'
import { closeSync, rmSync } from 'node:fs'
import net from 'node:net'
import type { Libc } from '../linux/libc.ts'
import {
  AF_INET6,
  EADDRNOTAVAIL,
  EAFNOSUPPORT,
  errorName,
  F_DUPFD_CLOEXEC,
  libc,
  libcOrNull,
  SO_REUSEADDR,
  SO_REUSEPORT,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  SOL_SOCKET,
  systemError,
} from '../linux/libc.ts'
import type { Endpoint } from '../linux/sockaddr.ts'
import { endpointOf, familyOf, SOCKADDR_SIZE, sockaddrOf } from '../linux/sockaddr.ts'
import type { SocketHandle } from './listener.ts'
import type { Place } from './place.ts'
import { BACKLOG, failedToListen, placeOf, removeStale } from './place.ts'
import { beginNoMore } from './quiet.ts'

export interface Inherited {
  /** With the port that the system chose. */
  readonly address: string
  /**
   * As many as there are workers, or more: a worker's are those at its own place, and at all that come round to it (`shareOf`).
   * The same one for all if it is shared.
   */
  readonly descriptors: readonly number[]
  readonly isSpread: boolean
  /** A service manager has opened it, and keeps it open. */
  readonly isGiven: boolean
  /** The socket of a worker, for a message to a process that runs already. Throws listen-failed. */
  lend(worker: number): Lent
  /** From now on no connection is begun; those that have begun can still be accepted. Not if it is shared by TCP. */
  quiet(): void
  close(): void
  /** Closed here: another process goes on with it, and with its name. */
  leave(): void
}

/** The descriptors of one worker of several, each once. */
export function shareOf(
  { descriptors }: Pick<Inherited, 'descriptors'>,
  own: number,
  workers: number,
): number[] {
  return [...new Set(descriptors.filter((_, at) => at % workers === own))]
}

/** A handle of node's on a socket, to be sent. */
export interface Lent {
  readonly handle: SocketHandle
  /** It has been sent. */
  done(): void
}

/** What this process may do besides, if it was started by root and acts as another user. */
export interface Rights {
  /** As whoever started the program, while `act` runs: with the right to open ports below 1024, and with the umask of then. */
  raised<Result>(act: () => Result): Result
  /**
   * Makes a name for a Unix socket, which is the user's. `bind` says whether it could: root tries where the user may not. So
   * nobody who may write there can put something else in its place before it is given away.
   */
  named(path: string, bind: () => boolean): void
}

const PLAIN: Rights = { raised: (act) => act(), named: (_, bind) => void bind() }

/** Throws listen-failed or config-invalid. `calls`: null where there is no koffi. */
export async function openInherited(
  address: string,
  workers: number,
  calls: Libc | null = libcOrNull(),
  rights: Rights = PLAIN,
): Promise<Inherited> {
  const place = placeOf(address)
  try {
    // An address with a zone has no text that inet_pton(3) takes.
    if (calls === null || place.path !== undefined || place.host?.includes('%')) {
      return await openShared(place, workers, rights)
    }
    return await openSpread(calls, place, workers, rights)
  } catch (error) {
    throw failedToListen(address, error)
  }
}

/** What another process has opened and this one has inherited: each descriptor once. */
export type Legacy = Pick<Inherited, 'address' | 'descriptors' | 'isSpread' | 'isGiven'>

/**
 * Goes on with them. Those for which there is no worker are accepted by another one, so that nothing in their queues is lost;
 * for workers beyond them more are opened, or shared if that is not possible. Never throws. `isOurs`: whether the name of
 * a Unix socket goes with it.
 */
export function inherit(
  { address, descriptors, isSpread, isGiven }: Legacy,
  workers: number,
  isOurs: () => boolean,
): Inherited {
  const calls = libcOrNull()
  const all = [...descriptors]
  if (isSpread && calls !== null) more(calls, endpointIn(address), all, workers)
  const own = [...all]
  for (let at = 0; all.length < workers; at += 1) all.push(own[at] as number)
  const quiet = () => {
    if (isSpread && calls !== null) for (const descriptor of own) beginNoMore(calls, descriptor)
  }
  const leave = () => {
    for (const descriptor of own.splice(0)) closeSync(descriptor)
  }
  return {
    address,
    descriptors: all,
    isSpread,
    isGiven,
    lend: (worker) => lendCopy(address, all[worker] as number),
    quiet,
    close() {
      leave()
      if (address.startsWith('unix:') && !isGiven && isOurs())
        rmSync(address.slice('unix:'.length), { force: true })
    },
    leave,
  }
}

/** A port that needs privileges, which are gone, can't be bound again. */
function more(calls: Libc, at: Endpoint, descriptors: number[], workers: number): void {
  try {
    while (descriptors.length < workers) {
      const descriptor = open(calls, at, true)
      descriptors.push(descriptor)
      calls.listen(descriptor, BACKLOG)
    }
  } catch {
    // Shared, then.
  }
}

/** Of a socket that is spread: for a while somebody else accepts there, too. Throws listen-failed. */
export function duplicate(descriptor: number): number {
  const calls = libc()
  const copy = calls.fcntl(descriptor, F_DUPFD_CLOEXEC, 0)
  if (copy === -1) throw failedToListen('for another worker', systemError(calls.errno(), 'fcntl'))
  return copy
}

/** An inherited one that is not accepted from any more. The socket is closed when nobody has it open (close(2)). */
export function letGo(descriptor: number): void {
  libc().close(descriptor)
}

async function openSpread(
  calls: Libc,
  { host, port }: { readonly host?: string; readonly port: number },
  workers: number,
  { raised }: Rights,
): Promise<Inherited> {
  const wanted = { address: host === undefined ? '::' : (await lookup(host)).address, port }
  return raised(() => spread(calls, wanted, host === undefined, workers))
}

function spread(calls: Libc, wanted: Endpoint, isAnywhere: boolean, workers: number): Inherited {
  const [first, at] = openFirst(calls, wanted, isAnywhere)
  const descriptors = [first]
  const close = () => {
    for (const descriptor of descriptors.splice(0)) calls.close(descriptor)
  }
  try {
    while (descriptors.length < workers) descriptors.push(open(calls, at, true))
    for (const descriptor of descriptors) {
      if (calls.listen(descriptor, BACKLOG) === -1) throw systemError(calls.errno(), 'listen')
    }
  } catch (error) {
    close()
    throw error
  }
  const address = textOf(at)
  const lend = (worker: number) => lendCopy(address, descriptors[worker] ?? -1)
  const quiet = () => {
    for (const descriptor of descriptors) beginNoMore(calls, descriptor)
  }
  return { address, descriptors, isSpread: true, isGiven: false, lend, quiet, close, leave: close }
}

/** A handle closes what it has: it gets a copy. Throws listen-failed. */
export function lendCopy(address: string, descriptor: number): Lent {
  const handle = createHandle(null, null, null, duplicate(descriptor))
  if (typeof handle === 'number') throw failedToListen(address, systemError(-handle, 'open'))
  return { handle, done: () => handle.close() }
}

/** The socket, and where it is. All interfaces are IPv4's if the machine has no IPv6. */
function openFirst(calls: Libc, wanted: Endpoint, isAnywhere: boolean): [number, Endpoint] {
  try {
    // SO_REUSEPORT would share the port with any other program of this user that shares it, too: ask without it first.
    if (wanted.port !== 0) calls.close(open(calls, wanted, false))
    const descriptor = open(calls, wanted, true)
    const address = Buffer.alloc(SOCKADDR_SIZE)
    calls.getsockname(descriptor, address, new Uint32Array([SOCKADDR_SIZE]))
    return [descriptor, endpointOf(calls, address)]
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException
    const hasNoIpv6 = [EAFNOSUPPORT, EADDRNOTAVAIL].map(errorName).includes(code)
    if (!isAnywhere || !hasNoIpv6 || familyOf(wanted.address) !== AF_INET6) throw error
    return openFirst(calls, { ...wanted, address: '0.0.0.0' }, true)
  }
}

function open(calls: Libc, at: Endpoint, isSpread: boolean): number {
  const family = familyOf(at.address)
  const descriptor = calls.socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
  if (descriptor === -1) throw systemError(calls.errno(), 'socket')
  const on = new Int32Array([1])
  calls.setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, on, on.byteLength)
  if (isSpread) calls.setsockopt(descriptor, SOL_SOCKET, SO_REUSEPORT, on, on.byteLength)
  const address = sockaddrOf(calls, at)
  if (calls.bind(descriptor, address, address.length) === 0) return descriptor
  const error = systemError(calls.errno(), 'bind')
  calls.close(descriptor)
  throw error
}

/**
 * A handle of node that is bound and nothing more: once node listens, it accepts. The first worker listens. Node has no
 * public name for it; its own cluster module gets its handles in the same way.
 */
interface BoundHandle extends SocketHandle {
  getsockname?(into: { address?: string; port?: number }): number
}

type CreateHandle = (
  address: string | null,
  port: number | null,
  family: 4 | 6 | -1 | null,
  descriptor?: number,
) => BoundHandle | number

const createHandle = (net as unknown as { readonly _createServerHandle: CreateHandle })._createServerHandle

async function openShared(place: Place, workers: number, rights: Rights): Promise<Inherited> {
  const handle = place.path === undefined ? await bindTcp(place, rights) : await bindUnix(place.path, rights)
  if (typeof handle === 'number') throw systemError(-handle, 'bind')
  const into: { address?: string; port?: number } = {}
  // That an address is taken, libuv says here at the earliest.
  const error = handle.getsockname?.(into) ?? 0
  if (error !== 0) {
    handle.close()
    throw systemError(-error, 'bind')
  }
  return {
    address: place.path === undefined ? textOf(into as Endpoint) : `unix:${place.path}`,
    descriptors: Array.from({ length: workers }, () => handle.fd),
    isSpread: false,
    isGiven: false,
    lend: () => ({ handle, done() {} }),
    // Of a Unix socket the end of its name does the same, which comes with the close.
    quiet: () => {},
    close: () => handle.close(),
    // Closed by libuv it would take its name along; it ends with the process.
    leave: () => {},
  }
}

async function bindTcp(
  { host, port }: { readonly host?: string; readonly port: number },
  { raised }: Rights,
): Promise<BoundHandle | number> {
  if (host === undefined) return raised(() => createHandle(null, port, -1))
  const { address, family } = await lookup(host)
  return raised(() => createHandle(address, port, family === 6 ? 6 : 4))
}

async function bindUnix(path: string, { raised, named }: Rights): Promise<BoundHandle | number> {
  await removeStale(path, raised)
  let handle: BoundHandle | number = 0
  named(path, () => {
    handle = createHandle(path, -1, -1)
    return typeof handle !== 'number'
  })
  return handle
}

function endpointIn(text: string): Endpoint {
  const at = text.lastIndexOf(':')
  return { address: text.slice(0, at).replace(/^\[|\]$/g, ''), port: Number(text.slice(at + 1)) }
}

export function textOf({ address, port }: Endpoint): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`
}
