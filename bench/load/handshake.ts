// The heads of the load: an upgrade request as a browser sends it, and its right answer (RFC 6455 section 4).

import { createHash, randomBytes } from 'node:crypto'

const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'

/** Keys are used in turn: what is to be measured is not how fast the load can hash. */
const KEYS = Array.from({ length: 1_024 }, () => {
  const key = randomBytes(16).toString('base64')
  return { key, accept: hashOf(key) }
})
let used = 0

export interface UpgradeRequest {
  readonly head: string
  /** What its answer must say. */
  readonly accept: string
}

/** An upgrade request of about 600 bytes, as a browser sends it. */
export function newRequest(host: string, path = '/chat/rooms/7?lang=en'): UpgradeRequest {
  const { key = '', accept = '' } = KEYS[used % KEYS.length] ?? {}
  used += 1
  const head = [
    `GET ${path} HTTP/1.1`,
    `Host: ${host}`,
    'Connection: Upgrade',
    'Pragma: no-cache',
    'Cache-Control: no-cache',
    'User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36',
    'Upgrade: websocket',
    'Origin: https://chat.example.com',
    'Sec-WebSocket-Version: 13',
    'Accept-Encoding: gzip, deflate, br, zstd',
    'Accept-Language: en-GB,en-US;q=0.9,en;q=0.8',
    'Cookie: session=7c1f0b9e4d5a4c0f9b1e2a3d4c5b6a79; theme=dark',
    `Sec-WebSocket-Key: ${key}`,
    'Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits',
    '',
    '',
  ]
  return { head: head.join('\r\n'), accept }
}

export interface UpgradeAnswer {
  readonly head: string
  /** What was asked for. */
  readonly path: string
}

/** The 101 to a request head. Throws if the head, as it came through the proxy, is no upgrade request any more. */
export function answerTo(head: string): UpgradeAnswer {
  const key = /^sec-websocket-key: *(\S+) *\r$/im.exec(head)?.[1]
  const [, path = ''] = head.split(' ', 2)
  if (key === undefined || !/^upgrade: *websocket *\r$/im.test(head)) throw new Error(`no upgrade: ${head}`)
  const answer = `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${acceptOf(key)}\r\n\r\n`
  return { head: answer, path }
}

export function isRightAnswer(head: string, accept: string): boolean {
  const found = /^sec-websocket-accept: *(\S+) *\r$/im.exec(head)?.[1]
  return head.startsWith('HTTP/1.1 101 ') && found === accept
}

const accepts = new Map<string, string>()

/** The load's keys come again and again. */
function acceptOf(key: string): string {
  let accept = accepts.get(key)
  if (accept === undefined) {
    accept = hashOf(key)
    accepts.set(key, accept)
  }
  return accept
}

function hashOf(key: string): string {
  return createHash('sha1').update(key).update(GUID).digest('base64')
}
