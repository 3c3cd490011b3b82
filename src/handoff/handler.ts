// The handler: the programmable way to decide. It is other people's code: it may throw, hang, or answer nonsense, and
// nobody but its own client notices.

import { existsSync } from 'node:fs'
import { pathToFileURL } from 'node:url'
import { HeadraceError } from '../errors.ts'
import type { Decision } from './decision.ts'
import type { RequestView } from './request-view.ts'

export interface HandlerContext {
  /** Aborted when the client has gone, or the handler's time is over. */
  readonly signal: AbortSignal
  /** What is put in here stands in the log line of the accepted tunnel, under `extra`. */
  readonly log: Record<string, unknown>
}

export type Handler = (request: RequestView, context: HandlerContext) => Decision | Promise<Decision>

/** What a module may take to load, in ms: its top level may await what never comes. */
const LOAD_TIMEOUT_MS = 10_000

/** How often modules were loaded anew. Node keeps each module for good under its specifier: another one is another module. */
let renewals = 0

/** Loads the default export of a module; `isAnew`: as it is now, whatever was loaded before. Throws config-invalid. */
export async function loadHandler(file: string, isAnew = false): Promise<Handler> {
  let module: { default?: unknown }
  try {
    module = await loaded(file, isAnew)
  } catch (error) {
    const isAbsent = (error as NodeJS.ErrnoException).code === 'ERR_MODULE_NOT_FOUND' && !existsSync(file)
    const reason = isAbsent ? 'there is no such file' : String(error)
    throw new HeadraceError('config-invalid', `the handler ${file} can't be loaded: ${reason}`, error)
  }
  if (typeof module.default !== 'function') {
    throw new HeadraceError('config-invalid', `the handler ${file} has no function as its default export`)
  }
  return module.default as Handler
}

async function loaded(file: string, isAnew: boolean): Promise<{ default?: unknown }> {
  const url = pathToFileURL(file)
  if (isAnew) {
    renewals += 1
    url.search = `reload=${renewals}`
  }
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    const reason = new Error(`it has not loaded within ${LOAD_TIMEOUT_MS / 1_000} s`)
    timer = setTimeout(() => reject(reason), LOAD_TIMEOUT_MS)
  })
  try {
    return (await Promise.race([import(url.href), late])) as { default?: unknown }
  } finally {
    clearTimeout(timer)
  }
}

/**
 * Asks the handler. `signal` rejects with its reason.
 * Throws handler-failed or handler-timeout.
 */
export async function runHandler(
  handler: Handler,
  request: RequestView,
  context: HandlerContext,
  timeoutMs: number,
): Promise<Decision> {
  const { signal } = context
  let timer: NodeJS.Timeout | undefined
  let onAbort: (() => void) | undefined
  try {
    const answer = handler(request, context)
    if (!(answer instanceof Promise)) return checkDecision(answer)
    // A handler that is given up may still reject later.
    answer.catch(() => {})
    const givenUp = new Promise<never>((_, reject) => {
      timer = setTimeout(
        () => reject(new HeadraceError('handler-timeout', `over ${timeoutMs} ms`)),
        timeoutMs,
      )
      onAbort = () => reject(signal.reason)
      signal.addEventListener('abort', onAbort)
      if (signal.aborted) onAbort()
    })
    return checkDecision(await Promise.race([answer, givenUp]))
  } catch (error) {
    if (signal.aborted) throw signal.reason
    if (error instanceof HeadraceError && error.code === 'handler-timeout') throw error
    throw new HeadraceError('handler-failed', error instanceof Error ? error.message : String(error), error)
  } finally {
    clearTimeout(timer)
    if (onAbort !== undefined) signal.removeEventListener('abort', onAbort)
  }
}

function checkDecision(answer: unknown): Decision {
  const kind = (answer as Decision | null | undefined)?.kind
  if (kind === 'handoff' || kind === 'send' || kind === 'respond') return answer as Decision
  throw new TypeError('it returned no decision: return handoff(…), send(…) or respond(…)')
}
