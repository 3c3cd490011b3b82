// Tunnels that stand still: main has asked the relay for them, and no relay has them until they go on, here or elsewhere.

import type { MessagePort } from 'node:worker_threads'
import { receiveMessageOnPort } from 'node:worker_threads'
import { monotonicMs } from '../../linux/monotonic.ts'
import type { Frozen } from './orders.ts'

export interface Standstill {
  /** The relay's answer to the order that `ask` gives; of none, if there is no relay any more. */
  answer(ask: () => void): Promise<Frozen>
  has(slot: number): boolean
  /** It goes on. */
  over(slot: number): void
  /** The relay has failed. What it had answered counts. */
  end(): void
}

export function createStandstill(port: MessagePort): Standstill {
  const slots = new Set<number>()
  /** Whoever waits, in the order of the orders. */
  const waiting: ((frozen: Frozen) => void)[] = []
  let isOver = false

  function hear(frozen: Frozen): void {
    for (const slot of frozen.tunnels.keys()) slots.add(slot)
    waiting.shift()?.(frozen)
  }

  port.on('message', hear)
  port.unref()
  return {
    answer: (ask) =>
      new Promise((resolve) => {
        if (isOver) return resolve(none())
        waiting.push(resolve)
        ask()
      }),
    has: (slot) => slots.has(slot),
    over: (slot) => void slots.delete(slot),
    end() {
      isOver = true
      for (let last = receiveMessageOnPort(port); last !== undefined; last = receiveMessageOnPort(port)) {
        hear(last.message as Frozen)
      }
      for (const resolve of waiting.splice(0)) resolve(none())
    },
  }
}

function none(): Frozen {
  return { at: monotonicMs(), tunnels: new Map(), later: [] }
}
