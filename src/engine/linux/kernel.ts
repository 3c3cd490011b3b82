// The main thread's side of the kernel engines: it gives tunnels to the relay thread, reads their counters, and hears of
// their ends. One relay for a process, started with its first engine and kept until the process ends: this module's only
// state.

import { once } from 'node:events'
import { MessageChannel, Worker } from 'node:worker_threads'
import type { Libc } from '../../linux/libc.ts'
import {
  EFD_CLOEXEC,
  EFD_NONBLOCK,
  EPOLL_CLOEXEC,
  EPOLL_CTL_ADD,
  EPOLL_CTL_DEL,
  EPOLLET,
  EPOLLIN,
  F_DUPFD_CLOEXEC,
  MSG_NOSIGNAL,
  systemError,
} from '../../linux/libc.ts'
import type { Watcher } from '../../linux/loop.ts'
import { loop } from '../../linux/loop.ts'
import type { Detached } from '../../transport/transport.ts'
import type { EarlyBytes, SpliceOwner, Splicing } from '../engine.ts'
import { NO_PAST } from './bits.ts'
import { hangUp } from './closing.ts'
import { openSockmap } from './maps.ts'
import type { Order, Rest } from './orders.ts'
import { register } from './registration.ts'
import { WAKE } from './relay.ts'
import { push, takeAll } from './slot-ring.ts'
import { redirectedBytes } from './sockmap.ts'
import type { Carried, Orders } from './splicing.ts'
import { KernelSplicing } from './splicing.ts'
import type { Standstill } from './standstill.ts'
import { createStandstill } from './standstill.ts'
import type { Tables } from './tables.ts'
import { createTables, ENDED_BY_EDGE, endWord, MODE_EPOLL, MODE_SOCKMAP, slotsOf } from './tables.ts'
import type { ThreadData } from './thread.ts'
import { createWishes } from './wishes.ts'

/** What the relay's thread may take to end when the process exits, also if it has just been started. */
const LEAVE_TIMEOUT_MS = 2_000

const ONE = new BigUint64Array([1n])

