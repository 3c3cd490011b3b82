// The cookie that keeps a client with its backend: what is read and what is cut out, what clients and origins see of it on
// whole connections. Real clients are in clients/sticky.test.ts.

import { once } from 'node:events'
import type { Server } from 'node:http'
import { createServer } from 'node:http'
import { join } from 'node:path'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { markOf } from '../src/dial/director.ts'
import { cookieValues, withoutCookie, withSetCookie } from '../src/head/cookies.ts'
import type { Field } from '../src/head/head.ts'
import { field } from '../src/head/head.ts'
import type { ListenerInput } from '../src/index.ts'
import { handoff, send } from '../src/index.ts'
import { selfSigned } from './support/certificates.ts'
import { newFolder } from './support/control.ts'
import { ownHost } from './support/host.ts'
import { switching, upgradeRequest } from './support/origin.ts'
import { connectTo } from './support/peer.ts'
import type { BackendInput, ServiceInput, Started } from './support/tunnel.ts'
import { startTunnel } from './support/tunnel.ts'

type DirectorInput = NonNullable<ServiceInput['directors']>[number]
type StickyInput = NonNullable<DirectorInput['sticky']>
type Fields = readonly (readonly [name: string, value: string])[]

interface Site {
  readonly address: string
  /** The Cookie fields of each request, as they came. */
  readonly cookies: string[][]
  /** Closes all connections and listens no more, until `revive`. */
  stop(): Promise<void>
  revive(): Promise<void>
}

/** An origin that says its name, to upgrades as well; `answer`: what else it answers with. */
async function startSite(
  t: Test,
  name: string,
  { status = 200, fields = [] }: { readonly status?: number; readonly fields?: Fields } = {},
): Promise<Site> {
  const cookies: string[][] = []
  const note = (raw: readonly string[]) =>
    cookies.push(raw.filter((_, at) => at % 2 === 1 && raw[at - 1]?.toLowerCase() === 'cookie'))
  const server: Server = createServer((request, response) => {
    note(request.rawHeaders)
    response.writeHead(status, ['X-Origin', name, ...fields.flat()])
    response.end(`this is ${name}`)
  })
  server.on('upgrade', (request, socket) => {
    note(request.rawHeaders)
    socket.on('error', () => {})
    const head = `Sec-WebSocket-Key: ${request.headers['sec-websocket-key']}`
    if (request.url === '/refused') {
      socket.end(`HTTP/1.1 403 Forbidden\r\nX-Origin: ${name}\r\nContent-Length: 6\r\n\r\nnot me`)
    } else {
      socket.write(switching(head, `X-Origin: ${name}\r\n`))
      socket.pipe(socket)
    }
    sockets.add(socket)
  })
  const sockets = new Set<{ destroy(): void }>()
  const host = ownHost()
  const listen = async (port: number) => {
    server.listen(port, host)
    await once(server, 'listening')
    return (server.address() as { port: number }).port
  }
  const port = await listen(0)
  const stop = async () => {
    if (!server.listening) return
    server.close()
    server.closeAllConnections()
    for (const socket of sockets) socket.destroy()
    await once(server, 'close')
  }
  t.teardown(stop)
  return {
    address: `${host}:${port}`,
    cookies,
    stop,
    async revive() {
      await listen(port)
    },
  }
}

interface Pool extends Started {
  readonly sites: Readonly<Record<string, Site>>
}

interface Wanted {
  readonly names?: readonly string[]
  readonly sticky?: Partial<StickyInput>
  readonly director?: Partial<DirectorInput>
  readonly service?: Partial<ServiceInput>
  readonly backend?: Partial<BackendInput>
  readonly listeners?: readonly ListenerInput[]
  readonly site?: Parameters<typeof startSite>[2]
}

const EVERYTHING: NonNullable<ServiceInput['routes']> = [
  { match: { upgrade: 'websocket' }, handoff: 'pool' },
  { send: 'pool' },
]

