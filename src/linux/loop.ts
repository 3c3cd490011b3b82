// Node's event loop, for bare descriptors: an edge-triggered epoll set that libuv polls as one descriptor (epoll sets can
// be nested, epoll(7)). Whoever watches a descriptor is told of its events in node's check phase, where ticks and promises
// run as they should (a callback of uv_poll alone would leave them waiting).
// One set for a thread, made at first use and kept until it ends: this module's only state.

import type { Libc, PollHandle } from './libc.ts'
import {
  EPOLL_CLOEXEC,
  EPOLL_CTL_ADD,
  EPOLL_CTL_DEL,
  EPOLLET,
  EPOLLIN,
  EPOLLOUT,
  EPOLLRDHUP,
  EVENT_DATA,
  EVENT_WORDS,
  libc,
  systemError,
} from './libc.ts'

export interface Watcher {
  /** What has become of its descriptor: a mask of EPOLLIN, EPOLLOUT, … It may be told too much, never too little. */
  ready(events: number): void
}

/** All edges that a connection can have. */
export const CONNECTION_EDGES = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET

const BATCH = 256

export class Loop {
  readonly calls: Libc
  readonly #epoll: number
  readonly #poll: PollHandle
  readonly #events = new Int32Array(BATCH * EVENT_WORDS)
  readonly #event = new Int32Array(EVENT_WORDS)
  /** By descriptor. */
  readonly #watchers: (Watcher | undefined)[] = []
  /** How often a descriptor's number was watched: an event of an earlier one with the same number is for nobody. */
  readonly #turns: number[] = []
  readonly #drain = () => this.#takeEvents()
  #count = 0
  #isScheduled = false

  constructor(calls: Libc) {
    this.calls = calls
    this.#epoll = calls.epoll_create1(EPOLL_CLOEXEC)
    if (this.#epoll === -1) throw systemError(calls.errno(), 'epoll_create1')
    this.#poll = calls.poll(this.#epoll, () => {
      if (this.#isScheduled) return
      this.#isScheduled = true
      setImmediate(this.#drain)
    })
    this.#poll.unref()
    // Called while node takes itself down, a callback of koffi's would abort the process.
    process.once('exit', () => this.#poll.close())
  }

  /**
   * Also tells what is ready already. While anything is watched the process stays alive. False, with an errno, if the
   * system refuses: no memory, or too many watches (epoll_ctl(2), ENOSPC).
   */
  watch(fd: number, watcher: Watcher, edges: number): boolean {
    if (!this.#add(fd, watcher, edges)) return false
    this.#count += 1
    if (this.#count === 1) this.#poll.ref()
    return true
  }

  /** The same for what belongs to the process and does not keep it alive. */
  watchAlways(fd: number, watcher: Watcher, edges: number): boolean {
    return this.#add(fd, watcher, edges)
  }

  /** Of a watched descriptor: from now on it is `watcher` that is told. */
  pass(fd: number, watcher: Watcher): void {
    this.#watchers[fd] = watcher
  }

  /** Before the descriptor is closed or given away: events belong to the open file, whoever has it. */
  unwatch(fd: number): void {
    // The system may have refused to watch it.
    if (this.#watchers[fd] === undefined) return
    this.#watchers[fd] = undefined
    this.calls.epoll_ctl(this.#epoll, EPOLL_CTL_DEL, fd, null)
    this.#count -= 1
    if (this.#count === 0) this.#poll.unref()
  }

  #add(fd: number, watcher: Watcher, edges: number): boolean {
    const turn = ((this.#turns[fd] ?? 0) + 1) | 0
    this.#event[0] = edges
    this.#event[EVENT_DATA] = fd
    this.#event[EVENT_DATA + 1] = turn
    if (this.calls.epoll_ctl(this.#epoll, EPOLL_CTL_ADD, fd, this.#event) === -1) return false
    this.#turns[fd] = turn
    this.#watchers[fd] = watcher
    return true
  }

  /** One batch a turn: what is left makes the set readable again, after everybody else's turn. */
  #takeEvents(): void {
    this.#isScheduled = false
    const events = this.#events
    const count = this.calls.epoll_wait(this.#epoll, events, BATCH, 0)
    for (let index = 0; index < count; index += 1) {
      const at = index * EVENT_WORDS
      const fd = events[at + EVENT_DATA] as number
      if (this.#turns[fd] !== events[at + EVENT_DATA + 1]) continue
      tell(this.#watchers[fd], events[at] as number)
    }
  }
}

/** An edge is told once: an error in one watcher must not keep the others from theirs. */
function tell(watcher: Watcher | undefined, events: number): void {
  try {
    watcher?.ready(events)
  } catch (error) {
    process.nextTick(rethrow, error)
  }
}

function rethrow(error: unknown): never {
  throw error
}

let started: Loop | undefined

/** The loop of this thread. Throws an Error that says in words why there can't be one. */
export function loop(): Loop {
  started ??= new Loop(libc())
  return started
}
