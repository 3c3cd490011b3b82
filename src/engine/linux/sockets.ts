// What the system tells about a TCP socket, and the little that is done to one, by its descriptor.

import { readFileSync } from 'node:fs'
import type { Libc } from '../../linux/libc.ts'
import {
  EPOLL_CLOEXEC,
  EPOLL_CTL_ADD,
  EPOLL_CTL_DEL,
  EPOLLIN,
  EVENT_WORDS,
  IPPROTO_TCP,
  SIOCOUTQ,
  SO_COOKIE,
  SO_RCVLOWAT,
  SO_REUSEADDR,
  SO_SNDBUFFORCE,
  SOL_SOCKET,
  TCP_INFO,
  TCP_NOTSENT_LOWAT,
  TCP_QUEUE_SEQ,
  TCP_REPAIR,
  TCP_REPAIR_QUEUE,
} from '../../linux/libc.ts'

/** struct tcp_info as far as it is read (linux/tcp.h), as words of 64 bits; the first byte is the state. */
const TCP_INFO_BYTES = 136
const BYTES_ACKED = 15
const BYTES_RECEIVED = 16

/** Their other end's FIN has come (net/tcp_states.h): TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, CLOSING. */
const STATES_AFTER_FIN = [6, 7, 8, 9, 11]

/** Of TCP_REPAIR, and of TCP_REPAIR_QUEUE (linux/tcp.h); off without a probe of the other end's window. */
const REPAIR_ON = 1
const REPAIR_OFF = -1
const RECEIVE_QUEUE = 1

/** More than any buffer: tcp_notsent_lowat of the system, if it is small, would be a second bound. */
const NO_LOW_WATER = new Int32Array([2 ** 31 - 1])

export interface Sockets {
  /** The kernel's own number for it, never used twice. */
  cookie(fd: number): bigint
  /** Returns when nobody works on a packet of it: what the kernel does with one, it does under the socket's lock. */
  awaitLock(fd: number): void
  /** Payload that the other end has acknowledged. */
  acknowledged(fd: number): number
  /** Payload that it was given to send and that the other end has not acknowledged. */
  unacknowledged(fd: number): number
  /** All that it was ever given to send. */
  written(fd: number): number
  /**
   * TCP's number of the first byte that came on it, modulo 2 ** 32; needs CAP_NET_ADMIN. Only while nobody else sends on it.
   */
  firstNumber(fd: number): number
  /** All that has ever arrived on it, in order, whoever has read it. */
  received(fd: number): number
  /** In bytes, which the kernel doubles; over the system's limits, which CAP_NET_ADMIN allows (socket(7)). */
  setSendBuffer(fd: number, size: number): void
  /** Nothing to read, no FIN, no error. False as well if the system can't tell. */
  isEmpty(fd: number): boolean
  /** Whoever reads it is told of what has arrived, as if it came now. */
  tellReader(fd: number): void
  close(): void
}

export function createSockets(calls: Libc): Sockets {
  const info = new BigUint64Array(TCP_INFO_BYTES / 8)
  const state = new Uint8Array(info.buffer, 0, 1)
  const size = new Uint32Array(1)
  const wide = new BigUint64Array(1)
  const value = new Int32Array(1)
  const event = new Int32Array(EVENT_WORDS)
  const epoll = calls.epoll_create1(EPOLL_CLOEXEC)

  function cookie(fd: number): bigint {
    size[0] = 8
    calls.getsockopt(fd, SOL_SOCKET, SO_COOKIE, wide, size)
    return wide[0] as bigint
  }

  /** Under the lock (tcp_get_info in net/ipv4/tcp.c). */
  function askInfo(fd: number): void {
    size[0] = TCP_INFO_BYTES
    calls.getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, size)
  }

  function acknowledged(fd: number): number {
    askInfo(fd)
    return Number(info[BYTES_ACKED])
  }

  /** A FIN is counted as one byte (tcp_rcv_nxt_update in net/ipv4/tcp_input.c). */
  function received(fd: number): number {
    askInfo(fd)
    const hasEnded = STATES_AFTER_FIN.includes(state[0] as number)
    return Number(info[BYTES_RECEIVED]) - (hasEnded ? 1 : 0)
  }

  function unacknowledged(fd: number): number {
    calls.ioctl(fd, SIOCOUTQ, value)
    return value[0] as number
  }

  /** Acknowledged, and not yet; asked again if an acknowledgement came in between, which neither would count. */
  function written(fd: number): number {
    let before = acknowledged(fd)
    for (;;) {
      const waiting = unacknowledged(fd)
      const now = acknowledged(fd)
      if (now === before) return now + waiting
      before = now
    }
  }

  function firstNumber(fd: number): number {
    for (;;) {
      const before = received(fd)
      const next = nextNumber(fd)
      if (received(fd) === before) return (next + 2 ** 32 - (before % 2 ** 32)) % 2 ** 32
    }
  }

  /**
   * By what is there to move connections to other machines (TCP_REPAIR, net/ipv4/tcp.c): what is sent meanwhile fails, or is
   * even received. What it does to SO_REUSEADDR is undone.
   */
  function nextNumber(fd: number): number {
    size[0] = 4
    calls.getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, value, size)
    const reuse = value[0] as number
    setOption(fd, IPPROTO_TCP, TCP_REPAIR, REPAIR_ON)
    setOption(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, RECEIVE_QUEUE)
    size[0] = 4
    calls.getsockopt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, value, size)
    const next = (value[0] as number) >>> 0
    setOption(fd, IPPROTO_TCP, TCP_REPAIR, REPAIR_OFF)
    setOption(fd, SOL_SOCKET, SO_REUSEADDR, reuse)
    return next
  }

  function setOption(fd: number, level: number, name: number, number: number): void {
    value[0] = number
    calls.setsockopt(fd, level, name, value, 4)
  }

  function setSendBuffer(fd: number, size: number): void {
    setOption(fd, SOL_SOCKET, SO_SNDBUFFORCE, size)
    calls.setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, NO_LOW_WATER, 4)
  }

  /** By epoll, since SIOCINQ is always 0 for a socket in a SOCKHASH, and recv would take a pending error away. */
  function isEmpty(fd: number): boolean {
    event[0] = EPOLLIN
    // Too many watches: then nobody knows (epoll_ctl(2), ENOSPC).
    if (calls.epoll_ctl(epoll, EPOLL_CTL_ADD, fd, event) === -1) return false
    const isReady = calls.epoll_wait(epoll, event, 1, 0) !== 0
    calls.epoll_ctl(epoll, EPOLL_CTL_DEL, fd, null)
    return !isReady
  }

  function tellReader(fd: number): void {
    // tcp_set_rcvlowat does, whatever the value.
    setOption(fd, SOL_SOCKET, SO_RCVLOWAT, 1)
  }

  const close = () => void calls.close(epoll)
  return {
    cookie,
    awaitLock: askInfo,
    acknowledged,
    unacknowledged,
    written,
    received,
    firstNumber,
    setSendBuffer,
    isEmpty,
    tellReader,
    close,
  }
}

/** The most that a receive buffer grows to by itself, in bytes (tcp_rmem, tcp(7)). */
export function mostReceived(): number {
  const [, , most = 0] = readFileSync('/proc/sys/net/ipv4/tcp_rmem', 'latin1').split('\t').map(Number)
  return most
}
