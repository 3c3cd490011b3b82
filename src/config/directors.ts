// Directors and health, from what is written to the options of the dial.

import type { DirectorOptions, HashBy, StickyOptions } from '../dial/director.ts'
import type { CheckOptions, EjectionOptions } from '../dial/health.ts'
import type { BackendShape, DirectorShape } from './schema.ts'

export function directorOptions({
  name,
  backends,
  policy,
  hash,
  sticky,
  attempts,
  timeout,
}: DirectorShape): DirectorOptions {
  return {
    name,
    members: backends.map((one) =>
      typeof one === 'string' ? { backend: one, weight: 1 } : { backend: one.name, weight: one.weight ?? 1 },
    ),
    policy: policy ?? 'random',
    hashBy: hashBy(hash),
    attempts,
    timeoutMs: timeout ?? 5_000,
    sticky: sticky === undefined ? undefined : stickyOptions(sticky),
  }
}

const SAME_SITE = { lax: 'Lax', strict: 'Strict', none: 'None' } as const

function stickyOptions({
  cookie,
  path = '/',
  maxAge,
  sameSite = 'lax',
  secure,
  partitioned = false,
}: NonNullable<DirectorShape['sticky']>): StickyOptions {
  return { cookie, path, maxAgeMs: maxAge, sameSite: SAME_SITE[sameSite], secure, partitioned }
}

function hashBy(hash: DirectorShape['hash']): HashBy {
  if (typeof hash !== 'object') return { of: 'client' }
  const { header, cookie, query } = hash
  if (header !== undefined) return { of: 'header', name: header }
  return cookie === undefined ? { of: 'query', name: query ?? '' } : { of: 'cookie', name: cookie }
}

export function checkOptions(health: BackendShape['health']): CheckOptions | undefined {
  if (health === undefined) return undefined
  const { check, path, expect = 200, interval, timeout, rise, fall } = health
  return {
    kind: check,
    path: path ?? '/',
    statuses: [expect].flat(),
    intervalMs: interval ?? 5_000,
    timeoutMs: timeout ?? 1_000,
    rise: rise ?? 2,
    fall: fall ?? 3,
  }
}

export const EJECTION_FOR_MS = 10_000
export const EJECTION_MAX_MS = 300_000

export function ejectionOptions(ejection: BackendShape['ejection']): EjectionOptions | undefined {
  if (ejection === false) return undefined
  return {
    failures: ejection?.failures ?? 3,
    forMs: ejection?.for ?? EJECTION_FOR_MS,
    maxMs: ejection?.max ?? EJECTION_MAX_MS,
    answers: ejection?.answers ?? true,
  }
}
