// The processes that carry tunnels: how they are, and how they come to their end.

import { problem } from './problem.ts'
import type { Route } from './route.ts'
import { route } from './route.ts'
import { drainBody, noQuery, nothing, status, workers } from './schemas.ts'

export const workerRoutes: readonly Route[] = [
  route({
    method: 'GET',
    path: '/workers',
    role: 'user',
    dialect: problem,
    summary: 'The processes that carry tunnels, and what is left of the release before',
    query: noQuery,
    body: nothing,
    answers: { 200: { what: 'All of them', schema: workers } },
    async handle({ operations }) {
      const { workers: all, before } = await operations.status()
      return { status: 200, json: { workers: all, before } }
    },
  }),
  route({
    method: 'POST',
    path: '/drain',
    role: 'superuser',
    dialect: problem,
    summary: 'End a worker, whose place a fresh one takes, or the program, when its tunnels are over',
    query: noQuery,
    body: drainBody,
    answers: { 202: { what: 'It has begun', schema: status } },
    async handle({ operations, body, changed }) {
      const begun = await operations.drain(body)
      const open = begun.workers.reduce((sum, { drain }) => sum + (drain?.open ?? 0), 0)
      changed('drain', body.worker ?? 'all', 'running', body.timeoutMs ?? 'drainTimeout', open)
      return { status: 202, json: begun }
    },
  }),
]
