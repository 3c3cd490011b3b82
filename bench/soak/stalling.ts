// Readers that stand still, while more is sent to them than fits anywhere.

import type { Pair } from './pair.ts'
import type { Stand } from './stand.ts'

const BULK = 256 * 1_024
const BEAT_MS = 50
const MOST = 8

export interface Stalled {
  readonly pairs: readonly Pair[]
  /** They read again. */
  over(): void
}

/** `from`: some of these. */
export function stalled({ random, traffic }: Stand, who: 'client' | 'origin', from = traffic.open): Stalled {
  const pairs = random.some(
    from.filter(({ isStalled }) => !isStalled),
    1 + random.below(MOST),
  )
  for (const pair of pairs) {
    pair.isStalled = true
    pair[who]?.pause()
  }
  const timer = setInterval(() => {
    for (const pair of pairs) pair.send(who === 'client' ? 'origin' : 'client', BULK)
  }, BEAT_MS)
  return {
    pairs,
    over() {
      clearInterval(timer)
      for (const pair of pairs) {
        pair[who]?.resume()
        pair.forgetPauses()
        pair.isStalled = false
      }
    },
  }
}
