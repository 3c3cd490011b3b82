// Tells a webhook of spikes: POST, JSON. Nothing waits for it; what it doesn't take is tried again, and given up in the end.

import { setTimeout as wait } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import { HeadraceError } from '../errors.ts'

export interface WebhookOptions {
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
}

export interface Webhook {
  /** `message` becomes JSON. */
  tell(message: object): void
  /** What was not told yet never is. */
  close(): void
}

/** Messages that wait for those before them. */
const MAX_WAITING = 100
/** What one attempt may take, in ms. */
const ATTEMPT_TIMEOUT_MS = 5_000
/** The waits between attempts, in ms; each up to a half longer, so that several edges don't come at once. */
const PAUSES_MS = [500, 1_000, 2_000, 4_000, 8_000]

export function createWebhook(
  { url, headers }: WebhookOptions,
  onTrouble: (what: HeadraceError) => void,
): Webhook {
  const closing = new AbortController()
  const waiting: object[] = []
  let isBusy = false

  function tell(message: object): void {
    if (closing.signal.aborted) return
    if (waiting.length < MAX_WAITING) waiting.push(message)
    else fail(message, `${MAX_WAITING} messages wait already`)
    if (!isBusy) void work()
  }

  async function work(): Promise<void> {
    isBusy = true
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) await deliver(next)
    isBusy = false
  }

  async function deliver(message: object): Promise<void> {
    let reason = await attempt(message)
    for (const pause of PAUSES_MS) {
      if (reason === '' || closing.signal.aborted) return
      // A pause that is cut short by the end is one.
      await wait(pause * (1 + Math.random() / 2), undefined, { ref: false, signal: closing.signal }).catch(
        () => {},
      )
      if (closing.signal.aborted) return
      reason = await attempt(message)
    }
    if (reason !== '') fail(message, `${reason}, ${PAUSES_MS.length + 1} times`)
  }

  /** '' if it was taken, or why not. */
  async function attempt(message: object): Promise<string> {
    const signal = AbortSignal.any([closing.signal, AbortSignal.timeout(ATTEMPT_TIMEOUT_MS)])
    try {
      const response = await fetch(url, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json', ...headers },
        body: JSON.stringify(message),
        redirect: 'error',
        signal,
      })
      await response.body?.cancel()
      return response.ok ? '' : `it answered ${response.status}`
    } catch (error) {
      return reasonOf(error)
    }
  }

  function fail(message: object, reason: string): void {
    onTrouble(new HeadraceError('webhook-failed', `${JSON.stringify(message)}: ${reason}`))
  }

  return { tell, close: () => closing.abort() }
}

/** What fetch throws says little, its cause more. */
function reasonOf(error: unknown): string {
  const { message, cause } = error as Error
  return cause instanceof Error
    ? `${message}: ${cause.message || (cause as NodeJS.ErrnoException).code}`
    : message
}

export interface RenewableWebhook extends Webhook {
  /** From now on that one is told, or nobody. */
  configure(options: WebhookOptions | undefined): void
}

/** The one that the config has; undefined: none. */
export function renewableWebhook(
  options: WebhookOptions | undefined,
  onTrouble: (what: HeadraceError) => void,
): RenewableWebhook {
  let at = options
  let webhook: Webhook | null = options === undefined ? null : createWebhook(options, onTrouble)
  return {
    tell: (message: object) => webhook?.tell(message),
    configure(next: WebhookOptions | undefined) {
      if (isDeepStrictEqual(at, next)) return
      webhook?.close()
      at = next
      webhook = next === undefined ? null : createWebhook(next, onTrouble)
    },
    close: () => webhook?.close(),
  }
}
