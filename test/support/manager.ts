// A service manager, played: the socket that a program notifies, and the sockets that it is started with.

import type { Test } from 'tap'
import type { Libc } from '../../src/linux/libc.ts'
import {
  AF_INET,
  AF_UNIX,
  libc,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  systemError,
} from '../../src/linux/libc.ts'
import { endpointOf, SOCKADDR_SIZE, sockaddrOf, unixSockaddrOf } from '../../src/linux/sockaddr.ts'

export interface Manager {
  /** Everything that it was told, oldest first: one entry for each line. */
  readonly told: readonly string[]
  /** Resolves with the next line from here on that matches; those before it are passed over. */
  tells(line: RegExp): Promise<string>
}

/** `path`: of a file, or an abstract name with `@` in front. */
export function startManager(t: Test, path: string): Manager {
  const calls = libc()
  const socket = opened(calls, AF_UNIX, SOCK_DGRAM, unixSockaddrOf(path))
  const told: string[] = []
  const bytes = Buffer.alloc(4_096)
  let passed = 0
  let wake = () => {}
  const watch = calls.poll(socket, () => {
    const length = calls.recv(socket, bytes, bytes.length, 0)
    if (length > 0) told.push(...bytes.toString('utf8', 0, length).split('\n'))
    wake()
  })
  t.teardown(() => {
    watch.close()
    calls.close(socket)
  })
  return {
    told,
    async tells(line) {
      for (;;) {
        const at = told.findIndex((one, index) => index >= passed && line.test(one))
        if (at !== -1) {
          passed = at + 1
          return told[at] ?? ''
        }
        await new Promise<void>((heard) => {
          wake = heard
        })
      }
    },
  }
}

export interface Listening {
  readonly descriptor: number
  readonly address: string
}

/** A socket that listens, and from which nobody accepts: `unix:PATH`, or a port of 127.0.0.1. */
export function listenFor(t: Test, address = '127.0.0.1'): Listening {
  const calls = libc()
  const [, path] = /^unix:(.*)/.exec(address) ?? []
  const isUnix = path !== undefined
  const wanted = isUnix ? unixSockaddrOf(path) : sockaddrOf(calls, { address, port: 0 })
  const descriptor = opened(calls, isUnix ? AF_UNIX : AF_INET, SOCK_STREAM, wanted)
  if (calls.listen(descriptor, 64) === -1) throw systemError(calls.errno(), 'listen')
  t.teardown(() => calls.close(descriptor))
  if (isUnix) return { descriptor, address }
  const bytes = Buffer.alloc(SOCKADDR_SIZE)
  calls.getsockname(descriptor, bytes, new Uint32Array([bytes.length]))
  return { descriptor, address: `${address}:${endpointOf(calls, bytes).port}` }
}

function opened(calls: Libc, family: number, kind: number, address: Buffer): number {
  const socket = calls.socket(family, kind | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
  if (socket === -1) throw systemError(calls.errno(), 'socket')
  if (calls.bind(socket, address, address.length) === -1) throw systemError(calls.errno(), 'bind')
  return socket
}

/** Starts what follows as the process that the sockets are for. */
export const ACTIVATING = ['sh', '-c', 'export LISTEN_PID=$$; exec "$@"', 'sh']
