// What the API's own routes take and answer, as it is documented and checked.

import { z } from 'zod'
import { LONGEST_PAGE, TUNNEL_ORDERS } from '../tunnel/listing.ts'

export const nothing = z.unknown().transform(() => undefined)
export const noQuery = z.strictObject({})

const whole = (most = Number.MAX_SAFE_INTEGER) =>
  z
    .string()
    .regex(/^[0-9]{1,15}$/, 'write a whole number')
    .transform(Number)
    .refine((value) => value <= most, `at most ${most}`)

const filter = {
  service: z.string().optional(),
  backend: z.string().optional(),
  client: z.string().optional().describe('An address, or a CIDR block'),
  minAgeMs: whole().optional(),
  minBytes: whole().optional().describe('Both directions together'),
}

export const tunnelQuery = z.strictObject({
  ...filter,
  order: z.enum(TUNNEL_ORDERS).optional().describe('Default oldest'),
  cursor: z.string().optional().describe('`next` of the page before'),
  limit: whole(LONGEST_PAGE)
    .refine((value) => value > 0, 'at least 1')
    .optional()
    .describe(`Default 100, at most ${LONGEST_PAGE}`),
})

const how = z.enum(['fin', 'reset']).optional().describe('In order, which is the default, or at once')
export const endQuery = z.strictObject({ how })
export const endAllQuery = z.strictObject({ ...filter, service: z.string(), how })

const switchValue = z.enum(['on', 'off'])
export const switchBody = z.strictObject({
  websockets: switchValue,
  closeTunnels: z.boolean().optional().describe('Off ends the open tunnels, too; default false'),
})

/** As a query, for the shapes that have no place for it in their body. */
export const closeQuery = z.strictObject({
  closeTunnels: z
    .enum(['true', 'false'])
    .optional()
    .transform((value) => value === 'true')
    .describe('End the open tunnels, too'),
})

const time = z.iso.datetime()
const count = z.int().nonnegative()

export const tunnelRecord = z.strictObject({
  id: z.string(),
  service: z.string(),
  backend: z.string(),
  engine: z.enum(['stream', 'epoll', 'sockmap']),
  listener: z.string(),
  client: z.string(),
  origin: z.string(),
  startedAt: time,
  durationMs: count,
  bytes: z.strictObject({ clientToOrigin: count, originToClient: count }),
})

export const tunnelPage = z.strictObject({
  tunnels: z.array(tunnelRecord),
  total: count.describe('All that the filter takes'),
  next: z.string().nullable().describe('The cursor of the next page; null on the last'),
})

export const ended = z.strictObject({ ended: count.describe('How many tunnels are being ended') })

const serviceRecord = z.strictObject({
  id: z.string(),
  domains: z.array(z.string()),
  backends: z.array(z.string()),
  tunnels: count.describe('How many are open'),
  websockets: switchValue,
  changedAt: time.nullable().describe('When it was switched; null: it is as the config has it'),
})

const backendRecord = z.strictObject({
  service: z.string(),
  name: z.string(),
  address: z.string(),
  directors: z.array(z.string()).describe('Those that have it'),
  health: z.enum(['healthy', 'unhealthy']).describe('Unhealthy if one worker finds it so'),
  reason: z.string(),
  ejectedUntil: z.number().nullable().describe('Epoch milliseconds; null: it is not ejected'),
  connections: count.describe('Dialled or being dialled, and not over yet'),
  failures: z.record(z.string(), count).describe('Dials and answers that failed, by code'),
  checks: z.strictObject({ passed: count, failed: count }),
})

/** As for durations in the config: what a timer of node can wait. */
const LONGEST_MS = 2_147_483_647

const drainProgress = z.strictObject({
  open: count.describe('Tunnels that are'),
  ended: count.describe('By themselves'),
  closed: count.describe('Because their time was over'),
  cut: count.describe('Before their time'),
  leftMs: count,
})

const workerRecord = z.strictObject({
  name: z.string(),
  pid: count.nullable(),
  state: z.enum(['starting', 'running', 'silent', 'waiting', 'stopped']),
  silentMs: count.nullable().describe('For how long it has not answered; null: it does'),
  restarts: count,
  drain: drainProgress.nullable().describe('How far its tunnels are; null: it does not drain'),
})

export const drainBody = z
  .strictObject({
    worker: z.string().optional().describe('Such as worker-1; default: all, and the program ends'),
    timeoutMs: z.int().nonnegative().max(LONGEST_MS).optional().describe('Instead of drainTimeout'),
  })
  .default({})

export const service = serviceRecord
export const services = z.strictObject({ services: z.array(serviceRecord) })
export const backends = z.strictObject({ backends: z.array(backendRecord) })
export const upgraded = z.strictObject({
  pid: z.int().describe('Of the new release'),
  version: z.string(),
  node: z.string(),
  workers: count,
  moved: count.describe('Tunnels that the new release carries on'),
  stayed: count.describe('Tunnels that stay with the release before until they end'),
  pauseMs: z
    .strictObject({ p50: z.number(), p99: z.number(), max: z.number() })
    .describe('How long the moved tunnels stood still'),
  durationMs: z.number(),
})
const before = z
  .strictObject({ pid: count })
  .nullable()
  .describe(
    'The release before, while it has tunnels that could not be moved, or usage that waits for its disk',
  )
export const workers = z.strictObject({ workers: z.array(workerRecord), before })
export const status = z.strictObject({ isDraining: z.boolean(), ...workers.shape })
export const readiness = z.strictObject({ status: z.enum(['ready', 'draining', 'no worker accepts']) })
export const switched = z.strictObject({ ...serviceRecord.shape, ...ended.shape })

const changed = z.strictObject({
  added: z.array(z.string()),
  removed: z.array(z.string()),
  changed: z.array(z.string()),
})

export const reloaded = z.strictObject({
  file: z.string(),
  changes: z.strictObject({
    services: changed,
    listeners: changed,
    settings: z.array(z.string()).describe('Other keys of the config'),
  }),
  durationMs: count,
})

export const usageQuery = z.strictObject({
  month: z.string().optional().describe('UTC, such as 2026-11; default: this one'),
  service: z.string().optional(),
})

const usageAmounts = {
  connections: count.describe('Tunnels that began in the month'),
  minutes: count.describe('Started ones: at least one of each connection'),
  minutesInMillions: z.number().nonnegative(),
  bytes: z.strictObject({
    clientToOrigin: count,
    originToClient: count,
    headToOrigin: count,
    headToClient: count,
  }),
}

export const usageReport = z.strictObject({
  month: z.string(),
  services: z.array(z.strictObject({ service: z.string(), ...usageAmounts })),
  total: z.strictObject(usageAmounts),
  skipped: z.record(z.string(), count).describe('Lines that were not counted'),
  troubles: z.array(z.string()),
})
