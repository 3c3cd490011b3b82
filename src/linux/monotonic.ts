// The clock that all processes of this machine share, and that nobody sets (clock_gettime(2), CLOCK_MONOTONIC).

/** In ms, with fractions. */
export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6
}
