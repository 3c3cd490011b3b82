// The end of a connection, by its descriptor.

import type { Libc } from '../../linux/libc.ts'
import { AF_UNSPEC, LINGER_RST, SHUT_RDWR, SO_ERROR, SO_LINGER, SOL_SOCKET } from '../../linux/libc.ts'

const pending = new Int32Array(1)
const pendingSize = new Uint32Array([pending.byteLength])

/** struct sockaddr of the family AF_UNSPEC. */
const NOWHERE = new Uint16Array(8).fill(AF_UNSPEC)

/**
 * With RST, or in order. `isShared`: another process may have a duplicate, which would keep the connection open; so what
 * the close would do is done before it. connect(2) to nowhere is what sends RST then (tcp_disconnect in net/ipv4/tcp.c).
 */
export function hangUp(calls: Libc, descriptor: number, isReset: boolean, isShared: boolean): void {
  if (isReset) calls.setsockopt(descriptor, SOL_SOCKET, SO_LINGER, LINGER_RST, LINGER_RST.byteLength)
  if (isShared && isReset) calls.connect(descriptor, NOWHERE, NOWHERE.byteLength)
  else if (isShared) calls.shutdown(descriptor, SHUT_RDWR)
  calls.close(descriptor)
}

/** The number of the error that nobody has heard of yet, or 0. */
export function pendingError(calls: Libc, descriptor: number): number {
  calls.getsockopt(descriptor, SOL_SOCKET, SO_ERROR, pending, pendingSize)
  return pending[0] as number
}