/** A tunnel in front of such sites, all of them in the sticky director `pool`. */
async function startPool(t: Test, wanted: Wanted = {}): Promise<Pool> {
  const { names = ['a', 'b'], sticky, director, service, backend, listeners, site } = wanted
  const sites: Record<string, Site> = {}
  for (const name of names) sites[name] = await startSite(t, name, site)
  const backends = Object.entries(sites).map(([name, { address }]) => ({ name, address, ...backend }))
  const pool = {
    name: 'pool',
    backends: [...names],
    sticky: { cookie: 'headrace', ...sticky },
    ...director,
  }
  const started = await startTunnel(t, '', {
    service: { backends, directors: [pool], routes: EVERYTHING, ...service },
    ...(listeners === undefined ? {} : { listeners }),
  })
  return { ...started, sites }
}

interface Seen {
  readonly status: number
  /** The name of the origin; '' for an answer of Headrace's own. */
  readonly origin: string
  readonly setCookie: readonly string[]
  readonly cacheControl: readonly string[]
  readonly text: string
}

interface Asking {
  readonly isUpgrade?: boolean
  readonly path?: string
  readonly fields?: Readonly<Record<string, string>>
  readonly isTls?: boolean
}

/** One request on a connection of its own; of an upgrade the connection stays open. */
async function ask(t: Test, address: string, asking: Asking = {}): Promise<Seen> {
  const { isUpgrade = false, path = '/', fields = {}, isTls = false } = asking
  const client = await connectTo(t, address, isTls ? {} : undefined)
  const lines = Object.entries(fields).map(([name, value]) => `${name}: ${value}\r\n`)
  const plain = `GET ${path} HTTP/1.1\r\nHost: chat.test\r\nConnection: close\r\n${lines.join('')}\r\n`
  client.write(isUpgrade ? upgradeRequest(fields, path) : plain)
  const text = isUpgrade ? await client.until('\r\n\r\n') : await client.all()
  const valuesOf = (name: string) =>
    [...text.matchAll(new RegExp(`^${name}: (.*?)\\r$`, 'gim'))].map(([, value]) => value as string)
  return {
    status: Number(/^HTTP\/1\.1 ([0-9]+)/.exec(text)?.[1]),
    origin: valuesOf('X-Origin')[0] ?? '',
    setCookie: valuesOf('Set-Cookie'),
    cacheControl: valuesOf('Cache-Control'),
    text,
  }
}

/** What the client sends from then on: `headrace=…`. */
function cookieOf({ setCookie }: Seen): string {
  return setCookie[0]?.split(';')[0] ?? ''
}

function cookies(...values: string[]): Field[] {
  return values.map((value) => field('Cookie', value))
}

const named = (name: string) => `headrace=${markOf(name)}`

t.test(
  'what a cookie calls a backend is the same in every process, on every machine, in each release',
  (t) => {
    // Computed by another program, from the words of director.ts.
    t.strictSame(['a', 'b', 'ws_backend', 'ключ'].map(markOf), [
      'ypeBEsobvcr6wjGz',
      'PiPoFgA5WUoziU9l',
      'k7sRiKFurbDsbkzh',
      'HeNqMq95jaDBrJKX',
    ])
    t.end()
  },
)

t.test('cookies: those of a name are found in all fields, and in no other name', (t) => {
  t.strictSame(cookieValues(cookies('sid=1; headrace=x;sid = 2 ', 'a="b; sid=3'), 'sid'), ['1', '2', '3'])
  t.strictSame(cookieValues(cookies('SID=1; asid=2; sid; =sid; sid=; sid=a=b'), 'sid'), ['', 'a=b'])
  t.strictSame(cookieValues([field('X-Cookie', 'sid=1')], 'sid'), [])
  t.end()
})

