// What a month cost: the same as `headrace usage --json`.

import { missing, problem } from './problem.ts'
import type { Route } from './route.ts'
import { route } from './route.ts'
import { nothing, usageQuery, usageReport } from './schemas.ts'

export const usageRoute: Route = route({
  method: 'GET',
  path: '/usage',
  role: 'user',
  dialect: problem,
  summary: 'Minutes and bytes of a month, by service',
  query: usageQuery,
  body: nothing,
  answers: { 200: { what: 'All services, or the one asked for', schema: usageReport } },
  async handle({ operations, query: { month, service } }) {
    const report = await operations.usage(month, service)
    const isNew = service !== undefined && report.total.connections === 0
    // One that is not configured any more has a past.
    if (isNew && !(await operations.services()).some(({ id }) => id === service)) {
      return missing('service', service)
    }
    return { status: 200, json: report }
  },
})
