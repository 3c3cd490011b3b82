// Asks and answers between two processes, over node's IPC. Each side has functions that the other may call: what goes in
// and comes out is JSON, and what is thrown comes out as a HeadraceError with its code.
// An answer that does not come is an error, and so is whatever was asked of a process that has died.

import type { SendHandle } from 'node:child_process'
import type { SocketHandle } from '../accept/listener.ts'
import type { HeadraceError } from '../errors.ts'
import { asHeadraceError, HeadraceError as Failure } from '../errors.ts'

/** What a process answers: functions by name. */
export type Answers<Own> = { readonly [Name in keyof Own]: (...given: never[]) => unknown }

export interface Wire<Theirs> {
  /**
   * Rejects with what the other side threw, or with process-silent after `timeoutMs` or when it has gone. `handle`: of a socket,
   * which the other side gets a copy of as its last argument.
   */
  ask<Name extends keyof Theirs & string>(
    name: Name,
    given: Given<Theirs[Name]>,
    timeoutMs?: number,
    handle?: SocketHandle,
  ): Promise<Answer<Theirs[Name]>>
  /** The other side has gone: rejects all that was asked of it. */
  cut(why: string): void
}

type Given<Asked> = Asked extends (...given: infer All) => unknown ? All : never
type Answer<Asked> = Asked extends (...given: never[]) => infer Result ? Awaited<Result> : never

/** A process that answers within a second is well, also on a busy machine; this is five times that. */
const ANSWER_TIMEOUT_MS = 5_000

/** One end of an IPC channel: a child process, or `process` in the child. */
export interface End {
  send?(
    message: object,
    handle: SendHandle | undefined,
    options: undefined,
    sent: (error: Error | null) => void,
  ): unknown
  on(event: 'message', heard: (message: unknown, handle: unknown) => void): unknown
}

type Message =
  | { readonly kind: 'ask'; readonly id: number; readonly name: string; readonly given: readonly unknown[] }
  | { readonly kind: 'answer'; readonly id: number; readonly value?: unknown }
  | {
      readonly kind: 'failure'
      readonly id: number
      readonly code: HeadraceError['code']
      readonly detail: string
    }

interface Waiting {
  readonly resolve: (value: unknown) => void
  readonly reject: (error: HeadraceError) => void
  readonly timer: NodeJS.Timeout | undefined
}

/** `who`: the other side, for errors. */
export function wire<Own extends Answers<Own>, Theirs>(who: string, end: End, own: Own): Wire<Theirs> {
  const waiting = new Map<number, Waiting>()
  let count = 0

  /** What can't be sent is told by the end of the channel, or here. */
  function send(message: Message, failed: (error: Error) => void = () => {}, handle?: SocketHandle): void {
    // Node sends the handles that its own servers are made of, too; its types have no word for them.
    end.send?.(message, handle as unknown as SendHandle | undefined, undefined, (error) => {
      if (error !== null) failed(error)
    })
  }

  function settle(id: number): Waiting | undefined {
    const one = waiting.get(id)
    waiting.delete(id)
    clearTimeout(one?.timer)
    return one
  }

  async function answer(id: number, name: string, given: readonly unknown[]): Promise<void> {
    try {
      if (!Object.hasOwn(own, name))
        throw new Failure('internal', `${who} asks for ${name}, which is unknown here`)
      const act = own[name as keyof Own] as unknown as (...given: readonly unknown[]) => unknown
      send({ kind: 'answer', id, value: await act(...given) })
    } catch (error) {
      const { code, detail } = asHeadraceError(error)
      send({ kind: 'failure', id, code, detail })
    }
  }

  end.on('message', (heard, handle) => {
    const message = heard as Message
    if (message.kind === 'ask') {
      const { id, name, given } = message
      void answer(id, name, handle === undefined ? given : [...given, handle])
    } else if (message.kind === 'answer') settle(message.id)?.resolve(message.value)
    else settle(message.id)?.reject(new Failure(message.code, message.detail))
  })

  return {
    ask(name, given, timeoutMs = ANSWER_TIMEOUT_MS, handle) {
      count += 1
      const id = count
      return new Promise((resolve, reject) => {
        const fail = (why: string) => settle(id)?.reject(new Failure('process-silent', `${who} ${why}`))
        const timer = Number.isFinite(timeoutMs)
          ? setTimeout(fail, timeoutMs, `did not answer ${name} within ${timeoutMs} ms`)
          : undefined
        waiting.set(id, { resolve: resolve as (value: unknown) => void, reject, timer })
        const failed = (error: Error) => fail(`can't be asked: ${error.message}`)
        send({ kind: 'ask', id, name, given }, failed, handle)
      })
    },
    cut(why) {
      for (const id of [...waiting.keys()]) settle(id)?.reject(new Failure('process-silent', `${who} ${why}`))
    },
  }
}
