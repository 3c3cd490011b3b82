// One at a time; whoever asks meanwhile gets the next one, which begins after that.

export interface Turns<Outcome> {
  ask(): Promise<Outcome>
  /** Resolves when none is under way. */
  settled(): Promise<void>
}

export function inTurns<Outcome>(act: () => Promise<Outcome>): Turns<Outcome> {
  let current: Promise<Outcome> | null = null
  let next: Promise<Outcome> | null = null

  function begin(): Promise<Outcome> {
    const acting = act().finally(() => {
      if (current === acting) current = null
    })
    current = acting
    return acting
  }

  return {
    ask() {
      if (current === null) return begin()
      next ??= current
        .catch(() => {})
        .then(() => {
          next = null
          return begin()
        })
      return next
    },
    async settled() {
      while (current !== null || next !== null) await (next ?? current)?.catch(() => {})
    },
  }
}
