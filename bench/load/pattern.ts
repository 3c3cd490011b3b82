// The bytes that are sent: slices of one long pattern that every process has. Whoever receives them knows by the number of
// the tunnel and of the transfer which slice it must be, so that nothing has to be kept to compare each byte.

const PERIOD = 1_048_576
/** The longest piece that is sent or compared at once; the pattern goes on for so long behind its end. */
const PIECE = 262_144

const PATTERN = Buffer.allocUnsafeSlow(PERIOD + PIECE)
fill()

function fill(): void {
  // xorshift32 (Marsaglia 2003): the same everywhere, and no two stretches of it are alike.
  let state = 0x9e3779b9
  for (let at = 0; at < PERIOD; at += 4) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    PATTERN.writeInt32LE(state, at)
  }
  PATTERN.copy(PATTERN, PERIOD, 0, PIECE)
}

/** Where in the pattern a transfer begins. */
export function startOf(tunnel: number, transfer: number): number {
  return (Math.imul(tunnel, 0x9e3779b1) ^ Math.imul(transfer, 0x85ebca6b)) & (PERIOD - 1)
}

/** A view of what comes at `position` of a transfer: at most `length` bytes. */
export function piece(start: number, position: number, length: number): Buffer {
  const at = (start + position) & (PERIOD - 1)
  return PATTERN.subarray(at, at + Math.min(length, PIECE))
}

/** Whether the first `length` bytes, at most 256 KiB, are what comes at `position`. */
export function matches(bytes: Buffer, length: number, start: number, position: number): boolean {
  const at = (start + position) & (PERIOD - 1)
  return PATTERN.compare(bytes, 0, length, at, at + length) === 0
}
