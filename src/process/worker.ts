// A worker: one edge in a process of its own. It does what the primary asks, and drains by itself if the primary is gone.

import type { ListenerOptions } from '../accept/listener.ts'
import type { Edge } from '../edge.ts'
import { createEdge } from '../edge.ts'
import { HeadraceError } from '../errors.ts'
import { loop } from '../linux/loop.ts'
import { grown } from '../observe/metrics.ts'
import { createProgramLines } from '../observe/program-lines.ts'
import { NOW } from '../tunnel/drain.ts'
import type { Cover } from './cover.ts'
import { createCover } from './cover.ts'
import type { Giver } from './handover-giver.ts'
import { createGiver } from './handover-giver.ts'
import { wire } from './messages.ts'
import { peersOf } from './peers.ts'
import type { HostAnswers, WorkerAnswers, WorkerOrders } from './protocol.ts'
import type { Renewal } from './renewal.ts'
import { createRenewal } from './renewal.ts'
import type { Return } from './return.ts'
import { openReturn } from './return.ts'
import { askLedger, keepSeats } from './shared-ledger.ts'
import { ignoreSignals, signal } from './signals.ts'
import type { Standby } from './standby.ts'
import { stand } from './standby.ts'

/** Signals are for the primary, also those that a terminal or a service manager sends to all processes. */
const heed = ignoreSignals()
// Whatever is made here is this user's alone.
process.umask(0o077)

/** The workers of a killed primary may still drain, and write, when the next one has started: it has other names. */
const writerOf = (name: string) => `${name}-${process.ppid}`

let begun: (edge: Edge) => void = () => {}
/** Whatever is asked before it has started waits for it. */
const edge = new Promise<Edge>((resolve) => {
  begun = resolve
})
let accepts: (renewal: Renewal) => void = () => {}
/** A reload waits until it accepts. */
const renewal = new Promise<Renewal>((resolve) => {
  accepts = resolve
})
let isStarted = false
let lines = createProgramLines('error')
let cover: Cover | null = null
let standing: Promise<Standby> | null = null
/** The same, also when it accepts. */
let stood: Promise<Standby> | null = null
let giver: Giver | null = null
let wayBack: Return | null = null

