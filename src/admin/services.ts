// Services with their switch, and backends.

import type { SwitchValue } from '../service/switch.ts'
import { missing, problem } from './problem.ts'
import type { Call, Fault, Route } from './route.ts'
import { route } from './route.ts'
import { backends, noQuery, nothing, service, services, switchBody, switched } from './schemas.ts'

export const serviceRoutes: readonly Route[] = [
  route({
    method: 'GET',
    path: '/services',
    role: 'user',
    dialect: problem,
    summary: 'All services',
    query: noQuery,
    body: nothing,
    answers: { 200: { what: 'All of them', schema: services } },
    handle: async ({ operations }) => ({ status: 200, json: { services: await operations.services() } }),
  }),
  route({
    method: 'GET',
    path: '/services/{id}',
    role: 'user',
    dialect: problem,
    summary: 'One service',
    query: noQuery,
    body: nothing,
    answers: { 200: { what: 'It', schema: service } },
    async handle({ operations, params: { id = '' } }) {
      const found = await findService(operations, id)
      return found === undefined ? missing('service', id) : { status: 200, json: found }
    },
  }),
  route({
    method: 'PATCH',
    path: '/services/{id}',
    role: 'engineer',
    dialect: problem,
    summary: 'Switch WebSockets on or off',
    query: noQuery,
    body: switchBody,
    answers: { 200: { what: 'The service, and how many tunnels are being ended', schema: switched } },
    async handle(call) {
      const { operations, params, body } = call
      const { id = '' } = params
      const done = await switchService(call, id, body.websockets, body.closeTunnels ?? false)
      if ('status' in done) return done
      return { status: 200, json: { ...(await findService(operations, id)), ended: done.ended } }
    },
  }),
  route({
    method: 'GET',
    path: '/backends',
    role: 'user',
    dialect: problem,
    summary: 'All backends of all services',
    query: noQuery,
    body: nothing,
    answers: { 200: { what: 'All of them', schema: backends } },
    handle: async ({ operations }) => ({ status: 200, json: { backends: await operations.backends() } }),
  }),
]

type Operations = Call<unknown, unknown>['operations']

export async function findService(operations: Operations, id: string) {
  return (await operations.services()).find((one) => one.id === id)
}

/** The same for all three shapes of the API; a fault if there is no such service. */
export async function switchService(
  { operations, changed }: Call<unknown, unknown>,
  id: string,
  value: SwitchValue,
  closeTunnels: boolean,
): Promise<Fault | { readonly ended: number }> {
  if ((await findService(operations, id)) === undefined) return missing('service', id)
  const { before, after, ended } = await operations.websockets(id, value, { closeTunnels })
  if (before !== value || ended > 0) changed('websockets', id, before, after.websockets, ended)
  return { ended }
}
