// The relay's thread: it does nothing but relay, until the process ends.

import type { MessagePort } from 'node:worker_threads'
import { receiveMessageOnPort, workerData } from 'node:worker_threads'
import { libc } from '../../linux/libc.ts'
import type { Order } from './orders.ts'
import { createRelay } from './relay.ts'
import { useSockmap } from './sockmap.ts'
import type { Tables } from './tables.ts'
import { HEAD, SIGNALLED, STOPPED } from './tables.ts'

export interface ThreadData {
  readonly tables: Tables
  readonly epoll: number
  /** An eventfd, written to when the ring of ended tunnels has something new. */
  readonly endings: number
  readonly orders: MessagePort
}

const { tables, epoll, endings, orders } = workerData as ThreadData
const { cursor, descriptors, generations } = tables
const ONE = new BigUint64Array([1n])
const calls = libc()
const relay = createRelay(calls, epoll, tables, takeOrders)

let told = 0
while (Atomics.load(cursor, STOPPED) === 0) {
  relay.turn()
  const head = Atomics.load(cursor, HEAD)
  // Main is told once, and hears of whatever is in the ring by then.
  if (head !== told && Atomics.exchange(cursor, SIGNALLED, 1) === 0) calls.write(endings, ONE, 8)
  told = head
}

function takeOrders(): void {
  for (let next = receiveMessageOnPort(orders); next !== undefined; next = receiveMessageOnPort(orders)) {
    obey(next.message as Order)
  }
}

function obey(order: Order): void {
  if (order.kind === 'sockmap') return void relay.useSockmap(useSockmap(order.handle))
  const { slot, generation } = order
  // It may have ended while the order was on its way.
  if (Atomics.load(generations, slot) !== generation || descriptors[slot * 2] === -1) return
  if (order.kind === 'finish') relay.finish(slot)
  else if (order.kind === 'cut') relay.cut(slot, order.isReset)
  else begin(order)
}

function begin({ slot, toClient, toOrigin }: Order & { kind: 'begin' }): void {
  if (toClient !== null) relay.keep(slot * 2, Buffer.from(toClient.buffer))
  if (toOrigin !== null) relay.keep(slot * 2 + 1, Buffer.from(toOrigin.buffer))
  if (!relay.begin(slot)) relay.cut(slot, true)
}
