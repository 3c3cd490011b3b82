// The primary: it opens the listening sockets, starts workers and the control process, and keeps what all of them share.
// It holds no tunnel and parses nothing that comes from the network.
//
//                     ┌── worker-0 ── edge ── its listening sockets
//   primary ── IPC ───┼── worker-1 ── edge ── its listening sockets
//   switch, ledgers   └── control  ── admin API: control.sock, admin.address

import { givenSockets } from '../accept/given.ts'
import type { LoadedConfig } from '../config/load.ts'
import { problemLine } from '../config/problems.ts'
import { asHeadraceError, HeadraceError } from '../errors.ts'
import type { Crossing } from '../gate/seats.ts'
import type { ProgramLines } from '../observe/program-lines.ts'
import { createProgramLines } from '../observe/program-lines.ts'
import { expectations } from '../service/service.ts'
import { createSwitches, switchFileIn } from '../service/switch.ts'
import type { DrainCounts } from '../tunnel/drain.ts'
import { monthOf } from '../usage/minutes.ts'
import { readUsage } from '../usage/usage.ts'
import { activatedSockets } from './activation.ts'
import { isChecker } from './ask-checker.ts'
import { filesOf } from './check-files.ts'
import type { ChildWatch } from './child.ts'
import { startChild } from './child.ts'
import { createDrains, EXIT_TIMEOUT_MS } from './drains.ts'
import { createFleet } from './fleet.ts'
import { createHosts } from './hosts.ts'
import type { Identity } from './identity.ts'
import { createIdentity } from './identity.ts'
import type { Notify } from './notify.ts'
import { createNotify } from './notify.ts'
import { reapOrphans } from './orphans.ts'
import type { ControlAnswers, ControlStarted, PrimaryAnswers } from './protocol.ts'
import type { ReloadWatch } from './reload.ts'
import { reload } from './reload.ts'
import { hostLedger, LEDGER } from './shared-ledger.ts'
import { exitOnSignals, onHangup } from './signals.ts'
import type { Sockets } from './sockets.ts'
import { openSockets } from './sockets.ts'
import { inTurns } from './turns.ts'
import { watchFiles } from './watch-files.ts'
import type { Watchdog } from './watchdog.ts'
import { startWatchdog } from './watchdog.ts'
import type { Setting } from './workers.ts'
import { START_TIMEOUT_MS, startWorkers } from './workers.ts'

export interface Started {
  readonly addresses: readonly string[]
  /** Resolves with what became of the tunnels. */
  readonly stopped: Promise<DrainCounts>
}

/**
 * Resolves once all workers accept, with the addresses, and with what resolves when everything has stopped after a signal.
 * Rejects with listen-failed, activation-failed, user-unavailable, config-invalid, engine-unavailable or state-failed.
 */
