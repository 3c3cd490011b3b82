// One at a time: all that is asked for, in order; or one act, where whoever asks meanwhile gets the next one.

/** Each begins when the one before is over, also if that has failed. */
export function inOrder(): <Value>(act: () => Value | Promise<Value>) => Promise<Value> {
  let last: Promise<unknown> = Promise.resolve()
  return (act) => {
    const acting = last.then(act)
    last = acting.catch(() => {})
    return acting
  }
}

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
