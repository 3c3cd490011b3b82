// The one signal that ends a connection's set-up early: a part of AbortSignal, so that either can be given. An AbortSignal
// for each connection would cost more than parsing its head.

export interface Signal {
  readonly aborted: boolean
  readonly reason: unknown
  addEventListener(type: 'abort', listener: SignalListener): void
  removeEventListener(type: 'abort', listener: SignalListener): void
}

export type SignalListener = (() => void) | { handleEvent(): void }

/** What it is aborted by is its reason, and is told to those that listen then, once. */
export class SetUpSignal implements Signal {
  aborted = false
  reason: unknown = undefined
  /** One or two: the steps of a set-up follow each other. */
  readonly #listeners: SignalListener[] = []

  addEventListener(_type: 'abort', listener: SignalListener): void {
    this.#listeners.push(listener)
  }

  removeEventListener(_type: 'abort', listener: SignalListener): void {
    const at = this.#listeners.indexOf(listener)
    if (at !== -1) this.#listeners.splice(at, 1)
  }

  abort(reason: unknown): void {
    if (this.aborted) return
    this.aborted = true
    this.reason = reason
    for (const listener of this.#listeners.splice(0)) {
      if (typeof listener === 'function') listener()
      else listener.handleEvent()
    }
  }
}

export function throwIfAborted(signal: Signal): void {
  if (signal.aborted) throw signal.reason
}
