// Opening and closing in a row: each tunnel is closed in order as soon as it is open, and the next one dialled.

import type { Dial, Order } from './opening.ts'
import type { Player } from './tunnel.ts'

export interface Churned {
  readonly upgrades: number
  readonly seconds: number
  /** Milliseconds from the dial to the 101, of each. */
  readonly waits: Float64Array
}

/** For so long, `lanes` at a time. */
export function churn({ targets, lanes }: Order, dialNext: Dial, ms: number): Promise<Churned> {
  const startedAt = performance.now()
  const until = startedAt + ms
  const waits: number[] = []
  let upgrades = 0
  let running = lanes
  return new Promise((resolve) => {
    const next = () => {
      const target = targets[upgrades % targets.length]
      if (target !== undefined) dialNext(target.address, player)
    }
    const player: Player = {
      opened(tunnel) {
        waits.push(performance.now() - tunnel.askedAt)
        tunnel.close()
      },
      answered() {},
      closed() {
        upgrades += 1
        const now = performance.now()
        if (now < until) return next()
        running -= 1
        if (running > 0) return
        resolve({ upgrades, seconds: (now - startedAt) / 1_000, waits: Float64Array.from(waits) })
      },
    }
    for (let lane = 0; lane < lanes; lane += 1) next()
  })
}
