// What a descriptor is watched for in the relay's epoll set. Any thread may say it; it also tells what is ready already.

import type { Libc } from '../../linux/libc.ts'
import { EVENT_DATA, EVENT_WORDS } from '../../linux/libc.ts'

const event = new Int32Array(EVENT_WORDS)

/** False, with an errno, if the system refuses: no memory, or too many watches (epoll_ctl(2), ENOSPC). */
export function register(
  calls: Libc,
  epoll: number,
  operation: number,
  descriptor: number,
  edges: number,
  side: number,
  generation: number,
): boolean {
  event[0] = edges
  event[EVENT_DATA] = side
  event[EVENT_DATA + 1] = generation
  return calls.epoll_ctl(epoll, operation, descriptor, event) === 0
}
