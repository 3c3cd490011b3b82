// The same clients at two proxies with the same config: what they and the origin see, to be compared; and what is to differ.

import { connect } from 'node:net'
import { connect as connectTls } from 'node:tls'
import type { Test } from 'tap'
import type { ClientOptions } from 'ws'
import { ask } from './control.ts'
import { startOrigin, switching, upgradeRequest } from './origin.ts'
import type { Peer } from './peer.ts'
import { connectTo, placeOf } from './peer.ts'
import type { Changes, Front } from './proxies.ts'
import { HOST } from './proxies.ts'
import type { Asked, Site } from './site.ts'
import { startSite, valuesOf, visit } from './site.ts'

export interface Sites {
  readonly a: Site
  readonly b: Site
  readonly web: Site
  readonly ports: Changes
}

/** Those that the pages have: two for a chat, one for the rest. */
export async function startSites(t: Test): Promise<Sites> {
  const [a, b, web] = await Promise.all([startSite(t, 'a'), startSite(t, 'b'), startSite(t, 'web')])
  return { a, b, web, ports: portsOf(a.address, b.address, web.address) }
}

function portsOf(a: string, b: string, web: string): Changes {
  return { '127.0.0.1:9200': a, '127.0.0.1:9201': b, '127.0.0.1:9202': web }
}

/** A client of the site: over TLS, or with these bytes before its request, or from another address. */
export function client(
  address: string,
  how: { readonly isTls?: boolean; readonly first?: string; readonly localAddress?: string } = {},
): ClientOptions {
  const place = placeOf(address) as { host: string; port: number }
  const { isTls = false, first = '', localAddress } = how
  return {
    headers: { host: HOST },
    createConnection() {
      if (isTls) return connectTls({ ...place, servername: HOST, rejectUnauthorized: false })
      const socket = connect(localAddress === undefined ? place : { ...place, localAddress })
      socket.write(first)
      return socket
    },
  } as ClientOptions
}

const TOLD = [
  'Host',
  'X-Forwarded-For',
  'X-Forwarded-Proto',
  'Sec-WebSocket-Protocol',
  'Sec-WebSocket-Version',
]

/** What both must tell an origin alike. */
export function told(asked: Asked): Record<string, unknown> {
  const { method, url } = asked
  return { method, url, fields: Object.fromEntries(TOLD.map((name) => [name, valuesOf(asked, name)])) }
}

/** What WebSockets over TCP and TLS are like, and a plain request; without which of two origins has them. */
export async function visits(
  t: Test,
  { address, secure }: Front,
  path: string,
): Promise<Record<string, unknown>> {
  const plain = await visit(t, address, path, client(address))
  const encrypted = await visit(t, secure, path, client(secure, { isTls: true }))
  const { status, text } = await ask(address, '/news?x=%7e', { headers: { Host: HOST } })
  const news = JSON.parse(text) as Asked
  return {
    plain: { ...plain, asked: told(plain.asked) },
    encrypted: { ...encrypted, asked: told(encrypted.asked) },
    news: { status, site: news.site, asked: told(news) },
  }
}

/** What that has to be: two may also be wrong alike. */
export function expectedVisits(url: string): Record<string, unknown> {
  const visited = (proto: string) => ({
    protocol: 'chat.v2',
    echoes: ['grüß dich', 'binary 00ff'],
    closed: { code: 4001, reason: 'enough' },
    asked: {
      method: 'GET',
      url,
      fields: { Host: [HOST], 'X-Forwarded-For': ['127.0.0.1'], 'X-Forwarded-Proto': [proto] },
    },
  })
  return {
    plain: visited('http'),
    encrypted: visited('https'),
    news: {
      status: 200,
      site: 'web',
      asked: { method: 'GET', url: '/news?x=%7e', fields: { Host: [HOST] } },
    },
  }
}

export interface Played {
  readonly ports: Changes
  /** The next request that is no check. */
  next(): Promise<{ readonly peer: Peer; readonly head: string }>
}

/** One origin in the place of all three, which the test plays. */
export async function startPlayed(t: Test): Promise<Played> {
  const arrived: { peer: Peer; head: string }[] = []
  let tell = () => {}
  const { address } = await startOrigin(t, {
    async answer(peer) {
      const head = await peer.until('\r\n\r\n').catch(() => '')
      if (head.startsWith('GET /healthz')) peer.end('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n')
      else if (head !== '') arrived.push({ peer, head })
      tell()
    },
  })
  return {
    ports: portsOf(address, address, address),
    async next() {
      for (;;) {
        const next = arrived.shift()
        if (next !== undefined) return next
        await new Promise<void>((heard) => {
          tell = heard
        })
      }
    },
  }
}

export interface Opened {
  readonly client: Peer
  readonly peer: Peer
  /** What the origin got. */
  readonly head: string
  /** What the client got. */
  readonly answer: string
}

export async function ask101(
  t: Test,
  { address }: Front,
  fields: Readonly<Record<string, string>> = {},
): Promise<Peer> {
  const client = await connectTo(t, address)
  client.write(upgradeRequest({ Host: HOST, ...fields }, '/chat/1?room=1'))
  return client
}

/** `accept`: what the origin says wrongly. */
export async function open(
  t: Test,
  front: Front,
  origin: Played,
  fields: Readonly<Record<string, string>> = {},
  accept = '',
): Promise<Opened> {
  const client = await ask101(t, front, fields)
  const { peer, head } = await origin.next()
  const right = switching(head)
  peer.write(accept === '' ? right : right.replace(/(Accept: ).*/, `$1${accept}`))
  return { client, peer, head, answer: await client.until('\r\n\r\n') }
}

/** What a client hears of an origin that speaks after the client's FIN. */
export async function halfClosed(t: Test, front: Front, origin: Played): Promise<string> {
  const { client, peer, answer } = await open(t, front, origin)
  client.end('last words')
  await peer.until('last words')
  await peer.ended
  peer.end('late')
  return (await client.all()).slice(answer.length)
}

/** A tunnel in which nothing moves stays here, and is cut by `theirs`, which has a timeout of a second. */
export async function checkIdle(t: Test, ours: Front, theirs: Front, origin: Played): Promise<void> {
  const idle = await open(t, ours, origin)
  const cut = await open(t, theirs, origin)
  t.equal(await cut.client.all(), cut.answer)
  idle.client.write('still here')
  t.match(await idle.peer.until('still here'), 'still here')
}

/** What neither of the others looks at: the version that a client speaks, and an origin's proof that it speaks WebSocket. */
export async function checkStrictness(t: Test, ours: Front, theirs: Front, origin: Played): Promise<void> {
  const old = { 'Sec-WebSocket-Version': '12' }
  t.match((await open(t, theirs, origin, old)).head, /Version: 12/i)
  t.match(await (await ask101(t, ours, old)).all(), /^HTTP\/1\.1 426 .*Sec-WebSocket-Version: 13/s)
  t.match((await open(t, theirs, origin, {}, 'wrong')).answer, /^HTTP\/1\.1 101 .*wrong/s)
  t.match((await open(t, ours, origin, {}, 'wrong')).answer, /^HTTP\/1\.1 502 /)
}
