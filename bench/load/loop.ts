// The load's own event loop over bare descriptors. While there is work it waits in epoll_wait itself, and node's loop gets
// a turn now and then; when all is quiet, libuv watches the epoll set. So the load costs less than what it is to load.
// Level-triggered, since it is its owner's choice whether to read.

import type { Libc } from '../../src/linux/libc.ts'
import {
  EPOLL_CLOEXEC,
  EPOLL_CTL_ADD,
  EPOLL_CTL_DEL,
  EPOLL_CTL_MOD,
  EVENT_DATA,
  EVENT_WORDS,
  libc,
  systemError,
} from '../../src/linux/libc.ts'

export interface Watcher {
  ready(events: number): void
}

const BATCH = 256
/** After that node's timers and messages have their turn. */
const SLICE_MS = 5
/** How long nothing must happen before libuv waits in its place. */
const QUIET_MS = 1

export class Loop {
  readonly calls: Libc
  /** Called about every millisecond, and after each batch of events, as long as it is set. */
  #tick: (() => void) | null = null
  readonly #epoll: number
  readonly #events = new Int32Array(BATCH * EVENT_WORDS)
  readonly #event = new Int32Array(EVENT_WORDS)
  /** By descriptor. */
  readonly #watchers: (Watcher | undefined)[] = []
  /** How often a number was watched: an event of an earlier descriptor with the same number is for nobody. */
  readonly #turns: number[] = []
  readonly #run = () => this.#slice()
  #isScheduled = false

  /** Throws an Error that says in words why there can't be one. */
  constructor() {
    this.calls = libc()
    this.#epoll = this.calls.epoll_create1(EPOLL_CLOEXEC)
    if (this.#epoll === -1) throw systemError(this.calls.errno(), 'epoll_create1')
    const poll = this.calls.poll(this.#epoll, () => this.#schedule())
    // Called while node takes itself down, a callback of koffi's would abort the process.
    process.once('exit', () => poll.close())
  }

  set tick(tick: (() => void) | null) {
    this.#tick = tick
    if (tick !== null) this.#schedule()
  }

  watch(fd: number, watcher: Watcher, events: number): void {
    this.#watchers[fd] = watcher
    this.#turns[fd] = ((this.#turns[fd] ?? 0) + 1) | 0
    this.#control(EPOLL_CTL_ADD, fd, events)
  }

  change(fd: number, events: number): void {
    this.#control(EPOLL_CTL_MOD, fd, events)
  }

  /** Before the descriptor is closed. */
  unwatch(fd: number): void {
    this.#watchers[fd] = undefined
    this.calls.epoll_ctl(this.#epoll, EPOLL_CTL_DEL, fd, null)
  }

  #control(operation: number, fd: number, events: number): void {
    this.#event[0] = events
    this.#event[EVENT_DATA] = fd
    this.#event[EVENT_DATA + 1] = this.#turns[fd] ?? 0
    if (this.calls.epoll_ctl(this.#epoll, operation, fd, this.#event) === -1) {
      throw systemError(this.calls.errno(), 'epoll_ctl')
    }
  }

  #schedule(): void {
    if (this.#isScheduled) return
    this.#isScheduled = true
    setImmediate(this.#run)
  }

  #slice(): void {
    this.#isScheduled = false
    const until = performance.now() + SLICE_MS
    let isBusy = true
    while (isBusy && performance.now() < until) {
      const count = this.calls.epoll_wait(this.#epoll, this.#events, BATCH, QUIET_MS)
      for (let index = 0; index < count; index += 1) this.#tell(index * EVENT_WORDS)
      this.#tick?.()
      isBusy = count > 0 || this.#tick !== null
    }
    if (isBusy) this.#schedule()
  }

  #tell(at: number): void {
    const fd = this.#events[at + EVENT_DATA] ?? -1
    if (this.#turns[fd] === this.#events[at + EVENT_DATA + 1])
      this.#watchers[fd]?.ready(this.#events[at] ?? 0)
  }
}

let loop: Loop | null | undefined

/** The loop of this process, or null where bare descriptors can't be had. */
export function ownLoop(): Loop | null {
  if (loop === undefined) {
    try {
      loop = new Loop()
    } catch {
      loop = null
    }
  }
  return loop
}
