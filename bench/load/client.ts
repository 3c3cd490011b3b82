// The clients as a process: many tunnels, and what is played on them. A wrong byte or a lost tunnel makes the call that is
// under way fail, and every later one.

import { answerCalls } from '../process.ts'
import type { Churned } from './churning.ts'
import { churn } from './churning.ts'
import type { Opened, Order } from './opening.ts'
import { dial, open } from './opening.ts'
import type { Pace, Paced } from './pacing.ts'
import { pace } from './pacing.ts'
import type { Played } from './playing.ts'
import { askEach, play } from './playing.ts'
import type { Tunnel } from './tunnel.ts'

const tunnels: Tunnel[] = []
let fail: (error: Error) => void = () => {}
const failed = new Promise<never>((_, reject) => {
  fail = reject
})
failed.catch(() => {})

const calls = {
  /** Opens so many tunnels more. */
  open(order: Order): Promise<Opened> {
    return Promise.race([open(order, dial(order, fail), (tunnel) => tunnels.push(tunnel)), failed])
  },

  /** One question on each tunnel, few at a time: no burst whose buffers would be kept. */
  askEach(): Promise<void> {
    return Promise.race([askEach(tunnels), failed])
  },

  /** Questions on all tunnels at once, the next as soon as the answer has come. */
  play(ms: number, size: number): Promise<Played> {
    return Promise.race([play(tunnels, ms, size), failed])
  },

  /** Questions at a fixed rate on some of the tunnels. */
  pace(order: Pace): Promise<Paced> {
    return Promise.race([pace(tunnels, order), failed])
  },

  /** Opens tunnels and closes them as soon as they are open. */
  churn(order: Order, ms: number): Promise<Churned> {
    return Promise.race([churn(order, dial(order, fail), ms), failed])
  },

  /** Ends all tunnels at once. */
  reset(): void {
    for (const tunnel of tunnels.splice(0)) tunnel.reset()
  },
}

export type ClientCalls = typeof calls
answerCalls(calls)
