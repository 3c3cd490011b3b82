// What the program tells the service manager that has started it (sd_notify(3)): one datagram for each state.
//
//   starting ──ready()──▶ running ──reloading()──▶ reloading ──ready()──▶ running ──stopping()──▶ stopping

import { asHeadraceError, HeadraceError } from '../errors.ts'
import type { Libc } from '../linux/libc.ts'
import {
  AF_UNIX,
  libc,
  MSG_NOSIGNAL,
  SO_SNDTIMEO,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOL_SOCKET,
  systemError,
} from '../linux/libc.ts'
import { unixSockaddrOf } from '../linux/sockaddr.ts'

export interface Notify {
  /** How often at least it wants to hear that the program lives, in ms; null: it doesn't. */
  readonly watchdogMs: number | null
  /** False: nobody is told anything. */
  readonly isHeard: boolean
  /** What the environment of a program must have that goes on in place of this one. */
  readonly environment: Readonly<Record<string, string>>
  /** All workers accept; or do again, after a reload. */
  ready(): void
  reloading(): void
  /** It stops, and may take this long: the manager's own time limit does not count until then. */
  stopping(withinMs: number): void
  alive(): void
  /** For people who ask the manager. */
  status(text: string): void
  /** From now on that process is the program. */
  mainPid(pid: number): void
}

type Environment = Record<string, string | undefined>

/**
 * Takes what concerns it out of the environment: processes that are started from here are not those that the manager
 * knows. `onTrouble` is told once if it can't be told, and again after it could.
 */
export function createNotify(
  environment: Environment,
  pid: number,
  onTrouble: (what: HeadraceError) => void,
): Notify {
  const { NOTIFY_SOCKET: path = '', WATCHDOG_USEC: usec = '', WATCHDOG_PID: watched = '' } = environment
  for (const name of ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID']) delete environment[name]
  const isWatched = /^[1-9][0-9]*$/.test(usec) && (watched === '' || watched === String(pid))
  const send = path === '' ? () => {} : sender(path, onTrouble)
  return {
    isHeard: path !== '',
    watchdogMs: path !== '' && isWatched ? Number(usec) / 1_000 : null,
    environment: path === '' ? {} : { NOTIFY_SOCKET: path, ...(isWatched ? { WATCHDOG_USEC: usec } : {}) },
    ready: () => send('READY=1'),
    reloading: () => send(`RELOADING=1\nMONOTONIC_USEC=${process.hrtime.bigint() / 1_000n}`),
    stopping: (withinMs) => send(`STOPPING=1\nEXTEND_TIMEOUT_USEC=${Math.ceil(withinMs * 1_000)}`),
    alive: () => send('WATCHDOG=1'),
    status: (text) => send(`STATUS=${text}`),
    mainPid: (other) => send(`MAINPID=${other}`),
  }
}

/** How long a manager that doesn't read may hold the primary up, which carries no tunnel: struct timeval, in s and µs. */
const SEND_TIMEOUT = new BigInt64Array([1n, 0n])

function sender(path: string, onTrouble: (what: HeadraceError) => void): (message: string) => void {
  let send: ((message: string) => void) | null = null
  let isTroubled = false
  return (message) => {
    try {
      send ??= connected(libc(), path)
      send(message)
      isTroubled = false
    } catch (error) {
      if (!isTroubled) onTrouble(asHeadraceError(error, 'notify-failed'))
      isTroubled = true
    }
  }
}

function connected(calls: Libc, path: string): (message: string) => void {
  if (!/^[/@]./.test(path)) {
    throw new HeadraceError('notify-failed', `NOTIFY_SOCKET is ${path}: only Unix sockets can be told`)
  }
  const address = unixSockaddrOf(path)
  const socket = calls.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)
  if (socket === -1) throw systemError(calls.errno(), 'socket')
  calls.setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, SEND_TIMEOUT, SEND_TIMEOUT.byteLength)
  return (message) => {
    const bytes = Buffer.from(message)
    const sent = calls.sendto(socket, bytes, bytes.length, MSG_NOSIGNAL, address, address.length)
    if (sent === -1) throw systemError(calls.errno(), `sendto ${path}:`)
  }
}
