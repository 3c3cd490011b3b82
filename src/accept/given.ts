// Listening sockets that a service manager has opened, and that this process was started with (sd_listen_fds(3)). A listener
// takes the one at its own address, or by name as `systemd:NAME`. All workers share it. Whoever opened it keeps it open, too:
// what connects while nobody accepts waits in its backlog.
//
//   idle ──take()──▶ taken ──close()──▶ idle

import { lookup } from 'node:dns/promises'
import { resolve } from 'node:path'
import { HeadraceError } from '../errors.ts'
import type { Libc } from '../linux/libc.ts'
import {
  AF_UNIX,
  F_SETFD,
  FD_CLOEXEC,
  libc,
  SO_ACCEPTCONN,
  SO_TYPE,
  SOCK_STREAM,
  SOL_SOCKET,
} from '../linux/libc.ts'
import { endpointOf, SOCKADDR_SIZE, SOCKADDR_UN_SIZE, sockaddrOf, unixPathOf } from '../linux/sockaddr.ts'
import type { Inherited } from './inherited.ts'
import { lendCopy, textOf } from './inherited.ts'
import { placeOf } from './place.ts'

export interface GivenSocket {
  readonly descriptor: number
  readonly name: string
}

export interface Given {
  /** Null if none is at this address: then it has to be opened. Throws activation-failed or config-invalid. */
  take(address: string, workers: number): Promise<Inherited | null>
  /** Throws activation-failed if there is one that no listener has taken. */
  allTaken(): void
}

interface Socket extends GivenSocket {
  /** As the system has it. */
  readonly sockaddr: Buffer
  readonly address: string
  isTaken: boolean
}

const BY_NAME = 'systemd:'

/** Owns the sockets. Throws activation-failed for what is no listening stream socket. */
export function givenSockets(sockets: readonly GivenSocket[]): Given {
  const all = sockets.length === 0 ? [] : sockets.map((one) => looked(callsOrThrow(), one))

  async function find(address: string): Promise<Socket | undefined> {
    if (address.startsWith(BY_NAME)) return named(address.slice(BY_NAME.length))
    if (all.length === 0) return undefined
    const place = placeOf(address)
    if (place.path !== undefined) {
      const path = resolve(place.path)
      return all.find(({ address }) => address === `unix:${path}`)
    }
    const hosts = place.host === undefined ? ['::', '0.0.0.0'] : [(await lookup(place.host)).address]
    for (const host of hosts) {
      const wanted = sockaddrOf(libc(), { address: host, port: place.port })
      const found = all.find(({ sockaddr }) => isSame(sockaddr, wanted))
      if (found !== undefined) return found
    }
    return undefined
  }

  function named(name: string): Socket {
    const [found, second] = all.filter((one) => one.name === name)
    if (found === undefined) throw failed(`a listener asks for the socket ${name}, and ${list(all)}`)
    if (second !== undefined) {
      throw failed(`a listener asks for the socket ${name}, and several have that name: ${list(all)}`)
    }
    return found
  }

  return {
    async take(address, workers) {
      const found = await find(address)
      if (found === undefined) return null
      if (found.isTaken) throw failed(`two listeners ask for the socket ${textOfSocket(found)}`)
      found.isTaken = true
      const { address: at, descriptor } = found
      return {
        address: at,
        descriptors: Array.from({ length: workers }, () => descriptor),
        isSpread: false,
        isGiven: true,
        lend: () => lendCopy(at, descriptor),
        // What connects from now on is for whoever the service manager starts next.
        quiet() {},
        // It stays open: a later listener may want it.
        close() {
          found.isTaken = false
        },
        leave() {},
      }
    },
    allTaken() {
      const idle = all.filter(({ isTaken }) => !isTaken)
      if (idle.length > 0) throw failed(`no listener takes ${idle.map(textOfSocket).join(', ')}`)
    },
  }
}

function looked(calls: Libc, { descriptor, name }: GivenSocket): Socket {
  const what = `descriptor ${descriptor} (${name})`
  const value = new Int32Array(1)
  const option = (number: number) => {
    const code = calls.getsockopt(descriptor, SOL_SOCKET, number, value, new Uint32Array([value.byteLength]))
    return code === -1 ? -1 : (value[0] ?? -1)
  }
  if (option(SO_TYPE) !== SOCK_STREAM || option(SO_ACCEPTCONN) !== 1) {
    throw failed(`${what} is no listening stream socket: use ListenStream= without Accept=yes`)
  }
  // Workers get what they need and nothing else.
  calls.fcntl(descriptor, F_SETFD, FD_CLOEXEC)
  const bytes = Buffer.alloc(SOCKADDR_UN_SIZE)
  const size = new Uint32Array([bytes.length])
  calls.getsockname(descriptor, bytes, size)
  const sockaddr = bytes.subarray(0, size[0])
  const isUnix = sockaddr.readUInt16LE(0) === AF_UNIX
  const address = isUnix ? `unix:${unixPathOf(sockaddr)}` : textOf(endpointOf(calls, sockaddr))
  return { descriptor, name, sockaddr, address, isTaken: false }
}

function callsOrThrow(): Libc {
  try {
    return libc()
  } catch (error) {
    throw failed(`they can't be used here: ${(error as Error).message}`)
  }
}

/** Family, port and address; of IPv6 neither flow nor scope (ipv6(7)). */
function isSame(one: Buffer, other: Buffer): boolean {
  const isV6 = other.length === SOCKADDR_SIZE
  const partsOf = (bytes: Buffer) => [
    bytes.subarray(0, 4),
    isV6 ? bytes.subarray(8, 24) : bytes.subarray(4, 8),
  ]
  return one.length === other.length && Buffer.concat(partsOf(one)).equals(Buffer.concat(partsOf(other)))
}

function list(all: readonly Socket[]): string {
  return all.length === 0 ? 'none was passed' : `those passed are ${all.map(textOfSocket).join(', ')}`
}

function textOfSocket({ name, address }: Socket): string {
  return `${name} (${address})`
}

function failed(detail: string): HeadraceError {
  return new HeadraceError('activation-failed', detail)
}
