// How fast the rest of the tunnels is closed: as evenly over a time as chance allows. Pure, so that all of it can be tried.

export interface Step {
  /** How long from now. */
  readonly waitMs: number
  /** How many are closed then, at least one. */
  readonly count: number
}

/** Of very many, some are closed at a time; an event loop has other things to do. */
export const STEP_MS = 50

/**
 * The next step, if `open` tunnels (at least one) have `leftMs` in which all of them are to be closed. `chance` is from 0
 * to 1: the wait is half to one and a half of its share, so that nothing beats in time with it. Asked again after each step,
 * it heeds whatever has ended by itself meanwhile.
 */
export function nextStep(open: number, leftMs: number, chance: number): Step {
  if (leftMs <= 0) return { waitMs: 0, count: open }
  const shareMs = Math.max(leftMs / open, STEP_MS)
  const waitMs = Math.min(leftMs, shareMs * (0.5 + chance))
  const count = Math.max(1, Math.floor((open * waitMs) / leftMs))
  return { waitMs, count }
}
