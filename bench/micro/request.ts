// A checked browser's upgrade request, as the rooms behind the head get it.

import type { Client } from '../../src/accept/client.ts'
import type { RequestHead } from '../../src/head/head.ts'
import { field } from '../../src/head/head.ts'
import { newRequest } from '../load/handshake.ts'

const [start = '', ...lines] = newRequest('chat.example.com').head.trimEnd().split('\r\n')
const [method = '', target = ''] = start.split(' ')

export const request: RequestHead = {
  method,
  target,
  version: '1.1',
  fields: lines.map((line) => {
    const colon = line.indexOf(':')
    return field(line.slice(0, colon), line.slice(colon + 2))
  }),
}

/** Nothing behind the head touches its transport. */
export const client = {
  address: '192.0.2.7',
  port: 50_000,
  tls: null,
  mayForward: false,
  listener: '127.0.0.1:8080',
} as Client
