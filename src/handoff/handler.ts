// The handler: the programmable way to decide. It is other people's code: it may throw, hang, or answer nonsense, and
// nobody but its own client notices.

import { existsSync } from 'node:fs'
import type { IncomingMessage } from 'node:http'
import type { Readable } from 'node:stream'
import { pathToFileURL } from 'node:url'
import { entry, HeadraceError } from '../errors.ts'
import type { RequestHead } from '../head/head.ts'
import { told } from '../stack.ts'
import type { Decision } from './decision.ts'
import type { RequestView } from './request-view.ts'

export interface HandlerContext {
  /** Aborted when the client has gone, or the handler's time is over. */
  readonly signal: AbortSignal
  /** What is put in here stands in the log line of the accepted tunnel, under `extra`. */
  readonly log: Record<string, unknown>
}

export type Handler = (request: RequestView, context: HandlerContext) => Decision | Promise<Decision>

export interface AskedBody {
  readonly stream: Readable
  /** It is that of the request, whose head says how it is framed. */
  readonly isOwn: boolean
}

/** What a program may do besides. */
export interface ProgramContext extends HandlerContext {
  /** Of a plain request; null for an upgrade. Whoever asks for it reads it: a client may wait for that. */
  readonly body: Readable | null
  /** Set if another process has decided that the request is for the object of this name, and passed it on. */
  readonly object: string | null
  /** Whether a session lives in another process. */
  isElsewhere(session: string): boolean
  /**
   * Asks a backend or director as plain HTTP, and resolves with its answer, of which the body is still to come. Throws
   * backend-unknown, and what dials and answers throw.
   */
  ask(backend: string, head: RequestHead, body: AskedBody | null): Promise<IncomingMessage>
  /** The same of the object of this name, in the process where it lives. */
  askSession(session: string, head: RequestHead, body: AskedBody | null): Promise<IncomingMessage>
}

/** A service's own code in somebody else's shape; it ends in a decision as a handler does. */
export type Program = (request: RequestView, context: ProgramContext) => Promise<Decision>

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
export async function runHandler<Context extends HandlerContext>(
  handler: (request: RequestView, context: Context) => Decision | Promise<Decision>,
  request: RequestView,
  context: Context,
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
    throw failureOf(error)
  } finally {
    clearTimeout(timer)
    if (onAbort !== undefined) signal.removeEventListener('abort', onAbort)
  }
}

/** What code that decides has thrown. What an origin did to code that has asked it is as if the request had been sent there. */
export function failureOf(thrown: unknown): HeadraceError {
  if (thrown instanceof HeadraceError && entry(thrown.code).status !== null) return thrown
  return new HeadraceError('handler-failed', told(thrown), thrown)
}

function checkDecision(answer: unknown): Decision {
  const kind = (answer as Decision | null | undefined)?.kind
  if (kind === 'handoff' || kind === 'send' || kind === 'respond' || kind === 'serve' || kind === 'pass')
    return answer as Decision
  throw new TypeError('it returned no decision: return handoff(…), send(…), respond(…) or serve(…)')
}