t.test('cookies: what is cut out is gone, and the rest keeps its bytes', (t) => {
  const cut = (...values: string[]) => withoutCookie(cookies(...values), 'h').map(({ value }) => value)
  t.strictSame(cut('h=1'), [])
  t.strictSame(cut('h=1; a=2'), ['a=2'])
  t.strictSame(cut('a=1; h=2; b=3'), ['a=1; b=3'])
  t.strictSame(cut('a=1;h=2;b=3;h=4'), ['a=1;b=3'])
  t.strictSame(cut('a=1; h =2'), ['a=1'])
  t.strictSame(cut('h=1', 'a=1;  b=2', 'h=2;c'), ['a=1;  b=2', 'c'])
  t.strictSame(cut('H=1; hh=2; h', ';;'), ['H=1; hh=2; h', ';;'])
  const untouched = [field('cOOKIE', 'a=1; b=2'), field('Host', 'h=1')]
  t.strictSame(withoutCookie(untouched, 'h'), untouched)
  t.strictSame(withoutCookie([field('cOOKIE', 'a=1; h=2')], 'h'), [field('cOOKIE', 'a=1')])

  const bytes = fc.stringMatching(/^[\t\x20-\x7e\x80-\xff]{0,40}$/)
  const name = fc.constantFrom('h', 'a', 'hh')
  const pair = fc.tuple(name, fc.constantFrom('=', ' = ', ''), bytes, fc.constantFrom(';', '; ', ' ;\t'))
  const value = fc.array(
    fc.oneof(
      bytes,
      pair.map((parts) => parts.join('')),
    ),
    { maxLength: 6 },
  )
  fc.assert(
    fc.property(fc.array(value, { maxLength: 3 }), (values) => {
      const before = cookies(...values.map((parts) => parts.join('')))
      const after = withoutCookie(before, 'h')
      if (cookieValues(after, 'h').length > 0) return false
      if (cookieValues(before, 'h').length === 0 && after.some((one, at) => one !== before[at])) return false
      return ['a', 'hh', 'H'].every(
        (other) => cookieValues(before, other).join('\n') === cookieValues(after, other).join('\n'),
      )
    }),
    { numRuns: 2_000 },
  )
  t.end()
})

t.test('an answer that sets it is for no shared cache', (t) => {
  const of = (...values: string[]) => {
    const fields = values.map((value) => field('cache-control', value))
    const { length } = fields
    return withSetCookie(fields, 'h=1')
      .slice(length)
      .map(({ name, value }) => `${name}: ${value}`)
  }
  const both = ['Set-Cookie: h=1', 'Cache-Control: private']
  t.strictSame(of(), both)
  t.strictSame(of('public, max-age=600'), both)
  t.strictSame(of('private="set-cookie"', 'max-age=1'), both)
  for (const enough of ['private', 'max-age=1, Private', 'no-store'])
    t.strictSame(of(enough), both.slice(0, 1))
  t.strictSame(withSetCookie([field('A', 'b')], null), [field('A', 'b')])
  t.end()
})

t.test('the first answer sets a cookie, and whoever sends it comes back to the same backend', async (t) => {
  const { address } = await startPool(t, { names: ['a', 'b', 'c'] })
  const reached = new Set<string>()
  for (let count = 0; count < 30; count += 1) {
    const isUpgrade = count % 2 === 0
    const first = await ask(t, address, { isUpgrade })
    t.equal(first.status, isUpgrade ? 101 : 200)
    t.strictSame(first.setCookie, [`${named(first.origin)}; Path=/; HttpOnly; SameSite=Lax`])
    t.strictSame(first.cacheControl, ['private'])
    reached.add(first.origin)
    for (const again of [true, false, true]) {
      const seen = await ask(t, address, { isUpgrade: again, fields: { Cookie: cookieOf(first) } })
      t.equal(seen.origin, first.origin)
      t.strictSame(seen.setCookie, [], 'the client has it')
      t.strictSame(seen.cacheControl, [])
    }
  }
  t.strictSame([...reached].sort(), ['a', 'b', 'c'], 'newcomers are still spread')
})

