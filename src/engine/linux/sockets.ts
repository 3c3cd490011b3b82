// What the system tells about a TCP socket, and the little that is done to one, by its descriptor.

import type { Libc } from '../../linux/libc.ts'
import {
  EPOLL_CLOEXEC,
  EPOLL_CTL_ADD,
  EPOLL_CTL_DEL,
  EPOLLIN,
  EVENT_WORDS,
  IPPROTO_TCP,
  O_CLOEXEC,
  O_NONBLOCK,
  SIOCOUTQ,
  SO_COOKIE,
  SO_RCVLOWAT,
  SOL_SOCKET,
  SPLICE_F_NONBLOCK,
  TCP_INFO,
} from '../../linux/libc.ts'

/** struct tcp_info as far as it is read: tcpi_state is its first byte, tcpi_bytes_acked 64 bits at 120 (linux/tcp.h). */
const TCP_INFO_BYTES = 128
const BYTES_ACKED = 15

/** States of a socket that can receive; of the other two a FIN was sent (net/tcp_states.h). */
export const ESTABLISHED = 1
export const CAN_RECEIVE: readonly number[] = [ESTABLISHED, 4, 5]

/** As much as a new pipe holds. */
const SPLICE_BYTES = 64 * 1024

export interface Sockets {
  /** The kernel's own number for it, never used twice. */
  cookie(fd: number): bigint
  /** Its state. Takes the socket's lock: what was being done with a packet is done. */
  state(fd: number): number
  /** All that it was ever given to send. */
  written(fd: number): number
  /** Nothing to read, no FIN, no error. */
  isEmpty(fd: number): boolean
  /** Whoever reads it is told of what has arrived, as if it came now. */
  tellReader(fd: number): void
  /** What has arrived, by splice(2), which sees only what no program has had; null if there is no pipe. */
  spliceAll(fd: number): Buffer | null
  close(): void
}

export function createSockets(calls: Libc): Sockets {
  const info = new BigUint64Array(TCP_INFO_BYTES / 8)
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

  function state(fd: number): number {
    size[0] = TCP_INFO_BYTES
    calls.getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, size)
    return Number((info[0] as bigint) & 0xffn)
  }

  /** Acknowledged, and not yet; asked again if an acknowledgement came in between, which neither would count. */
  function written(fd: number): number {
    let acknowledged = acknowledgedBy(fd)
    for (;;) {
      calls.ioctl(fd, SIOCOUTQ, value)
      const now = acknowledgedBy(fd)
      if (now === acknowledged) return acknowledged + (value[0] as number)
      acknowledged = now
    }
  }

  function acknowledgedBy(fd: number): number {
    state(fd)
    return Number(info[BYTES_ACKED])
  }

  /** By epoll, since SIOCINQ is always 0 for a socket in a SOCKHASH, and recv would take a pending error away. */
  function isEmpty(fd: number): boolean {
    event[0] = EPOLLIN
    calls.epoll_ctl(epoll, EPOLL_CTL_ADD, fd, event)
    const isReady = calls.epoll_wait(epoll, event, 1, 0) !== 0
    calls.epoll_ctl(epoll, EPOLL_CTL_DEL, fd, null)
    return !isReady
  }

  function tellReader(fd: number): void {
    // tcp_set_rcvlowat does, whatever the value.
    value[0] = 1
    calls.setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, value, 4)
  }

  function spliceAll(fd: number): Buffer | null {
    const pipe = new Int32Array(2)
    if (calls.pipe2(pipe, O_NONBLOCK | O_CLOEXEC) === -1) return null
    const [output = -1, input = -1] = pipe
    const chunks: Buffer[] = []
    for (;;) {
      const taken = calls.splice(fd, null, input, null, SPLICE_BYTES, SPLICE_F_NONBLOCK)
      if (taken <= 0) break
      const chunk = Buffer.alloc(taken)
      calls.read(output, chunk, taken)
      chunks.push(chunk)
    }
    calls.close(output)
    calls.close(input)
    return Buffer.concat(chunks)
  }

  const close = () => void calls.close(epoll)
  return { cookie, state, written, isEmpty, tellReader, spliceAll, close }
}
