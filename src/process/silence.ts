// Whether a worker answers. One whose event loop stands still accepts nobody, while the thread of the kernel engines goes on
// moving the bytes of its tunnels. So its neighbour accepts for it (workers.ts), and it is not ended, unless the config says so.
//
//   answers ──SILENT_LOOKS without an answer──▶ silent ──answers, or dies──▶ answers
//
// Looks are counted, not time: a primary that was late itself blames nobody.

import type { ProgramLines } from '../observe/program-lines.ts'
import type { Child } from './child.ts'
import type { Wire } from './messages.ts'
import type { WorkerAnswers } from './protocol.ts'

export interface Silence {
  /** For how long it has not answered; null: it does, or there is no process that could. */
  readonly ms: number | null
  /** How many tunnels it had when it was heard last: while it answers, a second ago. */
  readonly tunnels: number
}

export interface SilenceParts {
  /** After which a silent one is killed; null: never. */
  timeoutMs(): number | null
  readonly lines: Pick<ProgramLines, 'silent' | 'answers' | 'killed'>
  /** Each second. */
  looked(): void
}

const LOOK_MS = 1_000
const SILENT_LOOKS = 2

/** From now on, as long as this process lives. */
export function watchSilence(
  worker: Pick<Child<WorkerAnswers, unknown>, 'name' | 'pid' | 'state' | 'wire'>,
  { timeoutMs, lines, looked }: SilenceParts,
): Silence {
  let tunnels = 0
  let askedAt = 0
  /** Since it was asked; null: it has answered. */
  let looks: number | null = null
  let isKilled = false

  function look(): void {
    setTimeout(look, LOOK_MS).unref()
    if (looks !== null) {
      looks += 1
      if (looks === SILENT_LOOKS) lines.silent(worker.name, worker.pid, msNow(), tunnels)
      endIfTooLong()
    } else if (worker.wire !== null && worker.state === 'running') void ask(worker.wire)
    looked()
  }

  /** The next one only when this one has its answer: what is asked of a silent one piles up. */
  async function ask(line: Wire<WorkerAnswers>): Promise<void> {
    looks = 0
    isKilled = false
    askedAt = performance.now()
    try {
      tunnels = (await line.ask('draining', [], Number.POSITIVE_INFINITY)).open
      if (isSilent()) lines.answers(worker.name, worker.pid, msNow())
    } catch {
      tunnels = 0
    }
    looks = null
    looked()
  }

  function endIfTooLong(): void {
    const limitMs = timeoutMs()
    if (!isSilent() || limitMs === null || msNow() < limitMs || worker.pid === null || isKilled) return
    isKilled = true
    lines.killed(worker.name, worker.pid, msNow())
    process.kill(worker.pid, 'SIGKILL')
  }

  function isSilent(): boolean {
    return looks !== null && looks >= SILENT_LOOKS
  }

  function msNow(): number {
    return Math.round(performance.now() - askedAt)
  }

  setTimeout(look, LOOK_MS).unref()
  return {
    get ms() {
      return isSilent() ? msNow() : null
    },
    get tunnels() {
      return tunnels
    },
  }
}
