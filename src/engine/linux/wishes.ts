// What operators order of tunnels that no relay has: it is kept until one has them, in this process or another.

import type { KernelSplicing } from './splicing.ts'

type How = 'fin' | 'reset'

export interface Wishes {
  /** From now on they are kept. */
  keep(splicing: KernelSplicing): void
  /** A relay of this process has it. */
  grant(splicing: KernelSplicing): void
  /** Another process has it: what was kept goes there, and whatever comes. */
  passOn(splicing: KernelSplicing, onward: (how: How) => void): void
}

export function createWishes(): Wishes {
  const kept = new Map<KernelSplicing, How>()

  function take(splicing: KernelSplicing): How | undefined {
    const how = kept.get(splicing)
    kept.delete(splicing)
    return how
  }

  return {
    keep(splicing) {
      splicing.elsewhere = (how) => {
        if (kept.get(splicing) !== 'reset') kept.set(splicing, how)
      }
    },
    grant(splicing) {
      const how = take(splicing)
      splicing.elsewhere = null
      if (how !== undefined) splicing.stop(how)
    },
    passOn(splicing, onward) {
      const how = take(splicing)
      splicing.elsewhere = onward
      if (how !== undefined) onward(how)
    },
  }
}
