// Tunnels that another process carries on: what is taken along of each, and what becomes of it here. Only the kernel engines
// have such tunnels; all others stay where they are.
//
//   open ── freeze ──▶ frozen ── thaw ──▶ open            usage, too, is counted by one of two processes at any time
//                         └───── leave ──▶ gone ── forget ──▶ not listed here
//                         └───── adopt ──▶ open there

import type { Backend } from './dial/backend.ts'
import { countConnection, elderOf, formerBackend } from './dial/backend.ts'
import type { SpliceEnd, Splicing } from './engine/engine.ts'
import type { Kernel } from './engine/linux/kernel.ts'
import { kernel } from './engine/linux/kernel.ts'
import type { Carried } from './engine/linux/splicing.ts'
import { KernelSplicing } from './engine/linux/splicing.ts'
import { monotonicMs } from './linux/monotonic.ts'
import type { Observer } from './observe/observer.ts'
import type { Counter } from './service/permits.ts'
import { permitsFor } from './service/permits.ts'
import type { Service } from './service/service.ts'
import type { Registry } from './tunnel/registry.ts'
import type { TunnelFacts } from './tunnel/tunnel.ts'
import { Tunnel } from './tunnel/tunnel.ts'
import type { Usage } from './usage/usage.ts'

/** Who a tunnel is: JSON. */
export interface Identity {
  readonly facts: TunnelFacts
  /** Its name. */
  readonly backend: string
}

/** What has become of it: JSON, but for the bytes. */
export interface Progress {
  /** See engine/linux/bits.ts. */
  readonly past: number
  readonly clientToOrigin: number
  readonly originToClient: number
  /** See engine/linux/redirect.ts. */
  readonly clientAhead: number | null
  readonly originAhead: number | null
  /** When the last minute that was counted is over, see linux/monotonic.ts. */
  readonly minuteEndsAt: number
  /** Of its backend, if that may not have any number of connections. */
  readonly permit: string | null
}

export interface FrozenTunnel {
  readonly tunnel: Tunnel
  readonly carried: Carried
  readonly progress: Progress
}

/** From another process; the descriptors are the caller's until `adopt` is called. */
export interface Arriving {
  readonly identity: Identity
  readonly progress: Progress
  readonly client: number
  readonly origin: number
  readonly toClient: Uint8Array<ArrayBuffer> | null
  readonly toOrigin: Uint8Array<ArrayBuffer> | null
}

export interface Handover {
  /** Those that a kernel engine moves; which of them can be frozen shows when it is tried. */
  movable(): Tunnel[]
  /** Its descriptors anew, client and origin, which are the caller's; null if it is over, or there are no more. */
  duplicate(tunnel: Tunnel): readonly [number, number] | null
  /** How many more there is room for. */
  room(): number
  /** While it is said, another process may have duplicates of their descriptors. */
  share(isShared: boolean): void
  /** How many can't be moved. */
  immovable(): number
  freeze(tunnels: readonly Tunnel[]): Promise<Freezing>
  thaw(frozen: readonly FrozenTunnel[]): void
  /** Another process has them. They stay listed; what an operator orders, also since they are frozen, goes `onward`. */
  leave(frozen: readonly FrozenTunnel[], onward: Onward): void
  /** What has left is not listed here any more. */
  forget(left: readonly FrozenTunnel[]): void
  /** Resolves when the relay has all of them, with the time of that. */
  adopt(arriving: readonly Arriving[]): Promise<number>
  /** An operator's order that has followed a tunnel. */
  end(id: string, how: 'fin' | 'reset'): void
}

export type Onward = (tunnel: Tunnel, how: 'fin' | 'reset') => void

export interface Freezing {
  /** When the first of them stopped, see linux/monotonic.ts. */
  readonly at: number
  /** Those that could be. */
  readonly frozen: readonly FrozenTunnel[]
  /** Those that were too many for one time, and go on. */
  readonly later: readonly Tunnel[]
}

/** Whose seats in the ledger a tunnel has. */
export function seatsOf({ facts }: Pick<Identity, 'facts'>, { permit }: Progress): string[] {
  return [...(facts.isCounted ? [facts.id] : []), ...(permit === null ? [] : [permit])]
}

export interface HandoverParts {
  readonly tunnels: Registry
  readonly usage: Pick<Usage, 'release' | 'adopt'>
  readonly observer: Pick<Observer, 'moved'>
  readonly counter: Counter
  services(): readonly Service[]
  settle(tunnel: Tunnel, end: SpliceEnd): void
}

