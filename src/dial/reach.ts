// Reaching one of several backends: those of a choice are tried in turn until one is, as long as nothing of the request has
// been sent. The failure of the last one tried is what is told.

import { setTimeout } from 'node:timers/promises'
import type { HeadraceError } from '../errors.ts'
import { asHeadraceError } from '../errors.ts'
import type { Signal } from '../signal.ts'
import type { Backend } from './backend.ts'
import type { Dialled, DialMeans } from './connect.ts'
import { dial } from './connect.ts'
import type { Choice } from './director.ts'

/** Less is no time for a dial, in ms; and by about that much a timer may be early. */
const LEAST_MS = 5

/** Between two dials of somebody who is about to listen, in ms. */
const AGAIN_MS = 50

/** Told of each failure; `isLast`: no other backend is tried. */
export type TellFailure = (backend: Backend, error: HeadraceError, isLast: boolean) => void

export interface Reached {
  readonly backend: Backend
  readonly origin: Dialled
  /** What its answer is to set, as the value of a Set-Cookie. */
  readonly setCookie: string | null
}

/** Throws what the last `dial` threw, or the signal's reason; nothing is left open then. */
export function reach(choice: Choice, signal: Signal, means: DialMeans, tell: TellFailure): Promise<Reached> {
  return inTurn(
    choice,
    async (backend, timeoutMs) => ({
      backend,
      origin: await dial(backend, signal, { ...means, timeoutMs }),
      setCookie: choice.sticky?.setCookieFor(backend) ?? null,
    }),
    () => !signal.aborted,
    tell,
  )
}

/**
 * Attempts it with one backend after the other until one succeeds, for as long as the choice's time lasts and `mayGoOn`.
 * Throws what the last attempt threw.
 */
export async function inTurn<Result>(
  { backends, timeoutMs, isAwaited = false }: Choice,
  attempt: (backend: Backend, timeoutMs: number) => Promise<Result>,
  mayGoOn: () => boolean,
  tell: TellFailure,
): Promise<Result> {
  const deadline = performance.now() + timeoutMs
  const waiting = [...backends]
  for (;;) {
    const backend = waiting.shift()
    if (backend === undefined) throw new TypeError('a choice without a backend')
    try {
      return await attempt(backend, Math.ceil(deadline - performance.now()))
    } catch (error) {
      const isOver = !mayGoOn() || deadline - performance.now() < LEAST_MS
      if (isAwaited && !isOver && asHeadraceError(error).code === 'dial-refused') {
        await setTimeout(AGAIN_MS)
        waiting.push(backend)
        continue
      }
      const isLast = waiting.length === 0 || isOver
      tell(backend, asHeadraceError(error), isLast)
      if (isLast) throw error
    }
  }
}
