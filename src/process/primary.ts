// The primary: it opens the listening sockets, starts workers and the control process, and keeps what all of them share.
// It holds no tunnel and parses nothing that comes from the network.
//
//                     ┌── worker-0 ── edge ── its listening sockets
//   primary ── IPC ───┼── worker-1 ── edge ── its listening sockets
//   switch, ledgers   └── control  ── admin API: control.sock, admin.address

import { givenSockets } from '../accept/given.ts'
import type { LoadedConfig } from '../config/load.ts'
import { upgradeNode } from '../config/load.ts'
import { problemLine } from '../config/problems.ts'
import { asHeadraceError, HeadraceError } from '../errors.ts'
import type { Crossing } from '../gate/seats.ts'
import type { Labels } from '../observe/metrics.ts'
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
import { createDrains } from './drains.ts'
import { createFleet, isIn } from './fleet.ts'
import { createHosts } from './hosts.ts'
import type { Identity } from './identity.ts'
import { createIdentity } from './identity.ts'
import { createLifetime } from './lifetime.ts'
import type { Notify } from './notify.ts'
import { createNotify } from './notify.ts'
import { reapOrphans } from './orphans.ts'
import type { Predecessor } from './predecessor.ts'
import type { ControlAnswers, ControlStarted, PrimaryAnswers } from './protocol.ts'
import type { ReloadWatch } from './reload.ts'
import { reload } from './reload.ts'
import { createRemnant } from './remnant.ts'
import { hostLedger, LEDGER } from './shared-ledger.ts'
import { exitOnSignals, onHangup, signalled } from './signals.ts'
import type { Sockets } from './sockets.ts'
import { legacyOf, openSockets } from './sockets.ts'
import type { Standing } from './standing.ts'
import { createTotals } from './totals.ts'
import { inTurns } from './turns.ts'
import { createUpgrades } from './upgrade.ts'
import { watchFiles } from './watch-files.ts'
import type { Setting } from './workers.ts'
import { START_TIMEOUT_MS, startWorkers } from './workers.ts'

export interface Started {
  readonly addresses: readonly string[]
  /** Resolves with what became of the tunnels. */
  readonly stopped: Promise<DrainCounts>
}

/**
 * Resolves once all workers accept, with the addresses, and with what resolves when everything has stopped after a signal, or
 * when a newer release has taken over. Rejects with listen-failed, activation-failed, user-unavailable, config-invalid,
 * engine-unavailable or state-failed. `before`: the release that this one takes over from.
 */
