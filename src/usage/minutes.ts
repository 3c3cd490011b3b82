// The time of a connection in minutes: each one that is started counts, from its start, in the UTC month in which it
// starts. Pure: milliseconds come in.

import { HeadraceError } from '../errors.ts'

export const MINUTE_MS = 60_000

/** The minutes of a connection that has been open for `ms`: ceil, and the first is started at once. */
export function minutesOf(ms: number): number {
  return Math.max(1, Math.ceil(ms / MINUTE_MS))
}

/**
 * Tells of each minute that has started by `now`, with the time at which it did: a minute starts when the one before is
 * over, which is after `endsAt`. Returns when the last started minute is over, to go on from next time. However the time
 * is cut into calls, the same minutes are told.
 */
export function startMinutes(endsAt: number, now: number, tell: (startedAt: number) => void): number {
  let end = endsAt
  while (now > end) {
    tell(end)
    end += MINUTE_MS
  }
  return end
}

/** The UTC month of a time in epoch ms, such as `2026-11`. */
export function monthOf(at: number): string {
  return new Date(at).toISOString().slice(0, 7)
}

export function isMonth(text: string): boolean {
  return /^[0-9]{4}-(0[1-9]|1[0-2])$/.test(text)
}

/** Throws argument-invalid. */
export function checkMonth(text: string): string {
  if (!isMonth(text))
    throw new HeadraceError('argument-invalid', `"${text}" is no month: write such as 2026-11`)
  return text
}