const answers: WorkerAnswers = {
  async start(orders: WorkerOrders) {
    const { edge: options, listeners, name, switched, workers, neighbour, isStandby } = orders
    lines = createProgramLines(options.log.level)
    const ledger = askLedger(primary, options.redis, lines.trouble)
    const hasCode = options.services.some(
      ({ handler, program }) => handler !== undefined || program !== undefined,
    )
    const peers = hasCode ? peersOf(workers, options.stateDirectory, writerOf) : []
    const own = { writer: writerOf(name), worker: { name, switched, peers }, webhook: undefined }
    const created = createEdge({ ...options, ...own }, ledger)
    isStarted = true
    const covering = createCover(created, { listeners, sockets: neighbour })
    cover = covering
    begun(created)
    const accept = async () => {
      const opened = await created.listen(wantedOf(orders, listeners))
      const extra = extraOf(orders, listeners)
      if (extra.length > 0) await created.listen(extra)
      accepts(createRenewal({ edge: created, opened, cover: covering, lines }))
    }
    if (!isStandby) await accept()
    else standing = stand(created, { listeners, accept, folder: options.stateDirectory ?? '.', primary })
    stood = standing
    return { engine: created.engine, door: (await standing)?.door ?? null }
  },
  async accept() {
    // One that takes the place of another may still be starting.
    await (await standing)?.end()
    standing = null
  },
  async give({ folder, name }) {
    const { handover } = await edge
    const [hanging] = wayBack?.silent ?? []
    if (hanging !== undefined) throw new HeadraceError('process-silent', hangs(hanging))
    // What another one got before is not listed here any more.
    giver?.settle()
    giver = createGiver(loop(), handover, folder, name)
    const late = (tunnels: number) => lines.upgrading('regained', { tunnels })
    wayBack ??= openReturn(loop(), handover, folder, keepSeats(primary), late)
    wayBack.follow(giver)
  },
  // One that has taken the place of another during an upgrade knows nobody to tell: what it has stays.
  offer: async () => (await giver?.offer()) ?? 0,
  giveAway: async () => await known(giver).giveAway(),
  giveUp: async (mayEnd) => giver?.giveUp(mayEnd),
  async regain(ms) {
    const returned = await wayBack?.settled(ms)
    // Whoever is silent may still give back what it has.
    if (returned === undefined || returned.silent.length === 0) endReturn()
    return returned ?? { tunnels: 0, counted: [], silent: [] }
  },
  settle: async () => giver?.settle(),
  async settleArrivals(ms) {
    endReturn()
    const running = await edge
    // One that was about to accept does: what it opened later nobody would close.
    if (standing === null) await renewal
    await running.settleArrivals(ms)
  },
  async cover(isNeeded) {
    await edge
    await cover?.set(isNeeded)
  },
  async close(times) {
    const running = await edge
    giver?.halt()
    cover?.end()
    const counts = await running.close(times)
    wayBack?.endSilent()
    return counts
  },
  async draining() {
    const { draining, size } = await edge
    return draining ?? { open: size, ended: 0, closed: 0, cut: 0, leftMs: 0 }
  },
  receive: async (...given) => (await renewal).receive(...given),
  prepare: async (...given) => await (await renewal).prepare(...given),
  commit: async () => await (await renewal).commit(),
  drop: async () => await (await renewal).drop(),
  websockets: async (...given) => await (await edge).websockets(...given),
  tunnels: async (...given) => await (await edge).tunnels(...given),
  find: async (...given) => await (await edge).find(...given),
  end: async (...given) => await (await edge).end(...given),
  services: async () => await (await edge).services(),
  backends: async () => (await edge).backends(),
  gates: async () => (await edge).gates(),
  usage: async (...given) => await (await edge).usage(...given),
  metrics: async () => await (await edge).metrics(),
  counters: async () => grown(await (await edge).metrics()),
  activity: async () => await (await edge).activity(),
}

const primary = wire<WorkerAnswers, HostAnswers>('the primary', process, answers)

function wantedOf({ sockets }: WorkerOrders, listeners: readonly ListenerOptions[]): ListenerOptions[] {
  return listeners.map((one, at) => {
    const { address = one.address, descriptor } = sockets[at] ?? {}
    return { ...one, address, ...(descriptor === undefined ? {} : { socket: descriptor }) }
  })
}

function extraOf({ extra }: WorkerOrders, listeners: readonly ListenerOptions[]): ListenerOptions[] {
  return extra.flatMap(({ listener, address, descriptor }) => {
    const options = listeners[listener]
    return options === undefined ? [] : [{ ...options, address, socket: descriptor }]
  })
}

function endReturn(): void {
  wayBack?.close()
  wayBack = null
}

function hangs(pid: number): string {
  const ways = `let it go on (kill -CONT ${pid}), or end it with them (kill -KILL ${pid})`
  return `process ${pid} of the release that was given up hangs, and has tunnels: ${ways}`
}

function known(one: Giver | null): Giver {
  if (one === null) throw new HeadraceError('internal', 'nobody was given to')
  return one
}

/** Code of users that leaves a rejected promise alone harms nobody but itself: node would end the process. */
process.on('unhandledRejection', (reason) => lines.unhandled(reason))

/**
 * The channel ends when the work is done, or when the primary was killed: then the tunnels go back to the release before, if it is
 * there still, or have their time to end.
 */
process.on('disconnect', async () => {
  if (isStarted) {
    const running = await edge
    // One that could not stand by has got nothing.
    await stood?.then((one) => one.giveBack()).catch(() => {})
    await drain(running)
  }
  process.exit()
})

async function drain(running: Edge): Promise<void> {
  heed()
  cover?.end()
  const closing = running.close()
  await Promise.race([closing, signal()])
  await running.close(NOW)
}
