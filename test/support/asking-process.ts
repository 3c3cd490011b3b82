// A process for the tests of asks: it answers, fails, stays silent, and asks back.

import { HeadraceError } from '../../src/errors.ts'
import type { Wire } from '../../src/process/messages.ts'
import { wire } from '../../src/process/messages.ts'
import type { HostAnswers } from '../../src/process/protocol.ts'

export interface AskingAnswers {
  add(one: number, other: number): number
  fail(why: string): never
  crash(): never
  sleep(): Promise<void>
  take(name: string, count: number): Promise<unknown>
}

const asker: Wire<HostAnswers> = wire<AskingAnswers, HostAnswers>('the test', process, {
  add: (one, other) => one + other,
  fail(why) {
    throw new HeadraceError('argument-invalid', why)
  },
  crash() {
    throw new Error('not ours')
  },
  sleep: () => new Promise(() => {}),
  take: (name, count) => asker.ask('hosted', [name, count]),
})

process.on('disconnect', () => process.exit())
