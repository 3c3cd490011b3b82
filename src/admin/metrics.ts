// What Prometheus scrapes.

import { z } from 'zod'
import { renderMetrics } from '../observe/render.ts'
import { problem } from './problem.ts'
import type { Route } from './route.ts'
import { route } from './route.ts'
import { noQuery, nothing } from './schemas.ts'

export const metricsRoute: Route = route({
  method: 'GET',
  path: '/metrics',
  role: 'user',
  dialect: problem,
  summary: 'All metrics of all workers, as Prometheus reads them',
  query: noQuery,
  body: nothing,
  answers: {
    200: { what: 'The text format 0.0.4, or OpenMetrics if Accept names it', schema: z.string() },
  },
  async handle({ operations, accept }) {
    const { type, text } = await renderMetrics(await operations.metrics(), accept)
    return { status: 200, text, type }
  },
})
