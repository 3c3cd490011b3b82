// The main thread's side of the kernel engines: it gives tunnels to the relay thread, reads their counters, and hears of
// their ends. One relay for a process, started with its first engine and kept until the process ends: this module's only
// state.

import { once } from 'node:events'
import { setTimeout } from 'node:timers'
import { MessageChannel, Worker } from 'node:worker_threads'
import type { Libc } from '../../linux/libc.ts'
import {
  EFD_CLOEXEC,
  EFD_NONBLOCK,
  EPOLL_CLOEXEC,
  EPOLL_CTL_ADD,
  EPOLLET,
  EPOLLIN,
  errorName,
  LINGER_RST,
  MSG_NOSIGNAL,
  RLIMIT_NOFILE,
  SO_LINGER,
  SOL_SOCKET,
  systemError,
} from '../../linux/libc.ts'
import type { Watcher } from '../../linux/loop.ts'
import { loop } from '../../linux/loop.ts'
import type { Detached } from '../../transport/transport.ts'
import type { EarlyBytes, SpliceEnd, SpliceOwner, Splicing } from '../engine.ts'
import { howOf, STOP_TIMEOUT_MS } from '../engine.ts'
import { openSockmap } from './maps.ts'
import type { Order } from './orders.ts'
import { register } from './registration.ts'
import { WAKE } from './relay.ts'
import { push, takeAll } from './slot-ring.ts'
import { redirectedBytes } from './sockmap.ts'
import type { Tables } from './tables.ts'
import {
  createTables,
  ENDED_BY_EDGE,
  endWord,
  errorOfEnd,
  MODE_EPOLL,
  MODE_SOCKMAP,
  wasReset,
  whoEnded,
} from './tables.ts'
import type { ThreadData } from './thread.ts'

/** More tunnels than any process has held yet. */
const SLOTS_LIMIT = 512 * 1024

/** What the relay's thread may take to end when the process exits, also if it has just been started. */
const LEAVE_TIMEOUT_MS = 2_000

const WHO = ['client', 'origin', 'operator', 'edge'] as const
const ONE = new BigUint64Array([1n])

export class Kernel implements Watcher {
  readonly calls: Libc
  readonly tables: Tables
  readonly #epoll: number
  readonly #wake: number
  readonly #endings: number
  readonly #orders: MessageChannel
  readonly #worker: Worker
  /** By slot. */
  readonly #open: (KernelSplicing | undefined)[] = []
  /** Slots that were used before and are free. */
  readonly #free: number[] = []
  #size = 0
  /** Bytes that the kernel has moved from a side; null without sockmap. */
  #redirected: ((side: number) => number) | null = null
  /** Resolves when the relay's thread has loaded what it needs, while there were descriptors; rejects if it can't. */
  readonly started: Promise<void>
  /** False from when the relay's thread has failed on: then nothing more is given to it. */
  isRunning = true

