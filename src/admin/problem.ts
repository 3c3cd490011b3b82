// Errors as problem details (RFC 9457): the dialect of our own routes. And what an error of the edge is over HTTP.

import { STATUS_CODES } from 'node:http'
import { z } from 'zod'
import { asHeadraceError, entry } from '../errors.ts'
import type { Dialect, Fault } from './route.ts'

const schema = z.strictObject({
  type: z.literal('about:blank'),
  title: z.string(),
  status: z.int(),
  detail: z.string(),
  code: z.string().optional().describe('A code of the README, where there is one'),
  errors: z
    .array(
      z.strictObject({
        path: z.string().describe('In the config, such as services[0].backends[1].address'),
        reason: z.string(),
        remedy: z.string(),
        line: z.int().optional(),
        column: z.int().optional(),
      }),
    )
    .optional()
    .describe('Each thing that is wrong with a config'),
})

export const problem: Dialect = {
  type: 'application/problem+json',
  schema,
  write: ({ status, detail, code, errors }: Fault): z.input<typeof schema> => ({
    type: 'about:blank',
    title: STATUS_CODES[status] ?? 'Unknown',
    status,
    detail,
    ...(code === undefined ? {} : { code }),
    ...(errors === undefined ? {} : { errors: [...errors] }),
  }),
}

const STATUSES: Readonly<Record<string, number>> = {
  'argument-invalid': 400,
  'process-silent': 503,
  'upgrade-running': 409,
  draining: 503,
}

/** Whoever may ask is an operator, and is told everything. */
export function faultOf(thrown: unknown): Fault {
  const { code, detail, remedy } = asHeadraceError(thrown)
  return { status: STATUSES[code] ?? 500, code, detail: `${entry(code).sentence}: ${detail}; ${remedy}` }
}

/** A service is looked for by name: it is not there, or its record is. */
export function missing(what: string, name: string): Fault {
  return { status: 404, detail: `no ${what} ${JSON.stringify(name)}` }
}
