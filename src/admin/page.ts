// The page: one file with everything in it, and what it shows as server-sent events. The file is no secret and needs no
// token; what it shows needs one.

import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { z } from 'zod'
import { problem } from './problem.ts'
import type { Route } from './route.ts'
import { route } from './route.ts'
import { noQuery, nothing } from './schemas.ts'

const html = readFileSync(new URL('./page.html', import.meta.url), 'utf8')

/** Only what stands in the file runs, nothing is loaded from elsewhere, and no other page can frame it. */
const POLICY = [
  "default-src 'none'",
  `script-src ${hashOf('script')}`,
  `style-src ${hashOf('style')}`,
  "connect-src 'self'",
  'img-src data:',
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ')

/** Of the one element of its name, as CSP level 3 wants it. */
function hashOf(element: string): string {
  const [, text = ''] = new RegExp(`<${element}\\b[^>]*>([\\s\\S]*?)</${element}>`).exec(html) ?? []
  return `'sha256-${createHash('sha256').update(text).digest('base64')}'`
}

const plain = { query: noQuery, body: nothing, dialect: problem } as const

export const pageRoutes: readonly Route[] = [
  route({
    ...plain,
    method: 'GET',
    path: '/',
    role: null,
    summary: 'A page that shows what goes on',
    answers: { 200: { what: 'HTML', schema: z.string(), type: 'text/html' } },
    handle: async () => ({
      status: 200,
      text: html,
      type: 'text/html; charset=utf-8',
      fields: { 'Content-Security-Policy': POLICY, 'Referrer-Policy': 'no-referrer' },
    }),
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
