// The product switch in the shape of Fastly's API, for scripts that were written for it.

import { z } from 'zod'
import { missing } from './problem.ts'
import type { Dialect, Fault, Route } from './route.ts'
import { route } from './route.ts'
import { closeQuery, noQuery, nothing } from './schemas.ts'
import { findService, switchService } from './services.ts'

const BASE = '/enabled-products/v1/websockets/services'
const PATH = `${BASE}/{service_id}`

const product = z.strictObject({ id: z.literal('websockets'), object: z.literal('product') })

const enabled = z.strictObject({
  product,
  service: z.strictObject({ id: z.string(), object: z.literal('service') }),
  _links: z.strictObject({ self: z.string() }),
})

const list = z.strictObject({
  product,
  services: z.array(z.string()),
  _links: z.strictObject({ self: z.string() }),
})

const fastly: Dialect = {
  type: 'application/problem+json',
  schema: z.strictObject({
    type: z.literal(''),
    title: z.string(),
    status: z.int(),
    errors: z.null(),
    detail: z.string(),
  }),
  write: ({ status, detail }: Fault) => ({ type: '', title: detail, status, errors: null, detail: '' }),
}

const PRODUCT = { id: 'websockets', object: 'product' } as const

function enabledBody(id: string): z.input<typeof enabled> {
  return { product: PRODUCT, service: { id, object: 'service' }, _links: { self: `${BASE}/${id}` } }
}

/** `{}`, or nothing. */
const noConfiguration = z.union([z.undefined(), z.strictObject({})])

export const fastlyRoutes: readonly Route[] = [
  route({
    method: 'GET',
    path: BASE,
    role: 'user',
    dialect: fastly,
    summary: "Services with WebSockets on, in Fastly's shape",
    query: noQuery,
    body: nothing,
    answers: { 200: { what: 'Their ids', schema: list } },
    async handle({ operations }) {
      const on = (await operations.services()).filter(({ websockets }) => websockets === 'on')
      const json = { product: PRODUCT, services: on.map(({ id }) => id), _links: { self: BASE } }
      return { status: 200, json }
    },
  }),
  route({
    method: 'GET',
    path: PATH,
    role: 'user',
    dialect: fastly,
    summary: "Whether WebSockets are on for a service, in Fastly's shape: 400 if they are not",
    query: noQuery,
    body: nothing,
    answers: { 200: { what: 'They are on', schema: enabled } },
    async handle({ operations, params: { service_id: id = '' } }) {
      const found = await findService(operations, id)
      if (found === undefined) return missing('service', id)
      if (found.websockets === 'off') return { status: 400, detail: 'no product on service' }
      return { status: 200, json: enabledBody(id) }
    },
  }),
  route({
    method: 'PUT',
    path: PATH,
    role: 'engineer',
    dialect: fastly,
    summary: "Switch WebSockets on, in Fastly's shape",
    query: noQuery,
    body: noConfiguration,
    answers: { 200: { what: 'They are on', schema: enabled } },
    async handle(call) {
      const { service_id: id = '' } = call.params
      const done = await switchService(call, id, 'on', false)
      return 'status' in done ? done : { status: 200, json: enabledBody(id) }
    },
  }),
  route({
    method: 'DELETE',
    path: PATH,
    role: 'engineer',
    dialect: fastly,
    summary: "Switch WebSockets off, in Fastly's shape",
    query: closeQuery,
    body: nothing,
    answers: { 204: { what: 'They are off', schema: null } },
    async handle(call) {
      const { service_id: id = '' } = call.params
      const done = await switchService(call, id, 'off', call.query.closeTunnels)
      return 'status' in done ? done : { status: 204 }
    },
  }),
]
