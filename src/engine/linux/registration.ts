// The relay's epoll set: what a descriptor is watched for, which any thread may say and which also tells what is ready already;
// and what has come, which is the relay's to hear.

import type { Libc } from '../../linux/libc.ts'
import { EVENT_DATA, EVENT_WORDS } from '../../linux/libc.ts'

const BATCH = 512

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

export type Heard = (side: number, generation: number, seen: number) => void

/** Waits for events for at most so many ms (-1: as long as it takes), and gives each. */
export function createEvents(calls: Libc, epoll: number): (ms: number, heard: Heard) => void {
  const events = new Int32Array(BATCH * EVENT_WORDS)
  const { epoll_wait } = calls
  return (ms, heard) => {
    const count = epoll_wait(epoll, events, BATCH, ms)
    for (let index = 0; index < count; index += 1) {
      const at = index * EVENT_WORDS
      const side = events[at + EVENT_DATA] as number
      heard(side, events[at + EVENT_DATA + 1] as number, events[at] as number)
    }
  }
}