t.test('each policy decides about newcomers, and only about them', async (t) => {
  for (const [policy, more] of [
    ['leastConnections', {}],
    ['hash', { hash: { query: 'room' } }],
    ['fallback', {}],
  ] as const) {
    const { address } = await startPool(t, { director: { policy, ...more } })
    const first = await ask(t, address, { isUpgrade: true, path: '/?room=1' })
    const other = first.origin === 'a' ? 'b' : 'a'
    for (const room of [1, 2, 3, 4, 5]) {
      const asking = { isUpgrade: true, path: `/?room=${room}`, fields: { Cookie: named(other) } }
      t.equal((await ask(t, address, asking)).origin, other, policy)
    }
    if (policy !== 'fallback') continue
    t.equal((await ask(t, address, { isUpgrade: true })).origin, 'a')
  }
})

t.test('origins never see it, and every other cookie as it was sent', async (t) => {
  const { address, sites } = await startPool(t, { names: ['a'] })
  const sent = [
    [`${named('a')}`, []],
    [`sid="1";  ${named('a')}; b=2`, ['sid="1"; b=2']],
    ['a=1;b=2 ; c', ['a=1;b=2 ; c']],
    [`headrace=forged; Headrace=mine`, ['Headrace=mine']],
  ] as const
  for (const isUpgrade of [false, true]) {
    for (const [value, wanted] of sent) {
      await ask(t, address, { isUpgrade, fields: { Cookie: value } })
      t.strictSame(sites.a?.cookies.at(-1), wanted, value)
    }
  }
  await ask(t, address, { fields: { Cookie: named('a'), COOKIE: 'x=1; headrace=', cookie: 'y=2' } })
  t.strictSame(sites.a?.cookies.at(-1), ['x=1', 'y=2'])
})

t.test('its attributes: what is configured, and Secure if the client has come by TLS', async (t) => {
  const tls = await selfSigned({ names: ['chat.test'] })
  const listeners = [
    { address: '127.0.0.1:0' },
    { address: '127.0.0.1:0', tls },
    { address: '127.0.0.1:0', forwarded: { from: ['127.0.0.1'] } },
  ]
  const rows: readonly (readonly [Partial<StickyInput>, string, string])[] = [
    [{}, 'Path=/; HttpOnly; SameSite=Lax', 'Path=/; HttpOnly; Secure; SameSite=Lax'],
    [
      { path: '/socket.io/', maxAge: '1h', sameSite: 'strict', secure: 'on' },
      'Path=/socket.io/; Max-Age=3600; HttpOnly; Secure; SameSite=Strict',
      'Path=/socket.io/; Max-Age=3600; HttpOnly; Secure; SameSite=Strict',
    ],
    [{ secure: 'off' }, 'Path=/; HttpOnly; SameSite=Lax', 'Path=/; HttpOnly; SameSite=Lax'],
    [
      { sameSite: 'none' },
      'Path=/; HttpOnly; Secure; SameSite=None',
      'Path=/; HttpOnly; Secure; SameSite=None',
    ],
    [
      { sameSite: 'none', partitioned: true },
      'Path=/; HttpOnly; Secure; SameSite=None; Partitioned',
      'Path=/; HttpOnly; Secure; SameSite=None; Partitioned',
    ],
  ]
  for (const [sticky, byTcp, byTls] of rows) {
    const { addresses } = await startPool(t, { names: ['a'], sticky, listeners })
    const [tcp = '', secure = '', trusting = ''] = addresses
    const https = { 'X-Forwarded-Proto': 'https' }
    for (const isUpgrade of [false, true]) {
      const setBy = async (address: string, asking: Asking) =>
        (await ask(t, address, { isUpgrade, ...asking })).setCookie
      t.strictSame(await setBy(tcp, {}), [`${named('a')}; ${byTcp}`])
      t.strictSame(await setBy(secure, { isTls: true }), [`${named('a')}; ${byTls}`])
      t.strictSame(await setBy(tcp, { fields: https }), [`${named('a')}; ${byTcp}`], 'anybody could say so')
      t.strictSame(await setBy(trusting, { fields: https }), [`${named('a')}; ${byTls}`])
      t.strictSame(await setBy(trusting, {}), [`${named('a')}; ${byTcp}`])
      t.strictSame(await setBy(trusting, { fields: { 'X-Forwarded-Proto': 'wss, ws' } }), [
        `${named('a')}; ${byTls}`,
      ])
    }
  }
})

