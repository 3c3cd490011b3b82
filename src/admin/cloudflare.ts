// The product switch in the shape of Cloudflare's API, for scripts that were written for it. A zone is a service.

import { z } from 'zod'
import type { SwitchState } from '../service/switch.ts'
import type { Dialect, Fault, Route } from './route.ts'
import { route } from './route.ts'
import { closeQuery, noQuery, nothing } from './schemas.ts'
import { findService, switchService } from './services.ts'

/** With and without what Cloudflare's own addresses begin with. */
const PATHS = ['/zones/{zone_id}/settings/websockets', '/client/v4/zones/{zone_id}/settings/websockets']

const setting = z.strictObject({
  result: z.strictObject({
    id: z.literal('websockets'),
    value: z.enum(['on', 'off']),
    modified_on: z.iso.datetime().nullable(),
    editable: z.literal(true),
  }),
  success: z.literal(true),
  errors: z.tuple([]),
  messages: z.tuple([]),
})

/** Cloudflare's own numbers for what may go wrong here. */
const CODES: Readonly<Record<number, number>> = { 400: 1007, 401: 10000, 403: 9109, 404: 7003 }

const cloudflare: Dialect = {
  type: 'application/json',
  schema: z.strictObject({
    result: z.null(),
    success: z.literal(false),
    errors: z.array(z.strictObject({ code: z.int(), message: z.string() })),
    messages: z.tuple([]),
  }),
  write: ({ status, detail }: Fault) => ({
    result: null,
    success: false,
    errors: [{ code: CODES[status] ?? status, message: detail }],
    messages: [],
  }),
}

function settingBody({ websockets, changedAt }: SwitchState): z.input<typeof setting> {
  const result = { id: 'websockets', value: websockets, modified_on: changedAt, editable: true } as const
  return { result, success: true, errors: [], messages: [] }
}

/** Other keys are passed over: clients send the whole setting back. */
const valueBody = z.object({
  value: z.enum(['on', 'off'], 'Invalid value for zone setting websockets'),
})

export const cloudflareRoutes: readonly Route[] = PATHS.flatMap((path) => [
  route({
    method: 'GET',
    path,
    role: 'user',
    dialect: cloudflare,
    summary: "The switch of a service, in Cloudflare's shape",
    query: noQuery,
    body: nothing,
    answers: { 200: { what: 'Its setting', schema: setting } },
    async handle({ operations, params: { zone_id: id = '' } }) {
      const found = await findService(operations, id)
      return found === undefined ? noZone(id) : { status: 200, json: settingBody(found) }
    },
  }),
  route({
    method: 'PATCH',
    path,
    role: 'engineer',
    dialect: cloudflare,
    summary: "Switch WebSockets on or off, in Cloudflare's shape",
    query: closeQuery,
    body: valueBody,
    answers: { 200: { what: 'Its setting', schema: setting } },
    async handle(call) {
      const { zone_id: id = '' } = call.params
      const done = await switchService(call, id, call.body.value, call.query.closeTunnels)
      if ('status' in done) return noZone(id)
      const found = await findService(call.operations, id)
      return found === undefined ? noZone(id) : { status: 200, json: settingBody(found) }
    },
  }),
])

function noZone(id: string): Fault {
  return { status: 404, detail: `Could not route to /zones/${id}: no service has this id` }
}
