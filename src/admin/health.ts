// For load balancers and probes: they have no token.

import { z } from 'zod'
import { problem } from './problem.ts'
import type { Route } from './route.ts'
import { route } from './route.ts'
import { noQuery, nothing, readiness } from './schemas.ts'

const plain = { query: noQuery, body: nothing, dialect: problem } as const

export const healthRoutes: readonly Route[] = [
  route({
    ...plain,
    method: 'GET',
    path: '/healthz',
    role: null,
    summary: 'Whether the program is alive',
    answers: { 200: { what: 'It is', schema: z.string() } },
    handle: async () => ({ status: 200, text: 'ok\n', type: 'text/plain; charset=utf-8' }),
  }),
  route({
    ...plain,
    method: 'GET',
    path: '/readyz',
    role: null,
    summary: 'Whether it takes new connections',
    answers: {
      200: { what: 'It does', schema: readiness },
      503: { what: 'It drains, or no worker accepts', schema: readiness },
    },
    async handle({ operations }) {
      const { isDraining, workers: all } = await operations.status()
      if (isDraining) return { status: 503, json: { status: 'draining' } }
      const isReady = all.some(({ state }) => state === 'running')
      return isReady
        ? { status: 200, json: { status: 'ready' } }
        : { status: 503, json: { status: 'no worker accepts' } }
    },
  }),
]