t.test('with maxAge its time begins anew with each answer', async (t) => {
  const { address } = await startPool(t, { sticky: { maxAge: '90s' } })
  for (const isUpgrade of [false, true]) {
    const { setCookie, origin } = await ask(t, address, { isUpgrade, fields: { Cookie: named('b') } })
    t.equal(origin, 'b')
    t.strictSame(setCookie, [`${named('b')}; Path=/; Max-Age=90; HttpOnly; SameSite=Lax`])
  }
})

t.test('forged, foreign and several cookies: whom none names is a newcomer', async (t) => {
  const { address, sites } = await startPool(t, {
    names: ['a', 'b', 'elsewhere'],
    director: { backends: ['a', 'b'] },
  })
  const { address: place } = sites.elsewhere as Site
  const forged = [
    '',
    '"',
    'a',
    place,
    markOf(place),
    markOf('elsewhere'),
    `${markOf('a')}x`,
    `"${markOf('a')}"`,
  ]
  for (const value of [...forged, 'x'.repeat(8_000), '\xff', '__proto__', 'constructor']) {
    const seen = await ask(t, address, { fields: { Cookie: `headrace=${value}` } })
    t.match(seen.origin, /^[ab]$/, `headrace=${value.slice(0, 20)}`)
    t.equal(cookieOf(seen), named(seen.origin))
  }
  t.equal(sites.elsewhere?.cookies.length, 0, 'no cookie leads out of the director')
  for (const value of [
    `headrace=gone; ${named('b')}`,
    `${named('b')}; ${named('a')}`,
    `a=1;${named('b')};headrace=x`,
  ]) {
    const seen = await ask(t, address, { isUpgrade: true, fields: { Cookie: value } })
    t.equal(seen.origin, 'b', value)
    t.strictSame(seen.setCookie, [], 'the first that names one')
  }
})

t.test('a backend that is gone loses its clients to another, and does not get them back', async (t) => {
  const { address, sites } = await startPool(t)
  await sites.a?.stop()
  for (const isUpgrade of [false, true]) {
    const moved = await ask(t, address, { isUpgrade, fields: { Cookie: named('a') } })
    t.equal(moved.origin, 'b')
    t.equal(cookieOf(moved), named('b'), 'of the one that was reached')
  }
  await sites.a?.revive()
  const later = await ask(t, address, { fields: { Cookie: named('b') } })
  t.equal(later.origin, 'b')
  t.strictSame(later.setCookie, [])
})

t.test('so does one that is ejected or down, without being tried, and one that is full', async (t) => {
  const ejecting = await startPool(t, { backend: { ejection: { failures: 1, for: '1h', max: '1h' } } })
  await ejecting.sites.a?.stop()
  t.equal((await ask(t, ejecting.address, { fields: { Cookie: named('a') } })).origin, 'b')
  await ejecting.health()
  await ejecting.sites.a?.revive()
  const moved = await ask(t, ejecting.address, { fields: { Cookie: named('a') } })
  t.equal(moved.origin, 'b')
  t.equal(cookieOf(moved), named('b'))

  const checked = await startPool(t, {
    backend: { health: { check: 'tcp', interval: 10, timeout: '5s', rise: 1, fall: 1 } },
  })
  await checked.sites.a?.stop()
  t.match(await checked.health(), { backend: 'a', health: 'unhealthy' })
  t.equal((await ask(t, checked.address, { isUpgrade: true, fields: { Cookie: named('a') } })).origin, 'b')
  t.strictSame(checked.tunnel.backends()[0]?.failures, {}, 'nobody has dialled it')
  await checked.sites.a?.revive()
  t.match(await checked.health(), { backend: 'a', health: 'healthy' })
  t.equal((await ask(t, checked.address, { isUpgrade: true, fields: { Cookie: named('a') } })).origin, 'a')

  const full = await startPool(t, { backend: { maxConnections: 1 } })
  t.equal((await ask(t, full.address, { isUpgrade: true, fields: { Cookie: named('a') } })).origin, 'a')
  const spilled = await ask(t, full.address, { isUpgrade: true, fields: { Cookie: named('a') } })
  t.equal(spilled.origin, 'b')
  t.equal(cookieOf(spilled), named('b'))
})

