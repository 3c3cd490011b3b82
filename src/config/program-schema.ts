// The shape of a service's program, and of WebSockets that end here. See schema.ts.

import { z } from 'zod'
import { section } from './section.ts'
import { flag, size, text, wrong } from './values.ts'

const modulePath = text('path of a module', 'write such as ./main.js')

export const program = section({
  fastly: modulePath.optional().describe('A Fastly Compute program in JavaScript'),
  worker: modulePath.optional().describe('A Cloudflare Worker in module form'),
  env: z
    .record(z.string(), z.unknown(), wrong('section', 'write { NAME: value }'))
    .optional()
    .describe('What the program finds in its environment'),
  objects: z
    .record(
      text('name in the environment', 'write such as ROOMS', /^[A-Za-z_$][A-Za-z0-9_$]*$/),
      text('name of a class', 'write the name of a class that the worker exports'),
      wrong('section', 'write { ROOMS: ChatRoom }'),
    )
    .optional()
    .describe('Of a worker: names in env that stand for objects of a class that it exports'),
  backend: text('name of a backend or director', 'write the name of one of this service')
    .optional()
    .describe('Of a worker: where fetch(request) of its own host goes; needed if there are several'),
})

export const local = section({
  maxPayload: size('1B', '64MiB').optional().describe('The longest message of a client; default 1MiB'),
  maxBuffered: size('1KiB', '1GiB')
    .optional()
    .describe('What may wait for a client that reads slowly, before it is ended; default 4MiB'),
  deflate: flag.optional().describe('Offer permessage-deflate; default off'),
})
