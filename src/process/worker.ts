// A worker: one edge in a process of its own. It does what the primary asks, and drains by itself if the primary is gone.

import { readConfig } from '../config/load.ts'
import type { Edge } from '../edge.ts'
import { createEdge } from '../edge.ts'
import { grown } from '../observe/metrics.ts'
import { createProgramLines } from '../observe/program-lines.ts'
import { NOW } from '../tunnel/drain.ts'
import type { Cover } from './cover.ts'
import { createCover } from './cover.ts'
import { wire } from './messages.ts'
import type { HostAnswers, WorkerAnswers, WorkerOrders } from './protocol.ts'
import type { Renewal } from './renewal.ts'
import { createRenewal } from './renewal.ts'
import { askLedger } from './shared-ledger.ts'
import { ignoreSignals, signal } from './signals.ts'

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
let cover: Cover | null = null

const answers: WorkerAnswers = {
  async start({ file, text, name, switched, sockets, neighbour }: WorkerOrders) {
    const { edge: options, listeners } = readConfig(text, file, process.env)
    const lines = createProgramLines(options.log.level)
    const ledger = askLedger(primary, options.redis, lines.trouble)
    const own = { writer: writerOf(name), worker: { name, switched }, webhook: undefined }
    const created = createEdge({ ...options, ...own }, ledger)
    isStarted = true
    cover = createCover(created, { listeners, sockets: neighbour })
    begun(created)
    const opened = await created.listen(
      listeners.map((one, at) => {
        const { address = one.address, descriptor } = sockets[at] ?? {}
        return { ...one, address, ...(descriptor === undefined ? {} : { socket: descriptor }) }
      }),
    )
    accepts(createRenewal({ edge: created, opened, cover, lines }))
    return { engine: created.engine }
  },
  async cover(isNeeded) {
    await edge
    await cover?.set(isNeeded)
  },
  async close(times) {
    const running = await edge
    cover?.end()
    return await running.close(times)
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

/** The channel ends when the work is done, or when the primary was killed: then the tunnels have their time to end. */
process.on('disconnect', async () => {
  if (isStarted) await drain(await edge)
  process.exit()
})

async function drain(running: Edge): Promise<void> {
  heed()
  cover?.end()
  const closing = running.close()
  await Promise.race([closing, signal()])
  await running.close(NOW)
}