  constructor() {
    const { calls } = loop()
    this.calls = calls
    this.tables = createTables(slotsOf(calls))
    this.#epoll = checked(calls, calls.epoll_create1(EPOLL_CLOEXEC), 'epoll_create1')
    this.#wake = checked(calls, calls.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), 'eventfd')
    this.#endings = checked(calls, calls.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), 'eventfd')
    register(calls, this.#epoll, EPOLL_CTL_ADD, this.#wake, EPOLLIN | EPOLLET, WAKE, 0)
    // Edge-triggered, every write is an edge: nobody needs to read them (eventfd(2)).
    loop().watchAlways(this.#endings, this, EPOLLIN | EPOLLET)
    this.#orders = new MessageChannel()
    this.#orders.port1.unref()
    this.#worker = this.#startThread()
    this.started = this.#loaded()
    // Whoever waits for it is told; nobody has to.
    this.started.catch(() => {})
  }

  #startThread(): Worker {
    const { port2 } = this.#orders
    const workerData: ThreadData = {
      tables: this.tables,
      epoll: this.#epoll,
      endings: this.#endings,
      orders: port2,
    }
    const worker = new Worker(new URL('./thread.js', import.meta.url), {
      name: 'relay',
      workerData,
      transferList: [port2],
      // Flags of the process are for its own program; --input-type would even be an error here.
      execArgv: [],
      // What it makes is short-lived and small; a large nursery would only be memory.
      resourceLimits: { maxYoungGenerationSizeMb: 1 },
    })
    worker.on('error', (error) => this.#fail(error))
    // A thread that sleeps in a system call would keep the process from its exit.
    process.once('exit', () => this.#stop())
    return worker
  }

  /** Until then it keeps the process alive: whoever waits for it wants to go on. */
  async #loaded(): Promise<void> {
    await once(this.#worker, 'message')
    if (this.#size === 0) this.#worker.unref()
  }

  /**
   * Begins a tunnel; only when there `hasRoom`. Early bytes are sent here; what was read from the connections before, and
   * told to nobody, comes next; then what the descriptors bring.
   */
  begin(
    client: Detached,
    origin: Detached,
    early: EarlyBytes,
    owner: SpliceOwner,
    engine: 'epoll' | 'sockmap',
  ): Splicing {
    const slot = this.#free.pop() ?? this.#open.length
    const { descriptors, bytes, generations, modes } = this.tables
    const generation = ((generations[slot] as number) + 1) | 0
    const splicing = new KernelSplicing(this, owner, slot, generation)
    this.#open[slot] = splicing
    this.#size += 1
    if (this.#size === 1) this.#worker.ref()
    const fromClient = [...early.fromClient, ...client.unread]
    const fromOrigin = [...early.fromOrigin, ...origin.unread]
    descriptors[slot * 2] = client.descriptor
    descriptors[slot * 2 + 1] = origin.descriptor
    modes[slot] = engine === 'sockmap' ? MODE_SOCKMAP : MODE_EPOLL
    bytes[slot * 2] = lengthOf(fromClient)
    bytes[slot * 2 + 1] = lengthOf(fromOrigin)
    Atomics.store(generations, slot, generation)
    const toOrigin = this.#send(origin.descriptor, fromClient)
    const toClient = this.#send(client.descriptor, fromOrigin)
    if (toClient !== null || toOrigin !== null) {
      this.order({ kind: 'keep', slot, generation, toClient, toOrigin })
    }
    if (push(this.tables.begun, slot)) setImmediate(wakeLater, this)
    return splicing
  }

  engineOf(slot: number): 'epoll' | 'sockmap' {
    return this.tables.modes[slot] === MODE_SOCKMAP ? 'sockmap' : 'epoll'
  }

  /** Bytes taken from a side so far: those of the relay, and those that the kernel redirected. */
  bytesFrom(side: number): number {
    const relayed = this.tables.bytes[side] as number
    const isOpen = this.tables.descriptors[side] !== -1
    if (this.#redirected === null || !isOpen || this.engineOf(side >> 1) === 'epoll') return relayed
    return relayed + this.#redirected(side)
  }

  /** Lets tunnels be given to the kernel. Throws an Error that says in words why they can't. */
  openSockmap(): void {
    if (this.#redirected !== null) return
    const handle = openSockmap(this.tables.slots)
    this.#redirected = redirectedBytes(handle)
    this.order({ kind: 'sockmap', handle })
  }

  /** True if there is room for one more. */
  get hasRoom(): boolean {
    return this.isRunning && this.#size < this.tables.slots
  }

  order(order: Order): void {
    this.#orders.port1.postMessage(order)
    this.wakeRelay()
  }

  /** Tunnels have ended. */
  ready(): void {
    takeAll(this.tables.ended, (slot) => this.#settle(slot, this.tables.ends[slot] as number))
  }

  #settle(slot: number, word: number): void {
    const splicing = this.#open[slot]
    this.#open[slot] = undefined
    this.#free.push(slot)
    this.#size -= 1
    if (this.#size === 0) this.#worker.unref()
    splicing?.over(word)
  }

  /** Sends what it can; the rest, or what met an error, is the relay's to send. Null if nothing is left. */
  #send(descriptor: number, chunks: readonly Buffer[]): Uint8Array | null {
    if (chunks.length === 0) return null
    const all = Buffer.concat(chunks)
    const sent = Math.max(0, this.calls.send(descriptor, all, all.length, MSG_NOSIGNAL))
    // A copy of its own, which a message can carry.
    return sent === all.length ? null : Uint8Array.prototype.slice.call(all, sent)
  }

  /** Closes what the relay has lost. */
  #abandon(slot: number): void {
    for (const side of [slot * 2, slot * 2 + 1]) {
      const descriptor = this.tables.descriptors[side] as number
      if (descriptor === -1) continue
      this.calls.setsockopt(descriptor, SOL_SOCKET, SO_LINGER, LINGER_RST, LINGER_RST.byteLength)
      this.calls.close(descriptor)
      this.tables.descriptors[side] = -1
    }
    this.#settle(slot, endWord(ENDED_BY_EDGE, true, 0))
  }

  /** The relay's thread has failed, which is a mistake of ours: its tunnels end, new ones are somebody else's. */
  #fail(error: Error): void {
    this.isRunning = false
    this.ready()
    for (const [slot, splicing] of this.#open.entries()) if (splicing !== undefined) this.#abandon(slot)
    process.emitWarning(
      `the relay thread has failed, its tunnels were reset: ${error.stack}`,
      'HeadraceWarning',
    )
  }

  /** A thread that is taken down inside a call through koffi, or while it loads it, would abort the process. */
  #stop(): void {
    Atomics.store(this.tables.stopped, 0, 1)
    this.wakeRelay()
    if (this.isRunning) Atomics.wait(this.tables.left, 0, 0, LEAVE_TIMEOUT_MS)
  }

  /** Now, in the middle of the turn, the relay would take the CPU away from those that are about to begin. */
  wakeRelay(): void {
    this.calls.write(this.#wake, ONE, 8)
  }
}

type Final = Pick<Splicing, 'clientToOrigin' | 'originToClient'> & { readonly engine: 'epoll' | 'sockmap' }

/** One object for each tunnel, in which the main thread keeps what it has to know. */
class KernelSplicing implements Splicing {
  readonly kernel: Kernel
  readonly owner: SpliceOwner
  readonly slot: number
  readonly generation: number
  /** Kept from the tables when it is over, since its slot goes to another. */
  final: Final | null = null

  constructor(kernel: Kernel, owner: SpliceOwner, slot: number, generation: number) {
    this.kernel = kernel
    this.owner = owner
    this.slot = slot
    this.generation = generation
  }

  get engine(): 'epoll' | 'sockmap' {
    return this.final?.engine ?? this.kernel.engineOf(this.slot)
  }

  get clientToOrigin(): number {
    return this.final?.clientToOrigin ?? this.kernel.bytesFrom(this.slot * 2)
  }

  get originToClient(): number {
    return this.final?.originToClient ?? this.kernel.bytesFrom(this.slot * 2 + 1)
  }

  stop(how: 'fin' | 'reset'): void {
    if (this.final !== null) return
    const { slot, generation } = this
    if (how === 'reset') return void this.kernel.order({ kind: 'cut', slot, generation, isReset: true })
    this.kernel.order({ kind: 'finish', slot, generation })
    setTimeout(cut, STOP_TIMEOUT_MS, this).unref()
  }

  over(word: number): void {
    const { engine, clientToOrigin, originToClient } = this
    this.final = { engine, clientToOrigin, originToClient }
    this.owner.spliceEnded(endOf(word))
  }
}

function wakeLater(kernel: Kernel): void {
  kernel.wakeRelay()
}

function cut({ kernel, slot, generation, final }: KernelSplicing): void {
  if (final === null) kernel.order({ kind: 'cut', slot, generation, isReset: false })
}

function endOf(word: number): SpliceEnd {
  const who = WHO[whoEnded(word)] ?? 'edge'
  const number = errorOfEnd(word)
  const error = number === 0 ? '' : errorName(number)
  if (who === 'operator') return { who, how: wasReset(word) ? 'reset' : 'fin', error }
  return { who, how: wasReset(word) ? howOf(error) : 'fin', error }
}

function lengthOf(chunks: readonly Buffer[]): number {
  return chunks.reduce((sum, chunk) => sum + chunk.length, 0)
}

/** Two descriptors for each tunnel: as many as the process may have (getrlimit(2)). */
function slotsOf(calls: Libc): number {
  const limits = new BigUint64Array(2)
  checked(calls, calls.getrlimit(RLIMIT_NOFILE, limits), 'getrlimit')
  const half = (limits[0] as bigint) / 2n
  return half < BigInt(SLOTS_LIMIT) ? Number(half) : SLOTS_LIMIT
}

function checked(calls: Libc, result: number, call: string): number {
  if (result === -1) throw systemError(calls.errno(), call)
  return result
}

let started: Kernel | undefined

/** Throws an Error that says in words why there can't be one. */
export function kernel(): Kernel {
  started ??= new Kernel()
  return started
}