export class Kernel implements Watcher, Orders {
  readonly calls: Libc
  readonly tables: Tables
  readonly #epoll: number
  readonly #wake: number
  readonly #endings: number
  readonly #orders: MessageChannel
  readonly #worker: Worker
  readonly #standstill: Standstill
  /** By slot. */
  readonly #open: (KernelSplicing | undefined)[] = []
  readonly #wishes = createWishes()
  /** Slots that were used before and are free. */
  readonly #free: number[] = []
  #size = 0
  /** Slots that will not be used again, see `release` in sockmap.ts. */
  #retired = 0
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
    this.#standstill = createStandstill(this.#orders.port1)
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
    const splicing = this.#take(owner)
    const fromClient = [...early.fromClient, ...client.unread]
    const fromOrigin = [...early.fromOrigin, ...origin.unread]
    const mode = engine === 'sockmap' ? MODE_SOCKMAP : MODE_EPOLL
    const toOrigin = this.#send(origin.descriptor, fromClient)
    const toClient = this.#send(client.descriptor, fromOrigin)
    const carried = {
      client: client.descriptor,
      origin: origin.descriptor,
      past: NO_PAST,
      clientToOrigin: lengthOf(fromClient),
      originToClient: lengthOf(fromOrigin),
      toClient,
      toOrigin,
      clientAhead: null,
      originAhead: null,
    }
    this.#begin(splicing, carried, mode)
    return splicing
  }

  /** Begins a tunnel where another relay, of this process or of another, has left it; only when there `hasRoom`. */
  resume(carried: Carried, owner: SpliceOwner): KernelSplicing {
    const splicing = this.#take(owner)
    this.#begin(splicing, carried, MODE_EPOLL)
    return splicing
  }

  /** While it is said, the ends of tunnels act although another process has duplicates of their descriptors. */
  share(isShared: boolean): void {
    Atomics.store(this.tables.shared, 0, isShared ? 1 : 0)
  }

  /**
   * Stops tunnels where they are; of each one that is in the answer, `thaw` or `leave` comes next. The others go on: they have
   * ended, or are being ended by an operator; `later`: they can be asked for again. Of none: when all are begun. What the
   * kernel has redirected until then is the relay's from then on, here or elsewhere.
   */
  async freeze(meant: readonly KernelSplicing[]): Promise<{
    readonly at: number
    readonly frozen: Map<KernelSplicing, Carried>
    readonly later: readonly KernelSplicing[]
  }> {
    const bySlot = new Map(meant.flatMap((one) => (one.final === null ? [[one.slot, one] as const] : [])))
    const open = [...bySlot.values()]
    // From here on an order to the relay may come too late.
    for (const one of open) this.#wishes.keep(one)
    const { at, tunnels, later } = await this.#standstill.answer(() => {
      const generations = open.map(({ generation }) => generation)
      this.order({ kind: 'freeze', slots: [...bySlot.keys()], generations })
    })
    const of = (slot: number) => bySlot.get(slot) as KernelSplicing
    const frozen = new Map([...tunnels].map(([slot, rest]) => [of(slot), this.#carriedAt(slot, rest)]))
    for (const one of open) if (!frozen.has(one)) this.#wishes.grant(one)
    return { at, frozen, later: later.map(of) }
  }

  /** Of an open tunnel: descriptors of the caller's, client and origin; null if it is over, or there are no more. */
  duplicate({ slot, final }: KernelSplicing): readonly [number, number] | null {
    if (final !== null) return null
    // The relay may close them in this moment: then the duplicates are of nothing, or of something that nobody freezes.
    const [client, origin] = [slot * 2, slot * 2 + 1].map((side) =>
      this.calls.fcntl(this.tables.descriptors[side] as number, F_DUPFD_CLOEXEC, 0),
    ) as [number, number]
    if (client !== -1 && origin !== -1) return [client, origin]
    for (const fd of [client, origin]) if (fd !== -1) this.calls.close(fd)
    return null
  }

  /** A frozen tunnel goes on here. */
  thaw(splicing: KernelSplicing, carried: Carried): void {
    this.#standstill.over(splicing.slot)
    this.#unwatch(carried)
    splicing.generation = this.#nextGeneration(splicing.slot)
    this.#begin(splicing, carried, MODE_EPOLL)
    this.#wishes.grant(splicing)
  }

  /**
   * A frozen tunnel is another process's, which has duplicates: nothing of this goes out on the wire. Its owner isn't told.
   * What operators order, also since it is frozen, goes `onward`.
   */
  leave(splicing: KernelSplicing, carried: Carried, onward: (how: 'fin' | 'reset') => void): void {
    // Of the open file, which lives on: it would wake this relay for ever (epoll(7), question 6).
    this.#standstill.over(splicing.slot)
    this.#unwatch(carried)
    splicing.conclude()
    for (const side of [splicing.slot * 2, splicing.slot * 2 + 1]) {
      this.calls.close(this.tables.descriptors[side] as number)
      this.tables.descriptors[side] = -1
    }
    this.#give(splicing.slot, carried.clientAhead !== null || carried.originAhead !== null)
    this.#wishes.passOn(splicing, onward)
  }

  #carriedAt(slot: number, rest: Rest): Carried {
    const { descriptors, bytes, pasts } = this.tables
    const [client, origin] = [slot * 2, slot * 2 + 1]
    return {
      client: descriptors[client] as number,
      origin: descriptors[origin] as number,
      past: pasts[slot] as number,
      clientToOrigin: bytes[client] as number,
      originToClient: bytes[origin] as number,
      ...rest,
    }
  }

  #unwatch({ client, origin }: Carried): void {
    for (const fd of [client, origin]) this.calls.epoll_ctl(this.#epoll, EPOLL_CTL_DEL, fd, null)
  }

  #take(owner: SpliceOwner): KernelSplicing {
    const slot = this.#free.pop() ?? this.#open.length
    const splicing = new KernelSplicing(this, owner, slot, this.#nextGeneration(slot))
    this.#open[slot] = splicing
    this.#size += 1
    if (this.#size === 1) this.#worker.ref()
    return splicing
  }

  /** Around, but for 0, which is nobody's. */
  #nextGeneration(slot: number): number {
    return ((this.tables.generations[slot] as number) + 1) | 0 || 1
  }

  #begin({ slot, generation }: KernelSplicing, carried: Carried, mode: number): void {
    const { descriptors, bytes, generations, modes, pasts } = this.tables
    const { toClient, toOrigin, clientAhead, originAhead } = carried
    descriptors[slot * 2] = carried.client
    descriptors[slot * 2 + 1] = carried.origin
    bytes[slot * 2] = carried.clientToOrigin
    bytes[slot * 2 + 1] = carried.originToClient
    modes[slot] = mode
    pasts[slot] = carried.past
    Atomics.store(generations, slot, generation)
    if (toClient !== null || toOrigin !== null || clientAhead !== null || originAhead !== null) {
      this.order({ kind: 'keep', slot, generation, toClient, toOrigin, clientAhead, originAhead })
    }
    // What stood still, or comes from elsewhere, may come too late. Its owner is told, but not inside its own call.
    if (!this.isRunning) setImmediate(() => this.#abandon(slot))
    else if (push(this.tables.begun, slot)) setImmediate(wakeLater, this)
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
    return this.room > 0
  }

  /** How many more there is room for. */
  get room(): number {
    return this.isRunning ? this.tables.slots - this.#size - this.#retired : 0
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
    this.#give(slot)
    splicing?.over(word)
  }

  #give(slot: number, isRetired = false): void {
    this.#open[slot] = undefined
    if (isRetired) this.#retired += 1
    else this.#free.push(slot)
    this.#size -= 1
    if (this.#size === 0) this.#worker.unref()
  }

  /** Sends what it can; the rest, or what met an error, is the relay's to send. Null if nothing is left. */
  #send(descriptor: number, chunks: readonly Buffer[]): Uint8Array<ArrayBuffer> | null {
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
      if (descriptor !== -1) hangUp(this.calls, descriptor, true, true)
      this.tables.descriptors[side] = -1
    }
    this.#settle(slot, endWord(ENDED_BY_EDGE, true, 0))
  }

  /** The relay's thread has failed, which is a mistake of ours: its tunnels end, new ones are somebody else's. */
  #fail(error: Error): void {
    this.isRunning = false
    this.ready()
    this.#standstill.end()
    for (const [slot, splicing] of this.#open.entries()) {
      if (splicing !== undefined && !this.#standstill.has(slot)) this.#abandon(slot)
    }
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

function wakeLater(kernel: Kernel): void {
  kernel.wakeRelay()
}

function lengthOf(chunks: readonly Buffer[]): number {
  return chunks.reduce((sum, chunk) => sum + chunk.length, 0)
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
