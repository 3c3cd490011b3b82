// Numbers that look random and come again with the same seed.

export interface Random {
  /** A whole number from 0 to below `limit`. */
  below(limit: number): number
  /** True once in so many times. */
  oneIn(times: number): boolean
  /** Some of them, at most `count`, in any order. */
  some<One>(all: readonly One[], count: number): One[]
}

/** mulberry32 (Tommy Ettinger, public domain). */
export function randomOf(seed: number): Random {
  let state = seed | 0
  const below = (limit: number) => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * limit)
  }
  return {
    below,
    oneIn: (times) => below(times) === 0,
    some(all, count) {
      const left = [...all]
      const taken = []
      while (left.length > 0 && taken.length < count) taken.push(...left.splice(below(left.length), 1))
      return taken
    },
  }
}
