// What the relay knows of a side, as bits; and the past of a tunnel: what of it still matters when another relay goes on.

/** There may be something to read. */
export const READABLE = 1
/** Its FIN or error stands behind its bytes and has no edge of its own: read until it comes. */
export const HAS_END_AHEAD = 2
/** Its FIN was read. */
export const ENDED = 4
/** It has our FIN. */
export const FINISHED = 8
/** It gets our FIN as soon as all that is kept for it has gone; what else comes for it is dropped: an operator's end. */
export const FINISHING = 16
/** Its bytes come in bulk: read by splice(2). */
export const BULK = 32
/** Waits for its next turn. */
export const QUEUED = 64

/** Of a tunnel that has just been opened. */
export const NO_PAST = 0

/** Whatever else is known of a side, the system tells again. */
const LASTING = ENDED | FINISHED

/** One number, which goes to other processes, also of other releases. `first`: whose FIN came first, plus one; 0: nobody's. */
export function pastOf(client: number, origin: number, first: number): number {
  return ((client & LASTING) >> 2) | (origin & LASTING) | (first << 4)
}

export function clientOf(past: number): number {
  return (past << 2) & LASTING
}

export function originOf(past: number): number {
  return past & LASTING
}

export function firstOf(past: number): number {
  return past >> 4
}
