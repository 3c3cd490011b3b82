// One registration for each side of a tunnel, for its life. Any thread may make it; it also tells what is readable already.

import type { Libc } from '../../linux/libc.ts'
import { EPOLL_CTL_ADD, EVENT_DATA, EVENT_WORDS } from '../../linux/libc.ts'
import { CONNECTION_EDGES } from '../../linux/loop.ts'

const event = new Int32Array(EVENT_WORDS)

/** False if the system refuses: no memory, or too many watches (epoll_ctl(2), ENOSPC). */
export function register(
  calls: Libc,
  epoll: number,
  descriptor: number,
  side: number,
  generation: number,
): boolean {
  event[0] = CONNECTION_EDGES
  event[EVENT_DATA] = side
  event[EVENT_DATA + 1] = generation
  return calls.epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, event) === 0
}
