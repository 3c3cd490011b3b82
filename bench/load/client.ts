// The clients as a process: opens tunnels, plays ping-pong on them, opens and closes them in a row. A wrong byte or a lost
// tunnel makes this call and every later one fail.

import { answerCalls } from '../process.ts'
import type { Target } from './tunnel.ts'
import { Tunnel } from './tunnel.ts'

/** How many handshakes, or single messages, are under way at once. */
const LANES = 64

export interface Played {
  /** Messages that came back, each of them compared. */
  readonly roundTrips: number
  readonly seconds: number
}

export interface Churned {
  readonly upgrades: number
  readonly seconds: number
}

const tunnels: Tunnel[] = []
let count = 0
let fail: (error: Error) => void = () => {}
const failed = new Promise<never>((_, reject) => {
  fail = reject
})
failed.catch(() => {})

function openOne(target: Target, messageSize: number): Promise<Tunnel> {
  count += 1
  return new Promise((resolve) => {
    const tunnel: Tunnel = new Tunnel(target, messageSize, count, () => resolve(tunnel), fail)
  })
}

/** Runs `step` in several lanes at once, each as long as `goesOn` says. */
async function inLanes(lanes: number, goesOn: () => boolean, step: () => Promise<void>): Promise<void> {
  const lane = async () => {
    while (goesOn()) await step()
  }
  await Promise.race([Promise.all(Array.from({ length: lanes }, lane)), failed])
}

function echoOf(tunnel: Tunnel): Promise<void> {
  return new Promise((resolve) => {
    tunnel.onEcho = () => resolve()
    tunnel.ping()
  })
}

function play(ms: number): Promise<Played> {
  const startedAt = performance.now()
  let roundTrips = 0
  let playing = tunnels.length
  let isOver = false
  return new Promise((resolve) => {
    const onEcho = (tunnel: Tunnel) => {
      roundTrips += 1
      if (!isOver) return tunnel.ping()
      playing -= 1
      if (playing === 0) resolve({ roundTrips, seconds: (performance.now() - startedAt) / 1_000 })
    }
    setTimeout(() => {
      isOver = true
    }, ms)
    for (const tunnel of tunnels) {
      tunnel.onEcho = onEcho
      tunnel.ping()
    }
  })
}

const calls = {
  /** Opens so many tunnels more. */
  async open(target: Target, wanted: number, messageSize: number): Promise<void> {
    let missing = wanted
    await inLanes(
      LANES,
      () => missing > 0,
      async () => {
        missing -= 1
        tunnels.push(await openOne(target, messageSize))
      },
    )
  },

  /** One message there and back on each tunnel, few at a time: no burst whose buffers would be kept. */
  async echo(): Promise<void> {
    let next = 0
    await inLanes(
      LANES,
      () => next < tunnels.length,
      async () => {
        const tunnel = tunnels[next]
        next += 1
        if (tunnel !== undefined) await echoOf(tunnel)
      },
    )
  },

  /** Messages there and back on all tunnels at once, the next as soon as one has come back. */
  async pingPong(ms: number): Promise<Played> {
    return await Promise.race([play(ms), failed])
  },

  /** Opens tunnels and closes them as soon as they are open, `lanes` at a time. */
  async churn(target: Target, ms: number, lanes: number): Promise<Churned> {
    const startedAt = performance.now()
    let upgrades = 0
    await inLanes(
      lanes,
      () => performance.now() - startedAt < ms,
      async () => {
        const tunnel = await openOne(target, 0)
        await tunnel.close()
        upgrades += 1
      },
    )
    return { upgrades, seconds: (performance.now() - startedAt) / 1_000 }
  },

  /** Closes all tunnels, in order. */
  async close(): Promise<void> {
    await Promise.race([Promise.all(tunnels.splice(0).map((tunnel) => tunnel.close())), failed])
  },
}

export type ClientCalls = typeof calls
answerCalls(calls)