export async function startPrimary(first: LoadedConfig): Promise<Started> {
  const begun = exitOnSignals()
  /** A reload replaces it. */
  let config = first
  const lines = createProgramLines(config.edge.log.level)
  const notify = createNotify(process.env, process.pid, lines.trouble)
  const given = givenSockets(activatedSockets(process.env, process.pid))
  const { stateDirectory, services } = config.edge
  const file = stateDirectory === undefined ? null : switchFileIn(stateDirectory)
  const switches = createSwitches({ services, file })
  const ledger = hostLedger(spike, lines.trouble)
  const watch = watchOf(lines)
  const identity = createIdentity(config.runAs)
  let sockets = await openSockets(config, given, identity)
  const setting = (): Setting => ({ config: { file: config.file, text: config.text }, sockets })
  const reloads = inTurns(async () => {
    if (drains.isDraining) throw new HeadraceError('draining')
    return await reload(reloadParts)
  })
  const files = watchFiles(reloadUnasked)
  const { settled } = reloads
  const hosts = createHosts({ [LEDGER]: ledger })
  const workers = startWorkers(config.workers, { setting, settled, identity, switches, hosts, watch, lines })
  const drains = createDrains({
    workers,
    sockets: () => sockets,
    delayMs: () => config.drainDelayMs,
    times: () => ({ drainMs: config.edge.drainTimeoutMs, spreadMs: config.edge.drainSpreadMs }),
    lines,
    stopping: (withinMs) => notify.stopping(withinMs),
  })
  const status = async () => ({ isDraining: drains.isDraining, workers: await drains.workers() })
  const answers: PrimaryAnswers = {
    ...createFleet(workers, { services: () => config.edge.services, switches, spikes: ledger.spikes }),
    // Every worker writes there, four times a second. The config of a file always has one.
    usage: (month = monthOf(Date.now()), service) => readUsage(stateDirectory ?? 'state', month, service),
    status,
    async drain(wanted) {
      await drains.begin(wanted)
      return await status()
    },
    reload: reloads.ask,
  }
  const control = startControl({ setting, settled, identity, answers, watch })
  const reloadParts = {
    current: () => ({ config, sockets }),
    workers,
    control,
    isOver: () => drains.isDraining,
    replace,
    trouble: lines.trouble,
    given,
    identity,
    watch: reloadWatch(lines, notify, first.file),
  }

  onHangup(reloadUnasked)

  function replace(next: LoadedConfig, listening: Sockets): void {
    config = next
    sockets = listening
    switches.configure(next.edge.services)
    ledger.expect(expectations(next.edge.services))
    lines.configure(next.edge.log.level)
    follow()
  }

  function follow(): void {
    files.follow(config.watch ? filesOf(config) : [])
  }

  /** Of what becomes of it a line tells. */
  function reloadUnasked(): void {
    if (!drains.isDraining) reloads.ask().catch((error: unknown) => lines.trouble(asHeadraceError(error)))
  }
  reapOrphans((pid) => isChecker(pid) || [...workers, control].some((child) => child.pid === pid))
  let watchdog: Watchdog | null = null

  /** The webhook is in the network, where the primary is not. */
  function spike(crossing: Crossing): void {
    lines.spike(crossing)
    control.wire?.ask('spike', [crossing]).catch((error: unknown) => lines.trouble(asHeadraceError(error)))
  }

  /** Nothing is left behind: also not of a start that has failed. */
  async function endAll(): Promise<void> {
    watchdog?.stop()
    for (const { close } of sockets) close()
    await Promise.all(workers.map((worker) => worker.stop(EXIT_TIMEOUT_MS)))
    // Until here it has told whoever asked that this program is not ready.
    await control.stop(EXIT_TIMEOUT_MS)
  }

  async function run(): Promise<DrainCounts> {
    follow()
    begun()
    const counts = await drains.ended()
    await endAll()
    return counts
  }

  try {
    // One after the other: of several reasons why nothing starts, it is always the same one that is told.
    const [first] = await Promise.all(workers.map(({ started }) => started))
    const { address } = await control.started
    // Behind whatever the program says of the addresses.
    setImmediate(() => {
      notify.ready()
      watchdog = startWatchdog(workers, notify, () => drains.isDraining, lines.trouble)
      if (first !== undefined) lines.engine(first.engine.name, first.engine.reason, workers.length)
      if (address !== null) lines.admin(address)
    })
    return { addresses: sockets.map(({ address }) => address), stopped: run() }
  } catch (error) {
    await endAll()
    throw error
  }
}

interface ControlParts {
  setting(): Setting
  settled(): Promise<void>
  readonly identity: Identity
  readonly answers: PrimaryAnswers
  readonly watch: ChildWatch
}

function startControl({ setting, settled, identity, answers, watch }: ControlParts) {
  return startChild<PrimaryAnswers, ControlAnswers, ControlStarted>({
    name: 'control',
    module: new URL('./control.js', import.meta.url),
    descriptors: () => [],
    settled,
    identity,
    answers: () => answers,
    over: () => {},
    start: (wire) => wire.ask('start', [setting().config], START_TIMEOUT_MS),
    watch,
  })
}

function watchOf(lines: ProgramLines): ChildWatch {
  return {
    died: (name, { pid, why, inARow, againInMs }) => lines.died(name, pid, why, inARow, againInMs),
    replaced: (name, pid) => lines.replaced(name, pid),
    failed: (name, error) => lines.failed(name, asHeadraceError(error)),
  }
}

/** The one place for whoever has to know of reloads. */
function reloadWatch(lines: ProgramLines, notify: Notify, file: string): ReloadWatch {
  return {
    began: notify.reloading,
    done(changes, durationMs) {
      lines.reloaded(changes, durationMs)
      notify.ready()
    },
    failed(problems, durationMs) {
      const texts = problems.map((one) => problemLine(one, file))
      lines.notReloaded(texts, durationMs)
      notify.ready()
    },
    admin: (address) => lines.admin(address),
  }
}
