// For load balancers and probes: they have no token.

import { z } from 'zod'
import type { WorkerStatus } from '../operations.ts'
import { problem } from './problem.ts'
import type { Route } from './route.ts'
import { route } from './route.ts'
import { noQuery, nothing, readiness } from './schemas.ts'

/** Whoever restarts the program ends all its tunnels, which kernel engines may still move: a hang of so long is no hiccup. */
const DEAD_MS = 30_000

const plain = { query: noQuery, body: nothing, dialect: problem } as const

export const healthRoutes: readonly Route[] = [
  route({
    ...plain,
    method: 'GET',
    path: '/healthz',
    role: null,
    summary: 'Whether the program is alive',
    answers: {
      200: { what: 'It is', schema: z.string() },
      503: { what: `No worker has answered for ${DEAD_MS / 1_000} s`, schema: z.string() },
    },
    async handle({ operations }) {
      const { workers } = await operations.status()
      const type = 'text/plain; charset=utf-8'
      return isDead(workers)
        ? { status: 503, text: 'no worker answers\n', type }
        : { status: 200, text: 'ok\n', type }
    },
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

/** One of several is no reason: the others accept for it. */
export function isDead(workers: readonly WorkerStatus[]): boolean {
  return workers.length > 0 && workers.every(({ silentMs }) => (silentMs ?? 0) >= DEAD_MS)
}
