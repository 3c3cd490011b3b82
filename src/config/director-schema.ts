// The shape of directors, as they are written.

import { z } from 'zod'
import { section } from './section.ts'
import {
  cookieName,
  cookiePath,
  count,
  duration,
  fieldName,
  flag,
  oneOf,
  several,
  text,
  wholeSeconds,
  wrong,
} from './values.ts'

const backendName = text('name of a backend', 'write the name of a backend of this service')

const member = section({
  name: backendName.describe('A backend of this service'),
  weight: count(0, 1000)
    .optional()
    .describe(
      'Its share, compared with the others; default 1. With 0 it gets newcomers only if nobody else does',
    ),
})

const hash = section({
  header: fieldName.optional().describe('The value of this field'),
  cookie: cookieName.optional().describe('The value of this cookie'),
  query: text('name of a query parameter', 'write such as room')
    .optional()
    .describe('The value of this parameter'),
})

const sticky = section({
  cookie: cookieName.describe('The name of the cookie that Headrace sets, and that no origin uses'),
  path: cookiePath.optional().describe('Where clients send it; default /'),
  maxAge: wholeSeconds
    .optional()
    .describe('How long they keep it after the last answer, in whole seconds; default: for their session'),
  sameSite: oneOf('kind of SameSite', ['lax', 'strict', 'none'])
    .optional()
    .describe('Whether pages of other sites send it; default lax'),
  secure: flag
    .optional()
    .describe('Only by TLS; default: if the client has come by TLS, or sameSite is none'),
  partitioned: flag
    .optional()
    .describe('Browsers keep one for each site that embeds this one (CHIPS); default off'),
})

export const director = section({
  name: text('name of at most 254 characters', 'write such as pool', /^.{1,254}$/).describe(
    'What routes and handlers call it; no backend has the same name',
  ),
  backends: several(
    z.union([backendName, member], wrong('backend', 'write a name, or { name: a, weight: 3 }')),
    'backends',
  ).describe('Names of backends of the service, or { name, weight }'),
  policy: oneOf('policy', ['random', 'leastConnections', 'hash', 'fallback'])
    .optional()
    .describe('Which one gets a request; default random'),
  hash: z
    .union(
      [z.literal('client'), hash],
      wrong('key', 'write client, { header: X-Room }, { cookie: sid } or { query: room }'),
    )
    .optional()
    .describe(
      'What the policy hash keeps together: client (the address; the default), or a value of the request',
    ),
  sticky: sticky.optional().describe('Keep a client with the backend that it had first, by a cookie'),
  attempts: count(1, 1000).optional().describe('Backends that are dialled for a request; default: each once'),
  timeout: duration().optional().describe('All dials for a request together; default 5s'),
})