t.test(
  'weight 0 drains: who has its cookie stays, newcomers go elsewhere, unless there is nowhere',
  async (t) => {
    for (const policy of ['random', 'leastConnections', 'hash'] as const) {
      const { address, sites } = await startPool(t, {
        names: ['old', 'new'],
        director: { policy, backends: [{ name: 'old', weight: 0 }, 'new'] },
      })
      for (let count = 0; count < 10; count += 1) {
        t.equal((await ask(t, address)).origin, 'new', policy)
        t.equal((await ask(t, address, { fields: { Cookie: named('old') } })).origin, 'old')
      }
      await sites.new?.stop()
      t.equal((await ask(t, address)).origin, 'old', 'better than nobody')
    }
  },
)

t.test(
  'two directors with the same backends share the cookie: what is sent and what is handed off',
  async (t) => {
    const sticky = { cookie: 'headrace' }
    const { address } = await startPool(t, {
      service: {
        directors: [
          { name: 'http', backends: ['a', 'b'], sticky },
          { name: 'sockets', backends: ['b', 'a'], policy: 'leastConnections', sticky },
        ],
        routes: [{ match: { upgrade: 'websocket' }, handoff: 'sockets' }, { send: 'http' }],
      },
    })
    for (let count = 0; count < 20; count += 1) {
      const first = await ask(t, address)
      const second = await ask(t, address, { isUpgrade: true, fields: { Cookie: cookieOf(first) } })
      t.equal(second.origin, first.origin)
      t.strictSame(second.setCookie, [])
    }
  },
)

t.test('whatever an origin answers sets it, and nothing that Headrace says by itself', async (t) => {
  const failing = await startPool(t, {
    names: ['a'],
    site: { status: 404, fields: [['Set-Cookie', 'sid=1']] },
  })
  const missing = await ask(t, failing.address)
  t.equal(missing.status, 404)
  t.strictSame(missing.setCookie, ['sid=1', `${named('a')}; Path=/; HttpOnly; SameSite=Lax`])
  const refused = await ask(t, failing.address, { isUpgrade: true, path: '/refused' })
  t.match(refused.text, /^HTTP\/1\.1 403 Forbidden\r\n/)
  t.equal(cookieOf(refused), named('a'))
  t.match(await failing.refused(), { code: 'answer-refused', status: 403 })
  await failing.sites.a?.stop()
  for (const isUpgrade of [false, true]) {
    const dead = await ask(t, failing.address, { isUpgrade, fields: { Cookie: named('a') } })
    t.equal(dead.status, 502)
    t.strictSame(dead.setCookie, [])
    t.match(await failing.refused(), { code: 'dial-refused' })
  }

  const { address } = await startPool(t, {
    service: {
      gate: { rules: [{ name: 'nobody', action: 'deny' }] },
      routes: [{ match: { path: '/here' }, respond: { status: 200, body: 'ok' } }, ...EVERYTHING],
    },
  })
  for (const [asking, status] of [
    [{ isUpgrade: true }, 403],
    [{ path: '/here' }, 200],
  ] as const) {
    const seen = await ask(t, address, asking)
    t.equal(seen.status, status)
    t.strictSame(seen.setCookie, [])
  }
})

