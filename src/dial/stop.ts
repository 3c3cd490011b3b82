// What ends a dial early: its caller's signal, or its time. The steps of a dial follow each other, so that one handler at a
// time is enough; an AbortSignal of its own would cost more than the rest of the dial's bookkeeping.

import { HeadraceError } from '../errors.ts'
import type { Signal } from '../signal.ts'

export interface Stop {
  readonly isStopped: boolean
  readonly reason: unknown
  /** Told once, with the reason. Whoever sets it takes it off, or lets the next step replace it. */
  handler: ((reason: unknown) => void) | null
  /** Stops nothing any more: the dial is over. */
  release(): void
}

export function createStop(signal: Signal, timeoutMs: number, what: string): Stop {
  const timer = setTimeout(
    () => end(new HeadraceError('dial-timeout', `${what}, ${timeoutMs} ms`)),
    timeoutMs,
  )
  const aborted = () => end(signal.reason)
  const stop = {
    isStopped: false,
    reason: undefined as unknown,
    handler: null as Stop['handler'],
    release() {
      stop.handler = null
      clearTimeout(timer)
      signal.removeEventListener('abort', aborted)
    },
  }
  function end(reason: unknown): void {
    if (stop.isStopped) return
    stop.isStopped = true
    stop.reason = reason
    stop.handler?.(reason)
  }
  signal.addEventListener('abort', aborted)
  if (signal.aborted) aborted()
  return stop
}
