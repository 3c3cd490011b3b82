// Playing as fast as it goes: on each tunnel the next question as soon as the answer has come.

import type { Player, Tunnel } from './tunnel.ts'

export interface Played {
  /** Questions that were answered, each byte of both compared. */
  readonly answers: number
  readonly seconds: number
}

/** How many questions are under way at once in `askEach`. */
const LANES = 64

/** For so long, and until every answer has come. `size` is that of the long one of question and answer. */
export function play(tunnels: readonly Tunnel[], ms: number, size: number): Promise<Played> {
  const startedAt = performance.now()
  const until = startedAt + ms
  let answers = 0
  let playing = tunnels.length
  return new Promise((resolve) => {
    const player: Player = {
      opened() {},
      answered(tunnel) {
        answers += 1
        const now = performance.now()
        if (now < until) return tunnel.ask()
        playing -= 1
        if (playing === 0) resolve({ answers, seconds: (now - startedAt) / 1_000 })
      },
      closed() {},
    }
    for (const tunnel of tunnels) {
      tunnel.player = player
      tunnel.traffic = { kind: tunnel.traffic.kind, size }
      tunnel.ask()
    }
  })
}

/** One question on each tunnel. */
export function askEach(tunnels: readonly Tunnel[]): Promise<void> {
  let asked = 0
  let missing = tunnels.length
  return new Promise((resolve) => {
    const next = () => {
      const tunnel = tunnels[asked]
      asked += 1
      if (tunnel === undefined) return
      tunnel.player = player
      tunnel.ask()
    }
    const player: Player = {
      opened() {},
      answered() {
        missing -= 1
        if (missing === 0) resolve()
        else next()
      },
      closed() {},
    }
    if (missing === 0) resolve()
    for (let lane = 0; lane < LANES; lane += 1) next()
  })
}