export async function startPrimary(first: LoadedConfig, before: Predecessor | null = null): Promise<Started> {
  const begun = exitOnSignals()
  /** A reload replaces it. */
  let config = first
  const lines = createProgramLines(config.edge.log.level)
  const notify = createNotify(process.env, process.pid, lines.trouble)
  const given = givenSockets(activatedSockets(process.env, process.pid))
  const { stateDirectory, services } = config.edge
  const file = stateDirectory === undefined ? null : switchFileIn(stateDirectory)
  const switches = createSwitches({ services, file })
  const ledger = hostLedger(spike, lines.trouble, () => standing.isInCharge)
  const watch = watchOf(lines)
  const identity = createIdentity(config.runAs)
  const isFirst = before === null
  const standing: Standing = { isAccepting: isFirst, isInCharge: isFirst, isSucceeded: false }
  const inheritance = await before?.inheritance()
  const isOurs = () => standing.isInCharge && !standing.isSucceeded
  const isStandby = () => !standing.isAccepting || standing.isSucceeded
  const isAnchored = process.pid === 1 || inheritance?.isAnchored === true
  const legacy = inheritance?.sockets ?? []
  let sockets = await openSockets(config, given, identity, { legacy, isOurs })
  const setting = (): Setting => ({ config, sockets })
  const reloads = inTurns(async () => {
    if (drains.isDraining) throw new HeadraceError('draining')
    if (upgrades.isRunning) throw new HeadraceError('upgrade-running')
    return await reload(reloadParts)
  })
  // A newer release has an eye on them itself.
  const files = watchFiles(() => standing.isSucceeded || reloadUnasked())
  const { settled } = reloads
  const hosts = createHosts({ [LEDGER]: ledger })
  const silentTimeoutMs = () => config.silentTimeoutMs
  const parts = { setting, settled, isStandby, identity, switches, hosts, watch, silentTimeoutMs, lines }
  const workers = startWorkers(config.workers, parts)
  const older = () => (standing.isInCharge ? (before?.wire ?? null) : null)
  const configured = () => config.edge.services
  const isConfigured = (labels: Labels) => isIn(configured(), labels)
  const totals = createTotals(workers, isConfigured, () => [older()].flatMap((line) => line ?? []))
  const spikes = ledger.spikes
  const fleet = createFleet(workers, { services: configured, switches, spikes, totals, before: older })
  const drains = createDrains({
    workers,
    before: older,
    decided: () => upgrades.decided,
    // Those that a newer release goes on with are not closed.
    sockets: () => (standing.isSucceeded ? [] : sockets),
    delayMs: () => config.drainDelayMs,
    times: () => ({ drainMs: config.edge.drainTimeoutMs, spreadMs: config.edge.drainSpreadMs }),
    lines,
    stopping: (withinMs) => standing.isSucceeded || notify.stopping(withinMs),
  })
  const upgrades = createUpgrades({
    workers,
    stateDirectory: stateDirectory ?? 'state',
    settled,
    standing,
    drains,
    inheritance: () => ({ sockets: legacyOf(config, sockets), isAnchored }),
    ledger,
    lines,
    startTimeoutMs: () => config.upgradeTimeoutMs,
    node: () => upgradeNode(config.file),
    environment: notify.environment,
    identity,
    operations: createRemnant(fleet, workers, older, () => upgrades.moved, drains.close),
    lastState: async () => ({ switched: switches.switched, counted: await totals.gather() }),
    leaveAdmin: async () => await control.wire?.ask('leave', []),
    // The next one listens again.
    regainAdmin: () => void (control.pid !== null && process.kill(control.pid, 'SIGKILL')),
  })
  const status = async () => ({
    isDraining: drains.isDraining,
    workers: await drains.workers(),
    before: older() === null || before === null ? null : { pid: before.pid },
  })
  const answers: PrimaryAnswers = {
    ...fleet,
    // Every worker writes there, four times a second. The config of a file always has one.
    usage: (month = monthOf(Date.now()), service) => readUsage(stateDirectory ?? 'state', month, service),
    status,
    async drain(wanted) {
      await drains.begin(wanted)
      return await status()
    },
    reload: reloads.ask,
    async upgrade() {
      if (drains.isDraining) throw new HeadraceError('draining')
      return await upgrades.run().finally(lookForSpikes)
    },
  }
  const control = startControl({ setting, settled, isStandby: () => !isOurs(), identity, answers, watch })
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
    lookForSpikes()
    lines.configure(next.edge.log.level)
    follow()
  }

  /** By what is expected now. While one release takes over from another, nobody tells of them. */
  function lookForSpikes(): void {
    ledger.expect(expectations(configured()))
  }

  function follow(): void {
    files.follow(config.watch ? filesOf(config) : [])
  }

  /** Of what becomes of it a line tells. */
  function reloadUnasked(): void {
    if (!drains.isDraining) reloads.ask().catch((error: unknown) => lines.trouble(asHeadraceError(error)))
  }
  reapOrphans(
    (pid) =>
      isChecker(pid) || pid === upgrades.pid || [...workers, control].some((child) => child.pid === pid),
  )

  /** The webhook is in the network, where the primary is not. */
  function spike(crossing: Crossing): void {
    lines.spike(crossing)
    control.wire?.ask('spike', [crossing]).catch((error: unknown) => lines.trouble(asHeadraceError(error)))
  }

  const lifetime = createLifetime({
    standing,
    before,
    workers,
    control,
    sockets: () => sockets,
    switches,
    ledger,
    fleet,
    totals,
    drains,
    upgrades,
    notify,
    lines,
    isAnchored,
  })

  try {
    await lifetime.begin()
  } catch (error) {
    await lifetime.endAll()
    throw error
  }
  follow()
  lookForSpikes()
  begun()
  signalled('SIGUSR2', () => {
    // What keeps it from being one is told already.
    answers.upgrade().catch(() => {})
  })
  return { addresses: sockets.map(({ address }) => address), stopped: lifetime.untilEnd() }
}

interface ControlParts {
  setting(): Setting
  isStandby(): boolean
  settled(): Promise<void>
  readonly identity: Identity
  readonly answers: PrimaryAnswers
  readonly watch: ChildWatch
}

function startControl({ setting, settled, isStandby, identity, answers, watch }: ControlParts) {
  return startChild<PrimaryAnswers, ControlAnswers, ControlStarted>({
    name: 'control',
    module: new URL('./control.js', import.meta.url),
    descriptors: () => [],
    settled,
    identity,
    answers: () => answers,
    over: () => {},
    start(wire) {
      const { edge, admin } = setting().config
      return wire.ask('start', [{ edge, admin, isStandby: isStandby() }], START_TIMEOUT_MS)
    },
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
