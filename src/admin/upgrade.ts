// A new release takes over.

import { problem } from './problem.ts'
import { route } from './route.ts'
import { noQuery, nothing, upgraded } from './schemas.ts'

export const upgradeRoute = route({
  method: 'POST',
  path: '/upgrade',
  role: 'superuser',
  dialect: problem,
  summary: 'Start the release that is on the disk now, and give it the listeners and the open tunnels',
  query: noQuery,
  body: nothing,
  answers: { 200: { what: 'The new release is in charge', schema: upgraded } },
  async handle({ operations, changed }) {
    const outcome = await operations.upgrade()
    changed('upgrade', outcome.version, process.ppid, outcome.pid, 0)
    return { status: 200, json: outcome }
  },
})
