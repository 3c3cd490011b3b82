// All workers together, asked as if they were one edge. The primary keeps what is switched, and tells the workers.

import type { ErrorCode } from '../errors.ts'
import type { SpikeState } from '../gate/seats.ts'
import { spikeSeries } from '../observe/gate-series.ts'
import type { Labels } from '../observe/metrics.ts'
import { mergeSnapshots } from '../observe/metrics.ts'
import type { GateReport, Operations, ServiceRecord } from '../operations.ts'
import { knownService } from '../operations.ts'
import type { ServiceOptions } from '../service/service.ts'
import type { BackendStatus } from '../service/status.ts'
import type { Switches } from '../service/switch.ts'
import { mergePages } from '../tunnel/listing.ts'
import type { Wire } from './messages.ts'
import type { BeforeAnswers } from './protocol.ts'
import type { Totals } from './totals.ts'
import type { Worker } from './workers.ts'

export type Workers = readonly Pick<Worker, 'wire' | 'silence'>[]

/** What the primary keeps for all of them. */
export interface Kept {
  /** Those of the config, as it is now. */
  services(): readonly ServiceOptions[]
  readonly switches: Switches
  spikes(service: string): SpikeState | null
  readonly totals: Totals
  /** The release before, while it has tunnels; as one worker more. */
  before(): Wire<BeforeAnswers> | null
}

/**
 * A worker that dies while it is asked is left out: what it had is gone with it. So is a silent one, unless it is to do
 * something: what is known of the others is told at once.
 */
export function createFleet(
  workers: Workers,
  { services, switches, spikes, totals, before }: Kept,
): Omit<Operations, 'usage'> {
  const living = (some: Workers) => {
    const release = before()
    const lines: (Pick<Wire<BeforeAnswers>, 'ask'> | null)[] = some.map(({ wire }) => wire)
    return [...lines, release].flatMap((line) => (line === null ? [] : [line]))
  }
  const everybody = () => living(workers)
  /** If all are silent, that is what there is to tell. */
  const answering = () => {
    const able = living(workers.filter(({ silence }) => silence.ms === null))
    return able.length === 0 ? everybody() : able
  }

  /** Rejects with process-silent if one of `meant` does not answer, and is among them still. */
  async function askEach<Name extends Exclude<keyof Operations, 'usage'>>(
    meant: typeof everybody,
    name: Name,
    given: Parameters<Operations[Name]>,
  ): Promise<Awaited<ReturnType<Operations[Name]>>[]> {
    const asked = meant()
    const answers = await Promise.allSettled(asked.map((wire) => wire.ask(name, given as never)))
    return answers.flatMap((answer, at) => {
      if (answer.status === 'fulfilled') return [answer.value as Awaited<ReturnType<Operations[Name]>>]
      if (meant().some((wire) => wire === asked[at])) throw answer.reason
      return []
    })
  }

  /** One change after the other, so that all workers see them in the same order. */
  let last: Promise<unknown> = Promise.resolve()
  const ids = () => services().map(({ id }) => id)
  totals.watch()

  return {
    websockets(id, value, options = {}) {
      const switching = last.then(async () => {
        knownService(ids(), id)
        const { websockets: before } = await switches.set(id, value)
        const answers = await askEach(everybody, 'websockets', [id, value, options])
        return { service: id, before, after: switches.state(id), ended: sum(answers, ({ ended }) => ended) }
      })
      last = switching.catch(() => {})
      return switching
    },
    async tunnels(query = {}) {
      return mergePages(await askEach(answering, 'tunnels', [query]), query)
    },
    async find(id) {
      const found = await askEach(answering, 'find', [id])
      return found.find((record) => record !== null) ?? null
    },
    async end(meant, how = 'fin') {
      // One that is asked for by its id was found before: not with a silent one.
      return sum(await askEach('id' in meant ? answering : everybody, 'end', [meant, how]), (count) => count)
    },
    async services() {
      const [first = [], ...more] = await askEach(answering, 'services', [])
      const merge = (record: ServiceRecord): ServiceRecord => ({
        ...record,
        tunnels: sum([first, ...more], (all) => all.find(({ id }) => id === record.id)?.tunnels ?? 0),
        ...switches.state(record.id),
      })
      return first.map(merge)
    },
    async backends() {
      const [first = [], ...more] = await askEach(answering, 'backends', [])
      // In the moment of a reload one worker may have what another has not.
      const isSame = (one: BackendStatus) => (other: BackendStatus) =>
        one.service === other.service && one.name === other.name
      return first.map((one) => more.map((records) => records.find(isSame(one))).reduce(mergeBackend, one))
    },
    async gates() {
      const [first = [], ...more] = await askEach(answering, 'gates', [])
      const merge = (one: GateReport): GateReport => {
        const all = [
          one,
          ...more.flatMap((reports) => reports.filter(({ service }) => service === one.service)),
        ]
        const counts = Object.keys(one.counts).map((name) => [
          name,
          sum(all, (each) => each.counts[name] ?? 0),
        ])
        return { ...one, counts: Object.fromEntries(counts), spike: spikes(one.service) }
      }
      return first.map(merge)
    },
    async metrics() {
      const states = ids().flatMap((id) => spikes(id) ?? [])
      return mergeSnapshots([await totals.gather(), spikeSeries(states)])
    },
    activity: async () => (await askEach(answering, 'activity', [])).flat(),
  }
}

/** What one worker finds unhealthy is worth a look, whatever the others say. */
function mergeBackend(one: BackendStatus, other: BackendStatus | undefined): BackendStatus {
  if (other === undefined) return one
  const { health, reason } = one.health === 'healthy' ? other : one
  const codes = Object.keys({ ...one.failures, ...other.failures }) as ErrorCode[]
  const failures = codes.map((code) => [code, (one.failures[code] ?? 0) + (other.failures[code] ?? 0)])
  return {
    ...one,
    health,
    reason: reason || one.reason,
    ejectedUntil: latest(one.ejectedUntil, other.ejectedUntil),
    connections: one.connections + other.connections,
    failures: Object.fromEntries(failures),
    checks: {
      passed: one.checks.passed + other.checks.passed,
      failed: one.checks.failed + other.checks.failed,
    },
  }
}

function latest(one: number | null, other: number | null): number | null {
  return one === null || other === null ? (one ?? other) : Math.max(one, other)
}

function sum<Item>(items: readonly Item[], of: (item: Item) => number): number {
  return items.reduce((total, item) => total + of(item), 0)
}

/** Whether the config has what the labels of a metric name. */
export function isIn(services: readonly ServiceOptions[], { service = '', backend = '' }: Labels): boolean {
  if (service === '') return true
  const found = services.find(({ id }) => id === service)
  return found !== undefined && (backend === '' || found.backends.some(({ name }) => name === backend))
}