t.test('on one connection, request after request', async (t) => {
  const { address } = await startPool(t)
  const client = await connectTo(t, address)
  const get = (fields = '') => `GET / HTTP/1.1\r\nHost: chat.test\r\n${fields}\r\n`
  const heads: string[] = []
  for (const name of ['a', 'b', 'a', 'b']) {
    const before = client.text.length
    client.write(get(`Cookie: ${named(name)}\r\n`))
    await client.until(before + 1)
    await client.until(client.text.indexOf('\r\n\r\n', before) + `\r\n\r\nthis is ${name}`.length)
    heads.push(client.text.slice(before))
  }
  t.strictSame(
    heads.map((head) => /this is (.)/.exec(head)?.[1]),
    ['a', 'b', 'a', 'b'],
    'a connection is nobody’s',
  )
  t.notMatch(client.text, /set-cookie/i)
})

t.test('handlers and embedders name the director, and that is all', async (t) => {
  const handled = await startPool(t, {
    service: {
      routes: undefined,
      handler(request) {
        // What is no origin's business is still what the client has sent.
        request.headers.delete('cookie')
        return request.isUpgrade ? handoff(request, 'pool') : send(request, 'pool')
      },
    } as Partial<ServiceInput>,
  })
  for (const isUpgrade of [false, true, false, true]) {
    const first = await ask(t, handled.address, { isUpgrade })
    t.equal(cookieOf(first), named(first.origin))
    for (const name of ['a', 'b']) {
      const seen = await ask(t, handled.address, { isUpgrade, fields: { Cookie: `${named(name)}; sid=1` } })
      t.equal(seen.origin, name)
      t.strictSame(seen.setCookie, [])
      t.strictSame(handled.sites[name]?.cookies.at(-1), [])
    }
  }

  const { tunnel } = await startPool(t)
  const server = createServer().on('upgrade', (request, socket, head) => {
    tunnel.upgrade(request, socket, head, 'pool')
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const { port } = server.address() as { port: number }
  for (const name of ['a', 'b', 'b', 'a']) {
    const asking = { isUpgrade: true, fields: { Cookie: named(name) } }
    t.equal((await ask(t, `127.0.0.1:${port}`, asking)).origin, name)
  }
  const first = await ask(t, `127.0.0.1:${port}`, { isUpgrade: true })
  t.equal(cookieOf(first), named(first.origin))
})

const FASTLY = `import { createWebsocketHandoff } from 'fastly:websocket'
addEventListener('fetch', (event) => {
  const { request } = event
  const isUpgrade = request.headers.get('upgrade') === 'websocket'
  event.respondWith(isUpgrade ? createWebsocketHandoff(request, 'pool') : fetch(request, { backend: 'pool' }))
})`

const WORKER = 'export default { fetch: (request) => fetch(request) }'

t.test('so do the programs of other products, with what they fetch and what they hand off', async (t) => {
  const folder = newFolder(t, { 'main.js': FASTLY, 'worker.js': WORKER })
  for (const program of [
    { fastly: join(folder, 'main.js') },
    { worker: join(folder, 'worker.js'), backend: 'pool' },
  ]) {
    const service = { routes: undefined, program } as Partial<ServiceInput>
    const { address, sites } = await startPool(t, { service, site: { fields: [['Set-Cookie', 'sid=1']] } })
    for (const isUpgrade of [false, true]) {
      const first = await ask(t, address, { isUpgrade })
      t.equal(first.setCookie.at(-1), `${named(first.origin)}; Path=/; HttpOnly; SameSite=Lax`)
      for (const name of ['a', 'b', 'b', 'a']) {
        const fields = { Cookie: `x=1; ${named(name)}` }
        const seen = await ask(t, address, { isUpgrade, fields })
        t.equal(seen.origin, name)
        t.strictSame(seen.setCookie, isUpgrade ? [] : ['sid=1'])
        t.strictSame(sites[name]?.cookies.at(-1), ['x=1'])
      }
    }
  }
})

t.test('without it nothing is set, and no cookie is touched', async (t) => {
  const { address, sites } = await startPool(t, { names: ['a'], director: { sticky: undefined } as never })
  for (const isUpgrade of [false, true]) {
    const seen = await ask(t, address, { isUpgrade, fields: { Cookie: named('a') } })
    t.strictSame(seen.setCookie, [])
    t.strictSame(sites.a?.cookies.at(-1), [named('a')])
  }
})
