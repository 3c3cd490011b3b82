// The relay's thread: it does nothing but relay, until the process ends.

import type { MessagePort } from 'node:worker_threads'
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads'
import { libc } from '../../linux/libc.ts'
import { monotonicMs } from '../../linux/monotonic.ts'
import type { Frozen, Order, Rest } from './orders.ts'
import { createRelay } from './relay.ts'
import { push, takeAll } from './slot-ring.ts'
import { useSockmap } from './sockmap.ts'
import type { Tables } from './tables.ts'

export interface ThreadData {
  readonly tables: Tables
  readonly epoll: number
  /** An eventfd, written to when the ring of ended tunnels has something new for main. */
  readonly endings: number
  readonly orders: MessagePort
}

/** What one answer carries of bytes that were not sent, but for the last tunnel's: all that are in it wait for them. */
const KEPT_LIMIT = 512 * 1024

const { tables, epoll, endings, orders } = workerData as ThreadData
const ONE = new BigUint64Array([1n])
const calls = libc()
/** Orders of tunnels that may not have begun here yet. Whoever posted them wakes the relay once more. */
let late: Order[] = []
const relay = createRelay(calls, epoll, tables, { woken, ended })

// All of its files are loaded: from here on it needs no descriptor of its own.
parentPort?.postMessage('ready')
while (Atomics.load(tables.stopped, 0) === 0) relay.turn()
Atomics.store(tables.left, 0, 1)
Atomics.notify(tables.left, 0)

function ended(slot: number): void {
  if (push(tables.ended, slot)) calls.write(endings, ONE, 8)
}

/** What is kept for a tunnel is posted before it begins, and what is to be done with one after that. */
function woken(): void {
  const orders = [...late, ...waitingOrders()]
  const slots: number[] = []
  takeAll(tables.begun, (slot) => void slots.push(slot))
  const latest = waitingOrders()
  for (const order of [...orders, ...latest]) if (order.kind === 'keep') keep(order)
  // Kept once: a second time it would be sent a second time.
  late = latest.filter(({ kind }) => kind !== 'keep')
  for (const slot of slots) relay.begin(slot)
  for (const order of orders) obey(order)
}

function waitingOrders(): Order[] {
  const waiting: Order[] = []
  for (let next = receiveMessageOnPort(orders); next !== undefined; next = receiveMessageOnPort(orders)) {
    waiting.push(next.message as Order)
  }
  return waiting
}

function obey(order: Order): void {
  if (order.kind === 'keep') return
  if (order.kind === 'sockmap') return void relay.useSockmap(useSockmap(order.handle))
  if (order.kind === 'freeze') return void orders.postMessage(...freeze(order))
  const { slot, generation } = order
  if (order.kind === 'finish') relay.finish(slot, generation)
  else relay.cut(slot, generation, order.isReset)
}

/** The answer, and what of it is handed over instead of copied. */
function freeze(order: Order & { kind: 'freeze' }): [Frozen, ArrayBuffer[]] {
  const at = monotonicMs()
  const tunnels = new Map<number, Rest>()
  const later: number[] = []
  const buffers: ArrayBuffer[] = []
  let size = 0
  // A copy of its own: a message would carry the whole pool that a small buffer is a part of.
  const copied = (bytes: Buffer | null) => {
    if (bytes === null) return null
    const copy = new Uint8Array(bytes)
    buffers.push(copy.buffer)
    size += copy.length
    return copy
  }
  for (const [place, slot] of order.slots.entries()) {
    const remains = size < KEPT_LIMIT ? relay.freeze(slot, order.generations[place] ?? 0) : 'later'
    if (remains === 'later') later.push(slot)
    else if (remains !== null) {
      const { toClient, toOrigin } = remains
      tunnels.set(slot, { ...remains, toClient: copied(toClient), toOrigin: copied(toOrigin) })
    }
  }
  return [{ at, tunnels, later }, buffers]
}

function keep({ slot, toClient, toOrigin, clientAhead, originAhead }: Order & { kind: 'keep' }): void {
  relay.keep(slot * 2, bufferOf(toClient), clientAhead)
  relay.keep(slot * 2 + 1, bufferOf(toOrigin), originAhead)
}

function bufferOf(bytes: Uint8Array | null): Buffer | null {
  return bytes === null ? null : Buffer.from(bytes.buffer)
}
