// The page, file by file, and what it shows as server-sent events. The files are no secret and need no token; what they
// show needs one.

import { readdirSync, readFileSync } from 'node:fs'
import { z } from 'zod'
import { problem } from './problem.ts'
import type { Route } from './route.ts'
import { route } from './route.ts'
import { noQuery, nothing } from './schemas.ts'

const FOLDER = new URL('page/', import.meta.url)
const TYPES: Readonly<Record<string, string>> = {
  html: 'text/html; charset=utf-8',
  css: 'text/css; charset=utf-8',
  js: 'text/javascript; charset=utf-8',
}

/** All that there is, by name: what is asked for is never a path. */
const files = new Map(readdirSync(FOLDER).map((name) => [name, readFileSync(new URL(name, FOLDER), 'utf8')]))

/** Only our own files run, nothing is loaded from elsewhere, nothing in line counts, and no other page can frame it. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "connect-src 'self'",
  'img-src data:',
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ')

const plain = { query: noQuery, body: nothing, dialect: problem } as const

export const pageRoutes: readonly Route[] = [
  route({
    ...plain,
    method: 'GET',
    path: '/',
    role: null,
    summary: 'A page that shows what goes on',
    answers: { 200: { what: 'HTML', schema: z.string(), type: 'text/html' } },
    handle: async () => fileReply('page.html'),
  }),
  route({
    ...plain,
    method: 'GET',
    path: '/page/{file}',
    role: null,
    summary: 'A file of that page',
    answers: { 200: { what: 'Style or script', schema: z.string(), type: 'text/javascript' } },
    handle: async ({ params: { file = '' } }) => fileReply(file),
  }),
  route({
    ...plain,
    method: 'GET',
    path: '/events',
    role: 'user',
    summary: 'What goes on, as server-sent events, one `pulse` a second',
    answers: {
      200: { what: 'Events, until a side ends it', schema: z.string(), type: 'text/event-stream' },
    },
    handle: async ({ live }) =>
      live.isFull
        ? { status: 503, detail: 'there are as many viewers as there may be: try again later' }
        : { status: 200, type: 'text/event-stream', stream: live.watch },
  }),
]

function fileReply(name: string) {
  const text = files.get(name)
  const type = TYPES[name.slice(name.lastIndexOf('.') + 1)]
  if (text === undefined || type === undefined) return { status: 404, detail: `the page has no file ${name}` }
  return {
    status: 200,
    text,
    type,
    fields: { 'Content-Security-Policy': POLICY, 'Referrer-Policy': 'no-referrer' },
  }
}
