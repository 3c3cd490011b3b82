// Durations and sizes as people write them.

const MS: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }
const BYTES: Readonly<Record<string, number>> = {
  B: 1,
  KiB: 1_024,
  MiB: 1_048_576,
  GiB: 1_073_741_824,
  kB: 1e3,
  MB: 1e6,
  GB: 1e9,
}

export const DURATION = /^([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)$/
export const SIZE = /^([0-9]+(?:\.[0-9]+)?)(B|KiB|MiB|GiB|kB|MB|GB)$/

/** The longest wait that a timer of node can have, in ms: 24.8 days. A longer one would be over at once. */
export const LONGEST_MS = 2_147_483_647

/** Milliseconds of `10s`, `500ms`, `1.5m`, `2h`, `1d`, or of a number of milliseconds; undefined for anything else. */
export function milliseconds(value: string | number): number | undefined {
  const ms = quantity(value, DURATION, MS)
  return ms === undefined || ms > LONGEST_MS ? undefined : ms
}

/** Bytes of `16KiB`, `1MiB`, `64kB`, or of a number of bytes; undefined for anything else. */
export function bytes(value: string | number): number | undefined {
  const count = quantity(value, SIZE, BYTES)
  return count === undefined || !Number.isSafeInteger(count) ? undefined : count
}

function quantity(
  value: string | number,
  form: RegExp,
  units: Readonly<Record<string, number>>,
): number | undefined {
  if (typeof value === 'number') return Number.isFinite(value) && value >= 0 ? Math.round(value) : undefined
  const [, count, unit = ''] = form.exec(value) ?? []
  const factor = units[unit]
  return count === undefined || factor === undefined ? undefined : Math.round(Number(count) * factor)
}
