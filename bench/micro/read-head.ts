// The head: from its bytes to a value, through the reader that every connection uses.

import type { HeadLimits } from '../../src/head/llhttp.ts'
import { readRequestHead } from '../../src/head/read.ts'
import type { Reader, Transport } from '../../src/transport/transport.ts'
import { newRequest } from '../load/handshake.ts'
import type { Micro } from './micro.ts'

const LIMITS: HeadLimits = { headSize: 16_384, headFields: 100 }
const { signal } = new AbortController()

const small = [
  'GET / HTTP/1.1',
  'Host: a.test',
  'Upgrade: websocket',
  'Connection: Upgrade',
  'Sec-WebSocket-Version: 13',
  'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
].join('\r\n')
const { head: browser } = newRequest('chat.example.com')
const padding = Array.from({ length: 80 }, (_, at) => `X-Field-${at}: ${'v'.repeat(174)}`).join('\r\n')

/** `16 KiB` is a little less: at the limit. */
export const readHead: readonly Micro[] = [
  micro('small', `${small}\r\n\r\n`),
  micro('browser', browser),
  micro('16 KiB', `${small}\r\n${padding}\r\n\r\n`),
]

function micro(name: string, text: string): Micro {
  const bytes = Buffer.from(text, 'latin1')
  const transport = deliveringTransport(bytes)
  return {
    name: `read head, ${name} (${bytes.length} B)`,
    async run() {
      await readRequestHead(transport, LIMITS, signal)
    },
  }
}

/** Everything has arrived already when a reader comes. */
function deliveringTransport(bytes: Buffer): Transport {
  const nothing = () => {}
  return {
    isClosed: false,
    attach: (reader: Reader) => reader.data(bytes),
    pause: nothing,
    resume: nothing,
    write: () => true,
    end: nothing,
    reset: nothing,
    destroy: nothing,
    isDetachable: false,
    detach: () => null,
    release() {
      throw new Error('there is no socket')
    },
  }
}