export function createHandover(parts: HandoverParts): Handover {
  const { tunnels, usage, observer, counter, services, settle } = parts
  /** Backends that the config does not have any more. */
  const former = new Map<string, Backend>()
  /** Of backends whose cap has come or gone with the release. */
  const elders = new WeakMap<Backend, Backend>()

  function movable(): Tunnel[] {
    return [...tunnels.all()].filter(({ splicing }) => isCarried(splicing) && splicing.final === null)
  }

  function immovable(): number {
    return [...tunnels.all()].filter(({ splicing }) => !isCarried(splicing)).length
  }

  async function freeze(meant: readonly Tunnel[]): Promise<Freezing> {
    const bySplicing = new Map<KernelSplicing, Tunnel>()
    for (const tunnel of meant) if (isCarried(tunnel.splicing)) bySplicing.set(tunnel.splicing, tunnel)
    const { at, frozen, later } = await kernel().freeze([...bySplicing.keys()])
    const of = (splicing: KernelSplicing) => bySplicing.get(splicing) as Tunnel
    const now = monotonicMs()
    return {
      at,
      frozen: [...frozen].map(([splicing, carried]) => released(of(splicing), carried, now)),
      later: later.map(of),
    }
  }

  function released(tunnel: Tunnel, carried: Carried, now: number): FrozenTunnel {
    const { past, clientToOrigin, originToClient, clientAhead, originAhead } = carried
    const minuteEndsAt = now + usage.release(tunnel)
    // They are all alike.
    const permit = tunnel.backend.held.pop() ?? null
    const moved = { past, clientToOrigin, originToClient, clientAhead, originAhead }
    return { tunnel, carried, progress: { ...moved, minuteEndsAt, permit } }
  }

  function thaw(frozen: readonly FrozenTunnel[]): void {
    for (const { tunnel, carried, progress } of frozen) {
      usage.adopt(tunnel, progress.minuteEndsAt - monotonicMs(), progress)
      if (progress.permit !== null) tunnel.backend.held.push(progress.permit)
      kernel().thaw(tunnel.splicing as KernelSplicing, carried)
    }
  }

  function leave(frozen: readonly FrozenTunnel[], onward: Onward): void {
    for (const { tunnel, carried } of frozen) {
      kernel().leave(tunnel.splicing as KernelSplicing, carried, (how) => onward(tunnel, how))
    }
  }

  function forget(left: readonly FrozenTunnel[]): void {
    for (const { tunnel, progress } of left) {
      observer.moved(tunnel, 'out', progress)
      tunnels.remove(tunnel)
      countConnection(tunnel.backend, -1)
    }
  }

  async function adopt(arriving: readonly Arriving[]): Promise<number> {
    const relay = kernel()
    for (const one of arriving) adoptOne(relay, one)
    // When all of them are begun.
    const { at } = await relay.freeze([])
    return at
  }

  function adoptOne(
    relay: Kernel,
    { identity, progress, client, origin, toClient, toOrigin }: Arriving,
  ): void {
    const { facts } = identity
    const backend = booksOf(facts.service, identity.backend, progress.permit !== null)
    const tunnel = new Tunnel(facts, backend, settle)
    const { minuteEndsAt, permit, ...moved } = progress
    tunnel.splicing = relay.resume({ client, origin, toClient, toOrigin, ...moved }, tunnel)
    countConnection(backend, 1)
    if (permit !== null) backend.held.push(permit)
    tunnels.add(tunnel)
    // By now it may have moved more than it had when it came.
    usage.adopt(tunnel, minuteEndsAt - monotonicMs(), progress)
    observer.moved(tunnel, 'in', progress)
  }

  /** All connections of a backend have a permit, or none: whichever ends gives one back. */
  function booksOf(service: string, name: string, hasPermit: boolean): Backend {
    const backend = backendOf(service, name)
    if (hasPermit === (backend.permits !== null)) return backend
    const options = { ...backend.options, maxConnections: hasPermit ? Number.POSITIVE_INFINITY : undefined }
    const elder = elders.get(backend) ?? elderOf(backend, permitsFor(service, options, counter))
    elders.set(backend, elder)
    return elder
  }

  function backendOf(service: string, name: string): Backend {
    const known = services()
      .find(({ options }) => options.id === service)
      ?.backends.get(name)
    if (known !== undefined) return known
    const key = `${service}\n${name}`
    const backend = former.get(key) ?? formerBackend(name)
    former.set(key, backend)
    return backend
  }

  function duplicate({ splicing }: Tunnel): readonly [number, number] | null {
    return isCarried(splicing) ? kernel().duplicate(splicing) : null
  }

  return {
    movable,
    immovable,
    duplicate,
    room: () => kernel().room,
    share: (isShared) => kernel().share(isShared),
    freeze,
    thaw,
    leave,
    forget,
    adopt,
    end: (id, how) => tunnels.find(id)?.splicing?.stop(how),
  }
}

function isCarried(splicing: Splicing | null): splicing is KernelSplicing {
  return splicing instanceof KernelSplicing
}
