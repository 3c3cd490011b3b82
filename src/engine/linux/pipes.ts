// Pipes for splice(2): bytes go from one socket into a pipe and from there to the other without entering the process.
// A few for all tunnels, since a pipe is two descriptors, and is needed only while bulk flows.

import type { Libc } from '../../linux/libc.ts'
import { F_SETPIPE_SZ, O_CLOEXEC, O_NONBLOCK } from '../../linux/libc.ts'

export interface Pipe {
  readonly output: number
  readonly input: number
  /** Bytes in it. */
  held: number
}

/** What one may hold, if the system lets us (pipe(7)): enough that a turn of a fast tunnel is one call. */
export const PIPE_BYTES = 1024 * 1024

/** In use at once. A tunnel that gets none copies; so that stopped readers of bulk hold no more than this many pipes. */
const LIMIT = 64

/** Kept for the next tunnel. */
const SPARE = 16

export interface Pipes {
  /** Null if there are too many, or no descriptors left. */
  take(): Pipe | null
  /** Whoever took it gives it back, empty or not. */
  give(pipe: Pipe): void
}

export function createPipes(calls: Libc): Pipes {
  const spare: Pipe[] = []
  let inUse = 0

  function take(): Pipe | null {
    if (inUse >= LIMIT) return null
    const pipe = spare.pop() ?? open(calls)
    if (pipe !== null) inUse += 1
    return pipe
  }

  function give(pipe: Pipe): void {
    inUse -= 1
    // What is left in it belongs to nobody any more.
    if (pipe.held === 0 && spare.length < SPARE) spare.push(pipe)
    else close(calls, pipe)
  }

  return { take, give }
}

function open(calls: Libc): Pipe | null {
  const ends = new Int32Array(2)
  if (calls.pipe2(ends, O_CLOEXEC | O_NONBLOCK) === -1) return null
  const [output = -1, input = -1] = ends
  // Without privileges the system may refuse it; then it holds what pipes usually do.
  calls.fcntl(input, F_SETPIPE_SZ, PIPE_BYTES)
  return { output, input, held: 0 }
}

function close(calls: Libc, pipe: Pipe): void {
  calls.close(pipe.output)
  calls.close(pipe.input)
}
