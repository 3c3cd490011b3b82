// When a connection with a dead peer is given up, as the system counts it (tcp(7), socket(7)). Node knows the first of
// these options only.

import { HeadraceError } from '../errors.ts'
import type { Libc } from './libc.ts'
import {
  IPPROTO_TCP,
  libc,
  SO_KEEPALIVE,
  SOL_SOCKET,
  TCP_KEEPCNT,
  TCP_KEEPIDLE,
  TCP_KEEPINTVL,
  TCP_NODELAY,
  TCP_USER_TIMEOUT,
} from './libc.ts'

export interface TcpOptions {
  /** Idle time before the first TCP keep-alive probe, in ms; 0: the system's. */
  readonly keepaliveMs: number
  /** Between probes, in ms; default 1 s, which is node's. */
  readonly keepaliveIntervalMs: number | undefined
  /** Probes without an answer after which the connection is over; default 10, which is node's. */
  readonly keepaliveProbes: number | undefined
  /** How long sent bytes may stay unacknowledged, in ms; default: the system's, some 15 minutes. */
  readonly userTimeoutMs: number | undefined
}

const INTERVAL_MS = 1_000
const PROBES = 10

/** Sets all of them, and TCP_NODELAY. Of a listening socket every connection inherits them. */
export function tune(calls: Libc, descriptor: number, options: TcpOptions): void {
  const set = (level: number, option: number, value: number) => {
    VALUE[0] = value
    calls.setsockopt(descriptor, level, option, VALUE, VALUE.byteLength)
  }
  const { keepaliveMs, keepaliveIntervalMs, keepaliveProbes, userTimeoutMs } = options
  set(IPPROTO_TCP, TCP_NODELAY, 1)
  set(SOL_SOCKET, SO_KEEPALIVE, 1)
  if (keepaliveMs > 0) set(IPPROTO_TCP, TCP_KEEPIDLE, seconds(keepaliveMs))
  set(IPPROTO_TCP, TCP_KEEPINTVL, seconds(keepaliveIntervalMs ?? INTERVAL_MS))
  set(IPPROTO_TCP, TCP_KEEPCNT, keepaliveProbes ?? PROBES)
  if (userTimeoutMs !== undefined) set(IPPROTO_TCP, TCP_USER_TIMEOUT, userTimeoutMs)
}

const VALUE = new Int32Array(1)

/** MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL. */
const LONGEST_S = 32_767

function seconds(ms: number): number {
  return Math.min(Math.max(1, Math.round(ms / 1_000)), LONGEST_S)
}

/**
 * The system's calls, if the options have one that node can't set; else null. Throws config-invalid if it needs them and
 * they can't be had; `what` says whose options they are.
 */
export function callsFor(options: TcpOptions, what: string): Libc | null {
  const { keepaliveIntervalMs, keepaliveProbes, userTimeoutMs } = options
  if ((keepaliveIntervalMs ?? keepaliveProbes ?? userTimeoutMs) === undefined) return null
  try {
    return libc()
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    const detail = `keepaliveInterval, keepaliveProbes or userTimeout of ${what}: ${reason}`
    throw new HeadraceError('config-invalid', detail, error)
  }
}
