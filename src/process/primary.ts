// The primary: it opens the listening sockets, starts workers and the control process, and keeps what all of them share.
// It holds no tunnel and parses nothing that comes from the network.
//
//                     ┌── worker-0 ── edge ── its listening sockets
//   primary ── IPC ───┼── worker-1 ── edge ── its listening sockets
//   switch, ledgers   └── control  ── admin API: control.sock, admin.address

import type { Given } from '../accept/given.ts'
import { givenSockets } from '../accept/given.ts'
import type { Inherited } from '../accept/inherited.ts'
import { openInherited } from '../accept/inherited.ts'
import type { LoadedConfig } from '../config/load.ts'
import { asHeadraceError } from '../errors.ts'
import type { Crossing } from '../gate/seats.ts'
import type { ProgramLines } from '../observe/program-lines.ts'
import { createProgramLines } from '../observe/program-lines.ts'
import { createSwitches, switchFileIn } from '../service/switch.ts'
import type { DrainCounts } from '../tunnel/drain.ts'
import { monthOf } from '../usage/minutes.ts'
import { readUsage } from '../usage/usage.ts'
import { activatedSockets } from './activation.ts'
import type { ChildWatch } from './child.ts'
import { startChild } from './child.ts'
import { createDrains, EXIT_TIMEOUT_MS } from './drains.ts'
import { createFleet } from './fleet.ts'
import { createHosts } from './hosts.ts'
import type { Identity } from './identity.ts'
import { createIdentity } from './identity.ts'
import { createNotify } from './notify.ts'
import { reapOrphans } from './orphans.ts'
import type { ConfigText, ControlAnswers, ControlStarted, PrimaryAnswers } from './protocol.ts'
import { hostLedger, LEDGER } from './shared-ledger.ts'
import { exitOnSignals } from './signals.ts'
import type { Watchdog } from './watchdog.ts'
import { startWatchdog } from './watchdog.ts'
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
export async function startPrimary(config: LoadedConfig): Promise<Started> {
  const begun = exitOnSignals()
  const lines = createProgramLines(config.edge.log.level)
  const notify = createNotify(process.env, process.pid, lines.trouble)
  const given = givenSockets(activatedSockets(process.env, process.pid))
  const { stateDirectory, services } = config.edge
  const file = stateDirectory === undefined ? null : switchFileIn(stateDirectory)
  const switches = createSwitches({ services, file })
  const ledger = hostLedger(spike, lines.trouble)
  const watch = watchOf(lines)
  const text = { file: config.file, text: config.text }

  const identity = createIdentity(config.runAs)
  const sockets = await openAll(config, given, identity)
  const parts = {
    config: text,
    sockets,
    identity,
    switches,
    hosts: createHosts({ [LEDGER]: ledger }),
    watch,
    lines,
  }
  const workers = startWorkers(config.workers, parts)
  const { drainTimeoutMs: drainMs, drainSpreadMs: spreadMs } = config.edge
  const times = { drainMs, spreadMs }
  const drains = createDrains({
    workers,
    sockets,
    delayMs: config.drainDelayMs,
    times,
    lines,
    stopping: (withinMs) => notify.stopping(withinMs),
  })
  const status = async () => ({ isDraining: drains.isDraining, workers: await drains.workers() })
  const answers: PrimaryAnswers = {
    ...createFleet(workers, { services: services.map(({ id }) => id), switches, spikes: ledger.spikes }),
    // Every worker writes there, four times a second. The config of a file always has one.
    usage: (month = monthOf(Date.now()), service) => readUsage(stateDirectory ?? 'state', month, service),
    status,
    async drain(wanted) {
      await drains.begin(wanted)
      return await status()
    },
  }
  const control = startControl(text, identity, answers, watch)
  reapOrphans((pid) => [...workers, control].some((child) => child.pid === pid))
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

function startControl(text: ConfigText, identity: Identity, answers: PrimaryAnswers, watch: ChildWatch) {
  return startChild<PrimaryAnswers, ControlAnswers, ControlStarted>({
    name: 'control',
    module: new URL('./control.js', import.meta.url),
    descriptors: [],
    identity,
    answers: () => answers,
    over: () => {},
    start: (wire) => wire.ask('start', [text], START_TIMEOUT_MS),
    watch,
  })
}

/**
 * All or none; then the program is who the config says. Those that the service manager has opened come first: of one that is
 * not wanted it says so, not that it is taken.
 */
async function openAll(
  { listeners, workers, edge }: LoadedConfig,
  given: Given,
  identity: Identity,
): Promise<Inherited[]> {
  const taken = await Promise.all(listeners.map(({ address }) => given.take(address, workers)))
  given.allTaken()
  const opening = listeners.map(({ address }, at) => taken[at] ?? openInherited(address, workers))
  const results = await Promise.allSettled(opening)
  const opened = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
  // What the state folder gets is its user's alone; a socket is for whom the umask of whoever started us lets in.
  process.umask(0o077)
  const own = opened.filter((one) => !taken.includes(one))
  const paths = own.flatMap(({ address }) => (address.startsWith('unix:') ? [address.slice(5)] : []))
  const failed =
    results.find((result) => result.status === 'rejected')?.reason ??
    (await identity.settle(edge.stateDirectory, paths).catch((error: unknown) => error))
  if (failed === undefined) {
    // The folder of a Unix socket may be root's.
    return opened.map((one) => ({ ...one, close: () => identity.raised(one.close) }))
  }
  for (const { close } of opened) close()
  throw failed
}

function watchOf(lines: ProgramLines): ChildWatch {
  return {
    died: (name, { pid, why, inARow, againInMs }) => lines.died(name, pid, why, inARow, againInMs),
    replaced: (name, pid) => lines.replaced(name, pid),
    failed: (name, error) => lines.failed(name, asHeadraceError(error)),
  }
}
