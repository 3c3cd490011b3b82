// The workers of a program: each with its own sockets and those of its neighbour, which it accepts from while that one is
// being replaced, or silent.

import type { Config } from '../config/parse.ts'
import { asHeadraceError, HeadraceError } from '../errors.ts'
import type { ProgramLines } from '../observe/program-lines.ts'
import type { Switches } from '../service/switch.ts'
import type { Child, ChildWatch } from './child.ts'
import { FIRST_INHERITED, startChild } from './child.ts'
import type { Hosts } from './hosts.ts'
import type { Identity } from './identity.ts'
import type { HostAnswers, InheritedSocket, WorkerAnswers, WorkerOrders, WorkerStarted } from './protocol.ts'
import type { Silence } from './silence.ts'
import { watchSilence } from './silence.ts'
import type { Sockets } from './sockets.ts'

export interface Worker extends Child<WorkerAnswers, WorkerStarted> {
  /** Its neighbour accepts for it as well, until it is replaced. Throws process-silent if there is nobody to do so. */
  covered(): Promise<void>
  readonly silence: Silence
}

/** What a process that starts now works by. */
export interface Setting {
  readonly config: Config
  readonly sockets: Sockets
}

export interface WorkerParts {
  setting(): Setting
  /** When `setting` is not about to change. */
  settled(): Promise<void>
  /** Whether a worker that starts now waits for `accept`. */
  isStandby(): boolean
  readonly identity: Identity
  readonly switches: Switches
  readonly hosts: Hosts
  readonly watch: ChildWatch
  /** After which a silent one is killed; null: never. */
  silentTimeoutMs(): number | null
  readonly lines: ProgramLines
}

/** From the start of a process until it accepts: it loads its modules and the handlers. */
export const START_TIMEOUT_MS = 60_000

export function startWorkers(count: number, parts: WorkerParts): readonly Worker[] {
  const { setting, settled, isStandby, identity, switches, hosts, watch, silentTimeoutMs, lines } = parts

  /** Those that have died or are to go. */
  const absent = new Set<number>()
  /** Those for whom the neighbour has been told to accept. */
  const covering = new Set<number>()

  /** If the neighbour is not there either, what comes waits in the backlog. */
  function cover(at: number): void {
    const isAway = absent.has(at) || workers[at]?.silence.ms != null
    // Its sockets may be another release's.
    const isNeeded = isAway && !isStandby()
    const neighbour = workers[before(at)]
    if (isNeeded === covering.has(at) || count === 1) return
    if (neighbour?.state !== 'running' || neighbour.wire === null) return
    if (isNeeded) covering.add(at)
    else covering.delete(at)
    neighbour.wire.ask('cover', [isNeeded]).catch((error: unknown) => lines.trouble(asHeadraceError(error)))
  }

  /** The one who accepts for a worker has it as its neighbour. */
  const before = (at: number) => (at + count - 1) % count
  const after = (at: number) => (at + 1) % count

  async function covered(at: number): Promise<void> {
    const neighbour = workers[before(at)]
    const isAble = neighbour?.state === 'running' && neighbour.silence.ms === null
    if (count === 1 || !isAble || neighbour.wire === null) {
      throw new HeadraceError('process-silent', `no other worker runs that could accept for worker-${at}`)
    }
    await neighbour.wire.ask('cover', [true])
    absent.add(at)
    covering.add(at)
  }

  function start(at: number): Worker {
    const inheritance = () => inheritanceOf(setting().sockets, at, after(at), count)
    const own: ChildWatch = {
      ...watch,
      died(name, death) {
        watch.died(name, death)
        absent.add(at)
        // What it was told has gone with it.
        covering.delete(after(at))
        cover(at)
      },
      replaced(name, pid) {
        watch.replaced(name, pid)
        absent.delete(at)
        covering.delete(after(at))
        cover(at)
        cover(after(at))
      },
    }
    const child = startChild<HostAnswers, WorkerAnswers, WorkerStarted>({
      name: nameOf(at),
      module: new URL('./worker.js', import.meta.url),
      descriptors: () => inheritance().descriptors,
      settled,
      identity,
      answers: (life) => ({ hosted: (name, request) => hosts.ask(life, name, request) }),
      over: hosts.release,
      start(wire) {
        const { edge, listeners } = setting().config
        const { orders } = inheritance()
        const own = {
          name: nameOf(at),
          switched: switches.switched,
          workers: names,
          isStandby: isStandby(),
        }
        const all = { edge, listeners, ...own, ...orders }
        return wire.ask('start', [all], START_TIMEOUT_MS)
      },
      watch: own,
    })
    const looked = () => cover(at)
    const silence = watchSilence(child, { timeoutMs: silentTimeoutMs, lines, looked })
    return Object.assign(child, { covered: () => covered(at), silence })
  }

  const names = Array.from({ length: count }, (_, at) => nameOf(at))
  const workers = names.map((_, at) => start(at))
  return workers
}

function nameOf(at: number): string {
  return `worker-${at}`
}

interface Inheritance {
  readonly descriptors: readonly number[]
  readonly orders: Pick<WorkerOrders, 'sockets' | 'extra' | 'neighbour'>
}

/** Which descriptors a worker gets, and as which number it finds them. */
function inheritanceOf(sockets: Sockets, own: number, other: number, workers: number): Inheritance {
  const given: number[] = []
  const give = (address: string, descriptor: number | undefined): InheritedSocket => {
    if (descriptor === undefined) throw new Error(`no socket of ${address} for worker-${own}`)
    given.push(descriptor)
    return { address, descriptor: FIRST_INHERITED + given.length - 1 }
  }
  const mine = sockets.map(({ address, descriptors }) => give(address, descriptors[own]))
  const neighbour = sockets.map(({ address, descriptors }) =>
    descriptors[own] === descriptors[other] ? null : give(address, descriptors[other]),
  )
  const extra = sockets.flatMap(({ address, descriptors }, listener) =>
    descriptors
      .filter((_, at) => at >= workers && at % workers === own)
      .map((descriptor) => ({ listener, ...give(address, descriptor) })),
  )
  return { descriptors: given, orders: { sockets: mine, neighbour, extra } }
}
