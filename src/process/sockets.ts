// The listening sockets of a program: opened by the primary, used by its workers. A listener that stays over a reload keeps
// them; new ones are sent to the workers that run.

import { closeSync } from 'node:fs'
import { isDeepStrictEqual } from 'node:util'
import type { Given } from '../accept/given.ts'
import type { Inherited } from '../accept/inherited.ts'
import { inherit, openInherited } from '../accept/inherited.ts'
import type { LoadedConfig } from '../config/load.ts'
import type { Problem } from '../config/problems.ts'
import { configError, problem } from '../config/problems.ts'
import { asHeadraceError, HeadraceError } from '../errors.ts'
import type { Changed } from '../operations.ts'
import type { Identity } from './identity.ts'
import type { Wire } from './messages.ts'
import type { LegacySocket, WorkerAnswers } from './protocol.ts'

/** In the order of the config's listeners. */
export type Sockets = readonly Inherited[]

/** What the release before has opened. */
export interface Inheriting {
  readonly legacy: readonly LegacySocket[]
  /** Whether the names of Unix sockets are this program's to remove. */
  isOurs(): boolean
}

/**
 * All or none; then the program is who the config says. Those that the service manager has opened come first: of one that is
 * not wanted it says so, not that it is taken.
 * Throws listen-failed, activation-failed or config-invalid.
 */
export async function openSockets(
  { listeners, workers, edge }: LoadedConfig,
  given: Given,
  identity: Identity,
  { legacy, isOurs }: Inheriting,
): Promise<Sockets> {
  const left = [...legacy]
  const inherited = listeners.map(({ address }) => {
    const at = left.findIndex(({ configured }) => configured === address)
    const [known] = at === -1 ? [] : left.splice(at, 1)
    return known === undefined ? null : inherit(known, workers, isOurs)
  })
  for (const { descriptors } of left) for (const descriptor of descriptors) closeSync(descriptor)
  for (const { address } of left.filter(({ isGiven }) => isGiven)) {
    throw new HeadraceError('activation-failed', notTaken(address))
  }
  const taken = await Promise.all(
    listeners.map(async ({ address }, at) => inherited[at] ?? (await given.take(address, workers))),
  )
  given.allTaken()
  const opening = listeners.map(({ address }, at) => taken[at] ?? openInherited(address, workers))
  const results = await Promise.allSettled(opening)
  const opened = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
  const own = opened.filter((one) => !taken.includes(one))
  const paths = own.flatMap(({ address }) => (address.startsWith('unix:') ? [address.slice(5)] : []))
  const failed =
    results.find((result) => result.status === 'rejected')?.reason ??
    (await identity.settle(edge.stateDirectory, paths).catch((error: unknown) => error))
  // The folder of a Unix socket may be root's.
  if (failed === undefined) return opened.map((one) => ownOf(one, identity))
  for (const { close } of opened) close()
  throw failed
}

/** For the release that comes after this one. */
export function legacyOf({ listeners }: LoadedConfig, sockets: Sockets): LegacySocket[] {
  return sockets.map(({ address, descriptors, isSpread, isGiven }, at) => {
    return { configured: listeners[at]?.address ?? address, address, descriptors, isSpread, isGiven }
  })
}

function ownOf(socket: Inherited, { raised }: Identity): Inherited {
  return { ...socket, close: () => raised(socket.close) }
}

export interface Relistening {
  readonly sockets: Sockets
  /** By their actual addresses. */
  readonly changed: Changed
  /** Gives the worker its sockets of what is new, and those of its neighbour. */
  send(line: Wire<WorkerAnswers>, worker: number): Promise<void>
  /** What is not listened on any more is closed here; the workers take what waits there. */
  commit(): void
  /** What was opened is closed, unless it is in use. */
  drop(): void
}

/** Opens what `next` has and `before` has not, all or none. Throws config-invalid with each that can't be opened. */
export async function relisten(
  before: { readonly config: LoadedConfig; readonly sockets: Sockets },
  next: LoadedConfig,
  given: Given,
  identity: Identity,
): Promise<Relistening> {
  const { workers } = next
  const left = before.config.listeners.map((options, at) => ({ options, socket: before.sockets[at] }))
  const added: Inherited[] = []
  const changed: string[] = []
  const problems: Problem[] = []
  const opening = next.listeners.map(async (options, at) => {
    const index = left.findIndex((one) => one.options.address === options.address)
    const [kept] = index === -1 ? [] : left.splice(index, 1)
    if (kept?.socket !== undefined) {
      if (!isDeepStrictEqual(kept.options, options)) changed.push(kept.socket.address)
      return kept.socket
    }
    try {
      const passed = await given.take(options.address, workers)
      const opened =
        passed ?? ownOf(await openInherited(options.address, workers, undefined, identity), identity)
      added.push(opened)
      return opened
    } catch (error) {
      const { detail, remedy } = asHeadraceError(error)
      problems.push(problem(['listeners', at, 'address'], detail, remedy, next.locate))
      return null
    }
  })
  const sockets = (await Promise.all(opening)).flatMap((socket) => socket ?? [])
  const removed = left.flatMap(({ socket }) => socket ?? [])
  for (const { address } of removed.filter(({ isGiven }) => isGiven)) {
    // As at the start: nobody would accept what connects there.
    problems.push(
      problem(
        ['listeners'],
        notTaken(address),
        'leave it, or take it out of the socket unit and restart',
        next.locate,
      ),
    )
  }
  const drop = () => {
    for (const { close } of added.splice(0)) close()
  }
  if (problems.length > 0) {
    drop()
    throw configError(problems, next.file)
  }
  const opened = [...added]
  return {
    sockets,
    changed: { added: opened.map(addressOf), removed: removed.map(addressOf), changed },
    async send(line, worker) {
      const neighbour = (worker + 1) % workers
      for (const one of opened) {
        await sendOne(line, one, worker, true)
        const isShared = one.descriptors[worker] === one.descriptors[neighbour]
        if (!isShared) await sendOne(line, one, neighbour, false)
      }
    },
    commit() {
      added.length = 0
      for (const { close } of removed) close()
    },
    drop,
  }
}

function notTaken(address: string): string {
  return `no listener takes ${address}, which the service manager has opened`
}

function addressOf({ address }: Inherited): string {
  return address
}

async function sendOne(
  line: Wire<WorkerAnswers>,
  socket: Inherited,
  of: number,
  isOwn: boolean,
): Promise<void> {
  const { handle, done } = socket.lend(of)
  try {
    await line.ask('receive', [socket.address, isOwn], undefined, handle)
  } finally {
    done()
  }
}
