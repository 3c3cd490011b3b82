// How the backends do, as values: for whoever watches from outside.

import { addressText } from '../dial/backend.ts'
import type { ErrorCode } from '../errors.ts'
import type { Service } from './service.ts'

export interface BackendStatus {
  /** The id of its service. */
  readonly service: string
  readonly name: string
  /** As it is configured: `host:port` or `unix:/path`. */
  readonly address: string
  /** The directors that have it. */
  readonly directors: readonly string[]
  /** Unhealthy: its checks fail, or it is ejected. Always healthy if it is not checked and in no director. */
  readonly health: 'healthy' | 'unhealthy'
  /** Why; '' if it was healthy ever since the start. */
  readonly reason: string
  /** Epoch milliseconds; from then on one connection at a time tries whether it is back. Null: it is not ejected. */
  readonly ejectedUntil: number | null
  /** Dialled or being dialled, and not over yet; those that are kept for plain requests included. */
  readonly connections: number
  /** Dials and answers that failed since the start, by code: all of them, whether a client noticed or not. */
  readonly failures: Readonly<Partial<Record<ErrorCode, number>>>
  readonly checks: { readonly passed: number; readonly failed: number }
}

export function backendStatus(services: readonly Service[]): BackendStatus[] {
  return services.flatMap(({ options: { id }, backends, directors }) =>
    [...backends.values()].map((backend) => {
      const { options, health, connections } = backend
      const having = [...directors.values()].filter(({ members }) =>
        members.some((member) => member.backend === backend),
      )
      return {
        service: id,
        name: options.name,
        address: addressText(options.address),
        directors: having.map((director) => director.options.name),
        health: health.isHealthy ? 'healthy' : 'unhealthy',
        reason: health.reason,
        ejectedUntil: health.ejectedUntil,
        connections,
        failures: Object.fromEntries(health.failures),
        checks: { ...health.checks },
      }
    }),
  )
}
