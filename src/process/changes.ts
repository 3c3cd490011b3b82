// What a reload has changed, for people: by name.

import { isDeepStrictEqual } from 'node:util'
import type { Config } from '../config/parse.ts'
import type { Changed, Changes } from '../operations.ts'

const SETTINGS: Readonly<Record<string, (config: Config) => unknown>> = {
  limits: ({ edge }) => edge.limits,
  log: ({ edge }) => edge.log,
  webhook: ({ edge }) => edge.webhook,
  silentTimeout: ({ silentTimeoutMs }) => silentTimeoutMs,
  drainTimeout: ({ edge }) => edge.drainTimeoutMs,
  drainSpread: ({ edge }) => edge.drainSpreadMs,
  drainDelay: ({ drainDelayMs }) => drainDelayMs,
  admin: ({ admin }) => admin,
  reload: ({ watch }) => watch,
}

export function changesOf(before: Config, after: Config, listeners: Changed): Changes {
  const settings = Object.entries(SETTINGS).filter(([, of]) => !isDeepStrictEqual(of(before), of(after)))
  return {
    services: servicesOf(before, after),
    listeners,
    settings: settings.map(([name]) => name),
  }
}

function servicesOf({ edge: before }: Config, { edge: after }: Config): Changed {
  const known = new Map(before.services.map((one) => [one.id, one]))
  const kept = after.services.filter(({ id }) => known.has(id))
  const ids = new Set(after.services.map(({ id }) => id))
  return {
    added: after.services.flatMap(({ id }) => (known.has(id) ? [] : [id])),
    removed: before.services.flatMap(({ id }) => (ids.has(id) ? [] : [id])),
    changed: kept.flatMap((one) => (isDeepStrictEqual(one, known.get(one.id)) ? [] : [one.id])),
  }
}
