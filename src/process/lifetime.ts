// From the start of a program to its end: it comes into charge, at once or in the place of the release before it, and ends by
// a signal, or after a newer release has come into charge.

import type { MetricsSnapshot } from '../observe/metrics.ts'
import type { ProgramLines } from '../observe/program-lines.ts'
import type { Operations } from '../operations.ts'
import type { Switches } from '../service/switch.ts'
import type { DrainCounts } from '../tunnel/drain.ts'
import type { Child } from './child.ts'
import type { Drains } from './drains.ts'
import { EXIT_TIMEOUT_MS } from './drains.ts'
import type { Notify } from './notify.ts'
import type { Predecessor } from './predecessor.ts'
import type { ControlAnswers, ControlStarted, Place } from './protocol.ts'
import { ofRemnant } from './remnant.ts'
import type { HostedLedger } from './shared-ledger.ts'
import type { Sockets } from './sockets.ts'
import type { Standing } from './standing.ts'
import { BEFORE, succession } from './succession.ts'
import type { Successor } from './successor.ts'
import type { Totals } from './totals.ts'
import type { Upgrades } from './upgrade.ts'
import type { Watchdog } from './watchdog.ts'
import { startWatchdog } from './watchdog.ts'
import type { Worker } from './workers.ts'

export interface LifetimeParts {
  readonly standing: Standing
  readonly before: Predecessor | null
  readonly workers: readonly Worker[]
  readonly control: Child<ControlAnswers, ControlStarted>
  /** As they are now. */
  sockets(): Sockets
  readonly switches: Switches
  readonly ledger: HostedLedger
  readonly fleet: Pick<Operations, 'websockets'>
  readonly totals: Totals
  readonly drains: Drains
  readonly upgrades: Upgrades
  readonly notify: Notify
  readonly lines: ProgramLines
  /** It must not end before those that come after it. */
  readonly isAnchored: boolean
}

export interface Lifetime {
  /** Resolves when all workers accept and this program is in charge. */
  begin(): Promise<void>
  /** Resolves with what became of the tunnels when nothing is left of it. */
  untilEnd(): Promise<DrainCounts>
  /** Ends all of it: also a start that has failed leaves nothing behind. */
  endAll(): Promise<void>
}

export function createLifetime(parts: LifetimeParts): Lifetime {
  const { standing, before, workers, control, sockets, drains, upgrades, totals, notify, lines } = parts
  let watchdog: Watchdog | null = null

  async function begin(): Promise<void> {
    // One after the other: of several reasons why nothing starts, it is always the same one that is told.
    const started = await Promise.all(workers.map((worker) => worker.started))
    const [first] = started
    const { address: own } = await control.started
    const doors = started.flatMap(({ door }) => door ?? [])
    const address = before === null ? own : await succeed(before, doors)
    // Behind whatever the program says of the addresses.
    setImmediate(() => {
      notify.ready()
      watchdog = startWatchdog(workers, notify, () => drains.isDraining)
      if (first !== undefined) lines.engine(first.engine.name, first.engine.reason, workers.length)
      if (address !== null) lines.admin(address)
    })
  }

  /** Resolves with the address of the admin API, if there is one. */
  async function succeed(older: Predecessor, doors: readonly Place[]): Promise<string | null> {
    let address: string | null = null
    const { ledger, switches, fleet } = parts
    const next = succession({ workers, control, ledger, switches, fleet, doors, sockets: sockets() })
    await older.succeed(next.release, {
      ...next.answers,
      async accept() {
        standing.isAccepting = true
        await next.answers.accept()
      },
      async takeOver(state) {
        standing.isInCharge = true
        count(state.counted)
        address = await next.finish(state)
      },
      // An operator's word, and no signal: those of a service manager, or a terminal, may reach it as well.
      drain: (wanted) => drains.begin(wanted),
      farewell: async (counted) => count(counted),
    })
    lines.upgrading('took', { pid: process.pid, before: older.pid })
    void older.gone.then(() => ledger.release(BEFORE))
    return address
  }

  /** What the release before has counted stays counted. */
  function count(counted: MetricsSnapshot): void {
    const line = before?.wire
    if (line != null) totals.inherit(line, counted)
  }

  async function untilEnd(): Promise<DrainCounts> {
    const ending = drains.ended()
    const successor = await Promise.race([upgrades.succeeded, ending.then(() => null)])
    if (successor !== null) await succeededBy(successor, ending)
    const counts = await ending
    // When the main process ends, a service manager ends all that is left (systemd.kill(5), KillMode=mixed).
    if (successor === null) await Promise.race([before?.gone, drains.hurried])
    const counted = ofRemnant(await totals.gather(), upgrades.moved)
    await successor?.wire.ask('farewell', [counted]).catch(() => {})
    await endAll()
    if (parts.isAnchored) await successor?.outlived()
    else successor?.disown()
    return counts
  }

  /** Only what could not be moved is left here: when that is over, or by a signal, this program ends. */
  async function succeededBy(successor: Successor, ending: Promise<unknown>): Promise<void> {
    const { release, pid, wire } = successor
    watchdog?.stop()
    notify.mainPid(pid)
    // Whoever has started the first of them knows no other.
    if (parts.isAnchored) successor.passSignals()
    // Whoever has asked for the end has asked this one, when it was too late to keep the other one from taking over.
    if (drains.isDraining) await wire.ask('drain', [{}]).catch(() => {})
    await upgrades.leave()
    // Those that the other one does not go on with, for good.
    for (const { address, leave, close } of sockets()) release.kept.includes(address) ? leave() : close()
    drains.leave()
    await ending
    // The one before this may have tunnels, which are asked for through this one.
    await before?.gone
  }

  async function endAll(): Promise<void> {
    watchdog?.stop()
    if (!standing.isSucceeded) for (const { close } of sockets()) close()
    await Promise.all(workers.map((worker) => worker.stop(EXIT_TIMEOUT_MS)))
    // Until here it has told whoever asked that this program is not ready.
    await control.stop(EXIT_TIMEOUT_MS)
  }

  return { begin, untilEnd, endAll }
}
