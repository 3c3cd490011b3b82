// Bulk: bytes of one side that go to the other through a pipe (splice(2)), without entering the process. It is begun where
// a read has filled the whole buffer, and over when the pipe and the socket are both empty.

import type { Libc } from '../../linux/libc.ts'
import { EAGAIN, SPLICE_F_MOVE, SPLICE_F_NONBLOCK } from '../../linux/libc.ts'
import type { Pipe } from './pipes.ts'
import { createPipes, PIPE_BYTES } from './pipes.ts'

/** Fillings of a pipe before the others have their turn. */
const SPLICES_PER_TURN = 4
const FLAGS = SPLICE_F_MOVE | SPLICE_F_NONBLOCK

export interface Bulk {
  /** Takes a pipe for `source`; false if there is none left. */
  start(source: number): boolean
  /**
   * Moves what there is, from one descriptor to another, and says what stopped it: `turn` its share of time, `full` the
   * sink, `empty` the source, for now; `ended` its FIN; or an error of either, in `error`. Bytes are counted as soon as
   * they are taken, before anybody can have them.
   */
  move(source: number, from: number, to: number): 'turn' | 'full' | 'empty' | 'ended' | 'source' | 'sink'
  readonly error: number
  /** Gives the pipe back; what is in it is lost. */
  stop(source: number): void
  /** The same, but what is in the pipe is read out. */
  stopReading(source: number): Buffer | null
  /** True while any pipe is in use. */
  readonly isActive: boolean
}

/** `bytes`: what was taken, by source. */
export function createBulk(calls: Libc, bytes: Float64Array): Bulk {
  const pipes = createPipes(calls)
  const filled = new Map<number, Pipe>()
  const bulk = { error: 0 }

  function start(source: number): boolean {
    const pipe = pipes.take()
    if (pipe === null) return false
    filled.set(source, pipe)
    return true
  }

  function move(source: number, from: number, to: number): ReturnType<Bulk['move']> {
    const pipe = filled.get(source) as Pipe
    for (let count = 0; count < SPLICES_PER_TURN; count += 1) {
      if (pipe.held === 0) {
        const size = calls.splice(from, null, pipe.input, null, PIPE_BYTES, FLAGS)
        if (size === 0) return 'ended'
        if (size === -1) return failed('empty', 'source')
        pipe.held = size
        bytes[source] = (bytes[source] as number) + size
      }
      const sent = calls.splice(pipe.output, null, to, null, pipe.held, FLAGS)
      if (sent === -1) return failed('full', 'sink')
      pipe.held -= sent
    }
    return 'turn'
  }

  function failed<Blocked, Failed>(blocked: Blocked, who: Failed): Blocked | Failed {
    bulk.error = calls.errno()
    return bulk.error === EAGAIN ? blocked : who
  }

  function stop(source: number): void {
    const pipe = filled.get(source)
    if (pipe === undefined) return
    filled.delete(source)
    pipes.give(pipe)
  }

  function stopReading(source: number): Buffer | null {
    const held = filled.get(source)?.held ?? 0
    const bytes = held === 0 ? null : Buffer.allocUnsafeSlow(held)
    const pipe = filled.get(source)
    if (bytes !== null && pipe !== undefined) pipe.held -= calls.read(pipe.output, bytes, held)
    stop(source)
    return bytes
  }

  return Object.defineProperty(Object.assign(bulk, { start, move, stop, stopReading }), 'isActive', {
    get: () => filled.size > 0,
  }) as typeof bulk & Bulk
}
