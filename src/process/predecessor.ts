// The release before, as the parent of the one that takes over: what this program inherits, and what is to be done when.

import { HANDOVER_FORMAT } from './handover-letters.ts'
import type { Wire } from './messages.ts'
import { wire } from './messages.ts'
import type { AfterAnswers, BeforeAnswers, Inheritance, Release } from './protocol.ts'
import { TAKES_OVER } from './successor.ts'

export interface Predecessor {
  readonly pid: number
  /** Null when it has gone. */
  readonly wire: Wire<BeforeAnswers> | null
  inheritance(): Promise<Inheritance>
  /** Resolves when this program is in charge. It answers what the other one asks meanwhile. */
  succeed(release: Release, answers: AfterAnswers): Promise<void>
  /** This program can't. */
  fail(reason: string): Promise<void>
  /** Resolves when it has gone. */
  readonly gone: Promise<void>
}

/** Null if this program was started by anybody else. Once in a process. */
export function predecessor(): Predecessor | null {
  const { [TAKES_OVER]: word } = process.env
  // Its children take over from nobody.
  delete process.env[TAKES_OVER]
  if (word === undefined || process.send === undefined) return null
  let inCharge: () => void = () => {}
  let answers: AfterAnswers | null = null
  let isGone = false
  let isInCharge = false
  let left: () => void = () => {}
  const gone = new Promise<void>((resolve) => {
    left = resolve
  })
  const leave = () => {
    isGone = true
    line.cut('has gone')
    left()
  }
  const charged = new Promise<void>((resolve) => {
    inCharge = resolve
  })
  const theirs = (): AfterAnswers => {
    if (answers === null) throw new Error('asked too early')
    return answers
  }
  const line = wire<AfterAnswers, BeforeAnswers>('the release before', process, {
    rates: (rates) => theirs().rates(rates),
    seats: (...given) => theirs().seats(...given),
    accept: () => theirs().accept(),
    async takeOver(state) {
      await theirs().takeOver(state)
      isInCharge = true
      inCharge()
    },
    take: (claims) => theirs().take(claims),
    give: (id) => theirs().give(id),
    drain: (wanted) => theirs().drain(wanted),
    async farewell(counted) {
      await theirs().farewell(counted)
      leave()
    },
  })
  process.once('disconnect', () => {
    leave()
    // It goes on, or was killed: then whoever starts it again starts another one.
    if (!isInCharge) process.exit(1)
  })
  return {
    pid: process.ppid,
    get wire() {
      return isGone ? null : line
    },
    inheritance: () => line.ask('inheritance', [HANDOVER_FORMAT]),
    async succeed(release, own) {
      answers = own
      await line.ask('ready', [release])
      await charged
    },
    fail: (reason) => line.ask('failed', [reason]),
    gone,
  }
}
