// Open tunnels: list, find, end.

import { missing, problem } from './problem.ts'
import type { Route } from './route.ts'
import { route } from './route.ts'
import {
  endAllQuery,
  ended,
  endQuery,
  noQuery,
  nothing,
  tunnelPage,
  tunnelQuery,
  tunnelRecord,
} from './schemas.ts'

export const tunnelRoutes: readonly Route[] = [
  route({
    method: 'GET',
    path: '/tunnels',
    role: 'user',
    dialect: problem,
    summary: 'Open tunnels, page by page',
    query: tunnelQuery,
    body: nothing,
    answers: { 200: { what: 'A page', schema: tunnelPage } },
    handle: async ({ operations, query }) => ({ status: 200, json: await operations.tunnels(query) }),
  }),
  route({
    method: 'DELETE',
    path: '/tunnels',
    role: 'superuser',
    dialect: problem,
    summary: 'End all tunnels of a service, or those of them that the filter takes',
    query: endAllQuery,
    body: nothing,
    answers: { 200: { what: 'They are being ended', schema: ended } },
    async handle({ operations, query: { how = 'fin', ...filter }, changed }) {
      const known = await operations.services()
      const count = await operations.end(filter, how)
      // One that a reload has removed may still have tunnels.
      if (count === 0 && !known.some(({ id }) => id === filter.service)) {
        return missing('service', filter.service)
      }
      changed('tunnels', filter.service, filter, how, count)
      return { status: 200, json: { ended: count } }
    },
  }),
  route({
    method: 'GET',
    path: '/tunnels/{id}',
    role: 'user',
    dialect: problem,
    summary: 'One open tunnel',
    query: noQuery,
    body: nothing,
    answers: { 200: { what: 'It is open', schema: tunnelRecord } },
    async handle({ operations, params: { id = '' } }) {
      const found = await operations.find(id)
      return found === null ? missing('open tunnel', id) : { status: 200, json: found }
    },
  }),
  route({
    method: 'DELETE',
    path: '/tunnels/{id}',
    role: 'superuser',
    dialect: problem,
    summary: 'End one tunnel',
    query: endQuery,
    body: nothing,
    answers: { 200: { what: 'It is being ended', schema: ended } },
    async handle({ operations, params: { id = '' }, query: { how = 'fin' }, changed }) {
      const count = await operations.end({ id }, how)
      if (count === 0) return missing('open tunnel', id)
      changed('tunnel', id, 'open', how, count)
      return { status: 200, json: { ended: count } }
    },
  }),
]
