// What an edge counts while it works: plain numbers, found by objects and words that exist anyway. A snapshot is made of
// them when somebody asks.

import type { Backend } from '../dial/backend.ts'
import type { End } from '../end.ts'
import type { ErrorCode } from '../errors.ts'
import type { Phases } from '../tunnel/tunnel.ts'
import { BUCKETS_SECONDS } from './metrics.ts'

/** By service ('' if none was found) and a word of a closed list. */
export type ByService<Word extends string> = Map<string, Map<Word, number>>

export interface Counts {
  /** By the address of the listener. */
  readonly accepted: Map<string, number>
  /** By service. */
  readonly upgrades: Map<string, number>
  readonly answered: ByService<string>
  readonly refusals: ByService<ErrorCode>
  readonly ends: ByService<End>
  /** By the names of service and backend: what comes and goes under one name, by a reload for example, is counted together. */
  readonly traffic: Map<string, Traffic>
  /** How often a backend, by its name, became unhealthy. */
  readonly unhealthy: ByService<string>
  /** By service. */
  readonly handshakes: Map<string, Distribution>
  readonly phases: Readonly<Record<keyof Phases, Distribution>>
}

export interface ServedBackend {
  readonly service: string
  readonly backend: Backend
}

/** Of one backend. */
export interface Traffic {
  readonly service: string
  readonly backend: string
  opened: number
  readonly dials: Distribution
  /** Of the tunnels that are over. */
  readonly bytes: Bytes
  /** The most that was shown, those of open tunnels included. */
  readonly shown: Bytes
}

export interface Bytes {
  clientToOrigin: number
  originToClient: number
}

/** A histogram. */
export interface Distribution {
  readonly buckets: number[]
  /** In whole microseconds, which add up without a rest. */
  sum: number
}

/** What is configured is there from the start, so that nobody's first one is missed. */
export function createCounts(backends: readonly ServedBackend[]): Counts {
  const counts: Counts = {
    accepted: new Map(),
    upgrades: new Map(),
    answered: new Map(),
    refusals: new Map(),
    ends: new Map(),
    traffic: new Map(),
    unhealthy: new Map(),
    handshakes: new Map(),
    phases: {
      accept: distribution(),
      tls: distribution(),
      head: distribution(),
      gate: distribution(),
      decide: distribution(),
      dial: distribution(),
      answer: distribution(),
    },
  }
  expectBackends(counts, backends)
  return counts
}

export function expectBackends(counts: Counts, backends: readonly ServedBackend[]): void {
  for (const { service, backend } of backends) {
    known(counts.upgrades, service, () => 0)
    trafficOf(counts, service, backend)
  }
}

/** Forgets what is not configured any more and has no tunnel. `kept`: that of what is configured, or has one. */
export function forgetBackends(
  counts: Counts,
  served: readonly ServedBackend[],
  kept: Pick<ReadonlySet<Traffic>, 'has'>,
): void {
  for (const [key, traffic] of counts.traffic) if (!kept.has(traffic)) counts.traffic.delete(key)
  const services = new Set(['', ...served.map(({ service }) => service)])
  for (const { service } of counts.traffic.values()) services.add(service)
  const { upgrades, answered, refusals, ends, unhealthy, handshakes } = counts
  for (const byService of [upgrades, answered, refusals, ends, unhealthy, handshakes]) {
    for (const service of byService.keys()) if (!services.has(service)) byService.delete(service)
  }
}

export function count<Key>(counts: Map<Key, number>, key: Key): void {
  counts.set(key, (counts.get(key) ?? 0) + 1)
}

export function countOf<Word extends string>(counts: ByService<Word>, service: string, word: Word): void {
  count(
    known(counts, service, () => new Map<Word, number>()),
    word,
  )
}

export function trafficOf({ traffic }: Counts, service: string, { options: { name } }: Backend): Traffic {
  // No id of a service has a line break in it.
  return known(traffic, `${service}\n${name}`, () => noTraffic(service, name))
}

function noTraffic(service: string, backend: string): Traffic {
  return {
    service,
    backend,
    opened: 0,
    dials: distribution(),
    bytes: { clientToOrigin: 0, originToClient: 0 },
    shown: { clientToOrigin: 0, originToClient: 0 },
  }
}

/** `phases`: those of a tunnel that has just been opened. */
export function countPhases(
  counts: Counts,
  service: string,
  backend: Backend,
  phases: Readonly<Phases>,
): void {
  let total = 0
  for (const name in counts.phases) {
    const phase = name as keyof Phases
    total += phases[phase]
    observe(counts.phases[phase], phases[phase])
  }
  observe(known(counts.handshakes, service, distribution), total)
  observe(trafficOf(counts, service, backend).dials, phases.dial)
}

function distribution(): Distribution {
  return { buckets: new Array<number>(BUCKETS_SECONDS.length + 1).fill(0), sum: 0 }
}

function observe(distribution: Distribution, micros: number): void {
  const seconds = micros / 1e6
  let at = 0
  while (at < BUCKETS_SECONDS.length && seconds > (BUCKETS_SECONDS[at] as number)) at += 1
  distribution.buckets[at] = (distribution.buckets[at] ?? 0) + 1
  distribution.sum += micros
}

function known<Key, Value>(map: Map<Key, Value>, key: Key, make: () => Value): Value {
  const found = map.get(key)
  if (found !== undefined) return found
  const made = make()
  map.set(key, made)
  return made
}
