// Unix sockets by descriptor, for letters between processes of one user (descriptor-passing.ts): a place to listen, which has
// a name in a folder, and the way there. Whoever is on the other side, the system tells (SO_PEERCRED, unix(7)).

import { closeSync, constants, openSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Libc } from './libc.ts'
import {
  AF_UNIX,
  EAGAIN,
  EPOLLIN,
  SO_PEERCRED,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_SEQPACKET,
  SOL_SOCKET,
  systemError,
} from './libc.ts'
import type { Loop } from './loop.ts'

/** sun_path (unix(7)), behind the family. */
const PATH_BYTES = 108
const BACKLOG = 64

/** Out of descriptors, or of memory: how long nobody is let in, in ms. They wait in the backlog meanwhile. */
const PAUSE_MS = 100

export interface Peer {
  readonly pid: number
  readonly uid: number
}

export interface Door {
  /** Accepts no more, and takes the name out of the folder. */
  close(): void
}

/** Listens there; what this user's processes connect is the caller's, anybody else is hung up on. Throws the system's error. */
export function openDoor(
  loop: Loop,
  folder: string,
  name: string,
  onConnection: (fd: number, peer: Peer) => void,
): Door {
  const { calls } = loop
  const fd = orThrow(calls, calls.socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), 'socket')
  // Nobody else's, from its first moment on.
  const mask = process.umask(0o177)
  try {
    within(folder, name, (address) => orThrow(calls, calls.bind(fd, address, address.length), 'bind'))
    orThrow(calls, calls.listen(fd, BACKLOG), 'listen')
  } catch (error) {
    calls.close(fd)
    throw error
  } finally {
    process.umask(mask)
  }

  let isOpen = true
  let pause: NodeJS.Timeout | undefined
  const watcher = { ready: accept }

  function accept(): void {
    while (isOpen) {
      const connected = calls.accept4(fd, null, null, SOCK_NONBLOCK | SOCK_CLOEXEC)
      if (connected === -1) return void (calls.errno() === EAGAIN || rest())
      const peer = peerOf(calls, connected)
      if (peer.uid === process.geteuid?.()) onConnection(connected, peer)
      else calls.close(connected)
    }
  }

  /** Level-triggered: whoever is not let in would be told of in each turn. */
  function rest(): void {
    loop.unwatch(fd)
    pause = setTimeout(listen, PAUSE_MS)
  }

  function listen(): void {
    if (!loop.watch(fd, watcher, EPOLLIN)) rest()
  }

  listen()
  return {
    close() {
      isOpen = false
      clearTimeout(pause)
      loop.unwatch(fd)
      calls.close(fd)
      rmSync(join(folder, name), { force: true })
    },
  }
}

/** The descriptor is the caller's. Throws the system's error, or an Error if somebody else listens there. */
export function knock(
  { calls }: Loop,
  folder: string,
  name: string,
): { readonly fd: number; readonly peer: Peer } {
  const fd = orThrow(calls, calls.socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), 'socket')
  try {
    within(folder, name, (address) => orThrow(calls, calls.connect(fd, address, address.length), 'connect'))
    const peer = peerOf(calls, fd)
    if (peer.uid !== process.geteuid?.()) throw new Error(`user ${peer.uid} listens on ${name}`)
    return { fd, peer }
  } catch (error) {
    calls.close(fd)
    throw error
  }
}

/** However deep the folder is, its descriptor's name has room in sun_path. */
function within(folder: string, name: string, act: (address: Buffer) => void): void {
  const opened = openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY)
  try {
    const address = Buffer.alloc(2 + PATH_BYTES)
    address.writeUInt16LE(AF_UNIX, 0)
    address.write(`/proc/self/fd/${opened}/${name}`, 2, PATH_BYTES - 1, 'latin1')
    act(address)
  } finally {
    closeSync(opened)
  }
}

function peerOf(calls: Libc, fd: number): Peer {
  const [pid = 0, uid = 0] = credentialsOf(calls, fd)
  return { pid, uid }
}

/** struct ucred: pid, uid, gid. */
function credentialsOf(calls: Libc, fd: number): Int32Array {
  const credentials = new Int32Array(3)
  const size = new Uint32Array([credentials.byteLength])
  orThrow(calls, calls.getsockopt(fd, SOL_SOCKET, SO_PEERCRED, credentials, size), 'getsockopt')
  return credentials
}

function orThrow(calls: Libc, result: number, call: string): number {
  if (result === -1) throw systemError(calls.errno(), call)
  return result
}
