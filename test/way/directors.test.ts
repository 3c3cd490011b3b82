// Several origins behind one name: what clients and origins see of directors, of origins that fail and come back, and of checks.

import { once } from 'node:events'
import { createServer as createHttpServer, request as httpRequest } from 'node:http'
import { createServer } from 'node:net'
import t, { type Test } from 'tap'
import { createWebsocketHandoff, handoff, send } from '../../src/index.ts'
import { blackHole } from '../support/black-hole.ts'
import { selfSigned, testAuthority } from '../support/certificates.ts'
import { ownHost } from '../support/host.ts'
import { echo, type Origin, startOrigin, switching, upgradeRequest } from '../support/origin.ts'
import type { Peer } from '../support/peer.ts'
import { connectTo, placeOf } from '../support/peer.ts'
import { startProgram } from '../support/program.ts'
import type { BackendInput, ServiceInput, Started } from '../support/tunnel.ts'
import { startTunnel } from '../support/tunnel.ts'

type DirectorInput = NonNullable<ServiceInput['directors']>[number]

/** A tunnel in front of these backends, all of them in the director `pool`; the policy is `fallback` if nothing else is said. */
function startPool(
  t: Test,
  backends: readonly BackendInput[],
  director: Partial<DirectorInput> = {},
  service: Partial<ServiceInput> = {},
): Promise<Started> {
  const pool: DirectorInput = {
    name: 'pool',
    backends: backends.map(({ name }) => name),
    policy: 'fallback',
    ...director,
  }
  return startTunnel(t, '', { service: { backends: [...backends], directors: [pool], ...service } })
}

/** An address where nobody listens, until `revive` does: on a host of its own, so that no other test is given its port. */
async function deadAddress(
  t: Test,
): Promise<{ address: string; revive(answer: (peer: Peer) => void): Promise<Origin> }> {
  const host = ownHost()
  const server = createServer().listen(0, host)
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return { address: `${host}:${port}`, revive: (answer) => startOrigin(t, { answer, host, port }) }
}

/** One client's upgrade with bytes behind it; resolves with its answer, and with what came back of the bytes. */
async function upgrade(
  t: Test,
  address: string,
  fields: Readonly<Record<string, string>> = {},
  target = '/chat',
): Promise<{ client: Peer; answer: string }> {
  const client = await connectTo(t, address)
  client.write(`${upgradeRequest(fields, target)}early bytes`)
  const answer = await client.until('early bytes').catch(() => client.all())
  return { client, answer }
}

/** An origin that says its name in the 101, then echoes. */
function named(name: string) {
  return async (peer: Peer) => {
    const head = await peer.until('\r\n\r\n').catch(() => null)
    if (head === null) return
    peer.write(switching(head, `X-Origin: ${name}\r\n`))
    peer.write(peer.received.subarray(head.indexOf('\r\n\r\n') + 4))
    peer.socket.pipe(peer.socket)
  }
}

function originOf(answer: string): string {
  return /^X-Origin: (.*?)\r$/m.exec(answer)?.[1] ?? answer
}

function failuresOf({ tunnel }: Started): Record<string, Readonly<Record<string, number>>> {
  return Object.fromEntries(tunnel.backends().map(({ name, failures }) => [name, failures]))
}

t.test('whatever keeps an origin from being reached, the next one gets the request, whole', async (t) => {
  const live = await startOrigin(t)
  const hole = `127.0.0.1:${await blackHole(t)}`
  const impostor = await startOrigin(t, { tls: await selfSigned({ names: ['origin.test'] }) })
  const stranger = await startOrigin(t, {
    tls: await (await testAuthority()).issue({ names: ['else.test'] }),
  })
  const plain = await startOrigin(t, { answer: (peer) => peer.end('no TLS here\r\n') })
  const tls = { tls: true, certHostname: 'origin.test' } as const
  const { address: dead } = await deadAddress(t)
  const started = await startPool(
    t,
    [
      { name: 'refusing', address: dead, overrideHost: 'refusing.test' },
      { name: 'silent', address: hole, connectTimeout: 100 },
      { name: 'impostor', address: impostor.address, ...tls },
      { name: 'stranger', address: stranger.address, ...tls },
      { name: 'plain', address: plain.address, ...tls },
      { name: 'nameless', address: 'no-such-name.invalid:80', connectTimeout: 3_000 },
      { name: 'link-local', address: '169.254.169.254:80' },
      { name: 'socket', address: 'unix:/nowhere/at.sock' },
      { name: 'live', address: live.address, overrideHost: 'live.test' },
    ],
    { timeout: 20_000 },
  )
  const client = await connectTo(t, started.address)
  const bytes = Buffer.alloc(100_000, 'early')
  client.write(upgradeRequest())
  client.write(bytes)
  const origin = await live.next()
  const head = await origin.until('\r\n\r\n')
  t.match(head, /\r\nHost: live\.test\r\n/, 'under the name of the one that is reached')
  origin.write(switching(head))
  await origin.until(head.indexOf('\r\n\r\n') + 4 + bytes.length)
  t.ok(origin.received.subarray(-bytes.length).equals(bytes))
  origin.write('hello')
  await client.until('hello')
  client.end()
  origin.end()
  t.match(await started.closed(), { backend: 'live', origin: live.address, end: 'client-fin-tunnel' })
  t.match(failuresOf(started), {
    refusing: { 'dial-refused': 1 },
    silent: { 'dial-timeout': 1 },
    impostor: { 'certificate-rejected': 1 },
    stranger: { 'certificate-rejected': 1 },
    plain: { 'origin-tls-failed': 1 },
    'link-local': { 'address-forbidden': 1 },
    socket: { 'dial-refused': 1 },
    live: {},
  })
  t.match(Object.keys(failuresOf(started).nameless ?? {}), [/^(name-unresolved|dial-timeout)$/])
  t.ok(started.tunnel.backends().every(({ connections }) => connections === 0))
})

t.test(
  'a full backend leads to the next one, and the last one’s failure is what the client gets',
  async (t) => {
    const [one, two] = [
      await startOrigin(t, { answer: named('one') }),
      await startOrigin(t, { answer: named('two') }),
    ]
    const started = await startPool(t, [
      { name: 'one', address: one.address, maxConnections: 1 },
      { name: 'two', address: two.address, maxConnections: 1 },
    ])
    t.equal(originOf((await upgrade(t, started.address)).answer), 'one')
    const { client, answer } = await upgrade(t, started.address)
    t.equal(originOf(answer), 'two')
    const refused = await upgrade(t, started.address)
    t.match(refused.answer, /^HTTP\/1\.1 503 /)
    t.match(await started.refused(), {
      code: 'backend-full',
      detail: 'two has 1 connections',
      end: 'edge-refused-dial',
    })
    client.end()
    await started.closed()
    t.equal(originOf((await upgrade(t, started.address)).answer), 'two')
    t.ok(
      started.tunnel.backends().every(({ health }) => health === 'healthy'),
      'a full house is no illness',
    )
  },
)

t.test('each backend is dialled once, as many as attempts says, for as long as timeout says', async (t) => {
  const [dead, other] = [await deadAddress(t), await deadAddress(t)]
  const live = await startOrigin(t, { answer: echo })
  const all = await startPool(t, [
    { name: 'dead', address: dead.address },
    { name: 'other', address: other.address },
  ])
  t.match((await upgrade(t, all.address)).answer, /^HTTP\/1\.1 502 /)
  const last = await all.refused()
  t.match(last, { code: 'dial-refused', end: 'origin-refused-dial', detail: `ECONNREFUSED ${other.address}` })
  t.strictSame(failuresOf(all), { dead: { 'dial-refused': 1 }, other: { 'dial-refused': 1 } })

  const few = await startPool(
    t,
    [
      { name: 'dead', address: dead.address },
      { name: 'other', address: other.address },
      { name: 'live', address: live.address },
    ],
    { attempts: 2 },
  )
  t.match((await upgrade(t, few.address)).answer, /^HTTP\/1\.1 502 /)

  const hole = `127.0.0.1:${await blackHole(t)}`
  const short = await startPool(
    t,
    [
      { name: 'first', address: hole, connectTimeout: 150 },
      { name: 'second', address: hole, connectTimeout: 600_000 },
      { name: 'live', address: live.address },
    ],
    { timeout: 300 },
  )
  t.match((await upgrade(t, short.address)).answer, /^HTTP\/1\.1 504 /)
  t.match(await short.refused(), { code: 'dial-timeout', detail: /^second, / })
  t.strictSame(
    failuresOf(short),
    { first: { 'dial-timeout': 1 }, second: {}, live: {} },
    'cut short is no failure',
  )
  t.equal(live.count, 0)
})

for (const how of ['reset', 'end', 'nonsense'] as const) {
  t.test(`a request that was sent is never sent to another origin: ${how}`, async (t) => {
    const [one, two] = [await startOrigin(t), await startOrigin(t, { answer: echo })]
    const started = await startPool(t, [
      { name: 'one', address: one.address },
      { name: 'two', address: two.address },
    ])
    const client = await connectTo(t, started.address)
    client.write(upgradeRequest())
    const peer = await one.next()
    await peer.until('\r\n\r\n')
    if (how === 'nonsense') peer.end('nonsense\r\n\r\n')
    else peer[how]()
    t.match(await client.all(), /^HTTP\/1\.1 502 /)
    t.match((await started.refused()).code, /^answer-(reset|closed|malformed)$/)
    t.equal(two.count, 0)
  })
}

t.test('a client that leaves takes the attempts with it', async (t) => {
  const hole = `127.0.0.1:${await blackHole(t)}`
  const live = await startOrigin(t, { answer: echo })
  const started = await startPool(
    t,
    [
      { name: 'silent', address: hole, connectTimeout: 600_000 },
      { name: 'live', address: live.address },
    ],
    { timeout: 600_000 },
  )
  const client = await connectTo(t, started.address)
  client.write(upgradeRequest())
  while (started.tunnel.backends()[0]?.connections !== 1) await new Promise(setImmediate)
  client.reset()
  t.equal((await started.refused()).end, 'client-reset-dial')
  t.equal(live.count, 0)
  t.strictSame(failuresOf(started), { silent: {}, live: {} })
  t.ok(started.tunnel.backends().every(({ connections }) => connections === 0))
})

t.test(
  'an origin that dies is ejected, left alone, tried again when its time is over, and taken back',
  async (t) => {
    const dying = await deadAddress(t)
    const live = await startOrigin(t, { answer: named('live') })
    const started = await startPool(t, [
      { name: 'dying', address: dying.address, ejection: { failures: 2, for: 300, max: 300 } },
      { name: 'live', address: live.address },
    ])
    for (let count = 0; count < 2; count += 1)
      t.equal(originOf((await upgrade(t, started.address)).answer), 'live')
    t.match(await started.health(), {
      service: 'chat',
      backend: 'dying',
      address: dying.address,
      health: 'unhealthy',
      reason: /^2 failures in a row, the last: the origin refused the connection: ECONNREFUSED /,
    })
    const [status] = started.tunnel.backends()
    t.match(status, { service: 'chat', name: 'dying', directors: ['pool'], health: 'unhealthy' })
    t.ok((status?.ejectedUntil ?? 0) - Date.now() <= 300)
    t.equal(originOf((await upgrade(t, started.address)).answer), 'live')
    await dying.revive(named('back'))
    const back = started.health()
    let isBack = false
    back.then(() => {
      isBack = true
    })
    // Each of them is served while it is away; one of them finds it again.
    while (!isBack) t.match(originOf((await upgrade(t, started.address)).answer), /^(live|back)$/)
    t.match(await back, { backend: 'dying', health: 'healthy', reason: 'it answers again' })
    t.equal(originOf((await upgrade(t, started.address)).answer), 'back')
    t.match(started.tunnel.backends()[0], { health: 'healthy', ejectedUntil: null })
  },
)

t.test(
  'an origin that accepts and never answers is ejected as well, unless answers do not count',
  async (t) => {
    for (const answers of [true, false]) {
      const hung = await startOrigin(t)
      const live = await startOrigin(t, { answer: named('live') })
      const started = await startPool(t, [
        { name: 'hung', address: hung.address, firstByteTimeout: 50, ejection: { failures: 2, answers } },
        { name: 'live', address: live.address },
      ])
      for (let count = 0; count < 2; count += 1) {
        t.match((await upgrade(t, started.address)).answer, /^HTTP\/1\.1 504 /)
        await (await hung.next()).ended
      }
      const third = await upgrade(t, started.address)
      t.match(third.answer, answers ? /X-Origin: live/ : /^HTTP\/1\.1 504 /)
      t.equal(started.tunnel.backends()[0]?.health, answers ? 'unhealthy' : 'healthy')
    }
  },
)

t.test('when all are ejected all are tried, and ejection can be switched off', async (t) => {
  const [one, two] = [await deadAddress(t), await deadAddress(t)]
  const ejection = { failures: 1, for: '1h', max: '1h' }
  const started = await startPool(t, [
    { name: 'one', address: one.address, ejection },
    { name: 'two', address: two.address, ejection },
    { name: 'three', address: one.address, ejection: 'off' },
  ])
  for (let count = 1; count <= 3; count += 1) {
    t.match((await upgrade(t, started.address)).answer, /^HTTP\/1\.1 502 /)
    const each = { 'dial-refused': count }
    t.strictSame(failuresOf(started), { one: each, two: each, three: each })
  }
  t.strictSame(
    started.tunnel.backends().map(({ health }) => health),
    ['unhealthy', 'unhealthy', 'healthy'],
  )
  await two.revive(named('two'))
  t.equal(originOf((await upgrade(t, started.address)).answer), 'two', 'the last resort')
  t.match(
    [await started.health(), await started.health(), await started.health()],
    [
      { backend: 'one', health: 'unhealthy' },
      { backend: 'two', health: 'unhealthy' },
      { backend: 'two', health: 'healthy' },
    ],
  )
})

t.test('a backend in no director is dialled however it fails, as before', async (t) => {
  const { address } = await deadAddress(t)
  const started = await startTunnel(t, address, { backend: { ejection: { failures: 1 } } })
  for (let count = 1; count <= 3; count += 1) {
    t.match((await upgrade(t, started.address)).answer, /^HTTP\/1\.1 502 /)
    t.match(started.tunnel.backends(), [
      { health: 'healthy', directors: [], failures: { 'dial-refused': count } },
    ])
  }
})

t.test('an open tunnel never moves, whatever becomes of its backend', async (t) => {
  const first = await startOrigin(t, { answer: named('first') })
  const second = await startOrigin(t, { answer: named('second') })
  const started = await startPool(t, [
    { name: 'first', address: first.address, ejection: { failures: 1 } },
    { name: 'second', address: second.address },
  ])
  const { client } = await upgrade(t, started.address)
  await first.stop()
  t.equal(originOf((await upgrade(t, started.address)).answer), 'second')
  t.match(await started.health(), { backend: 'first', health: 'unhealthy' })
  client.write('still here')
  await client.until('still here')
  t.match(started.tunnel.backends(), [{ connections: 1 }, { connections: 1 }])
})

/** Where a request says its key. */
interface Way {
  readonly hash: Exclude<DirectorInput['hash'], undefined>
  readonly fields?: (key: string) => Readonly<Record<string, string>>
  readonly target?: (key: string) => string
}

t.test('hash: the same room, cookie, parameter or client finds the same origin', async (t) => {
  const names = ['a', 'b', 'c', 'd']
  const origins = await Promise.all(names.map((name) => startOrigin(t, { answer: named(name) })))
  const backends = origins.map(({ address }, at) => ({ name: names[at] ?? '', address }))
  const ways: readonly Way[] = [
    { hash: { header: 'X-Room' }, fields: (key) => ({ 'x-room': key }) },
    { hash: { cookie: 'sid' }, fields: (key) => ({ Cookie: `side=1; sid=${key}; a=b` }) },
    { hash: { query: 'room' }, target: (key) => `/chat?x=1&room=${key}` },
  ]
  const found: string[][] = []
  for (const { hash, fields = () => ({}), target = () => '/chat' } of ways) {
    const { address } = await startPool(t, backends, { policy: 'hash', hash })
    const keys = Array.from({ length: 12 }, (_, at) => `room-${at}`)
    const visit = async () => {
      const visits = keys.map(async (key) => {
        const { client, answer } = await upgrade(t, address, fields(key), target(key))
        client.socket.destroy()
        return originOf(answer)
      })
      return await Promise.all(visits)
    }
    const once = await visit()
    t.strictSame(await visit(), once)
    t.ok(new Set(once).size > 1, 'not all in one')
    found.push(once)
  }
  t.strictSame(found[0], found[1], 'wherever the key stands')
  t.strictSame(found[1], found[2])
  const { address } = await startPool(t, backends, { policy: 'hash' })
  const home = originOf((await upgrade(t, address)).answer)
  for (let count = 0; count < 5; count += 1) t.equal(originOf((await upgrade(t, address)).answer), home)
})

t.test('least connections: tunnels that stay count, those that are over do not', async (t) => {
  const origins = await Promise.all(['a', 'b'].map((name) => startOrigin(t, { answer: named(name) })))
  const [a, b] = origins.map(({ address }, at) => ({ name: ['a', 'b'][at] ?? '', address }))
  if (a === undefined || b === undefined) return
  const started = await startPool(t, [a, b], {
    policy: 'leastConnections',
    backends: [{ name: 'a', weight: 2 }, 'b'],
  })
  const clients: { client: Peer; name: string }[] = []
  for (let count = 0; count < 30; count += 1) {
    const { client, answer } = await upgrade(t, started.address)
    clients.push({ client, name: originOf(answer) })
  }
  t.match(started.tunnel.backends(), [{ connections: 20 }, { connections: 10 }])
  for (const { client, name } of clients) if (name === 'a') client.reset()
  for (let count = 0; count < 20; count += 1) await started.closed()
  for (let count = 0; count < 15; count += 1) {
    t.equal(originOf((await upgrade(t, started.address)).answer), 'a')
  }
})

t.test('handlers and embedders name a director where they may name a backend', async (t) => {
  const dead = await deadAddress(t)
  const live = await startOrigin(t, { answer: named('live') })
  const backends = [
    { name: 'dead', address: dead.address },
    { name: 'live', address: live.address },
  ]
  const handled = await startPool(
    t,
    backends,
    {},
    {
      handler: (request) =>
        request.path === '/fastly'
          ? createWebsocketHandoff(request, 'pool')
          : handoff(request, request.path.slice(1)),
    },
  )
  t.equal(originOf((await upgrade(t, handled.address, {}, '/pool')).answer), 'live')
  t.equal(originOf((await upgrade(t, handled.address, {}, '/fastly')).answer), 'live')
  t.equal(originOf((await upgrade(t, handled.address, {}, '/live')).answer), 'live')
  t.match((await upgrade(t, handled.address, {}, '/dead')).answer, /^HTTP\/1\.1 502 /, 'the backend itself')
  t.match((await handled.refused()).code, 'dial-refused')
  t.match((await upgrade(t, handled.address, {}, '/pol')).answer, /^HTTP\/1\.1 500 /)
  t.match(await handled.refused(), {
    code: 'backend-unknown',
    detail: '"pol"; service chat has dead, live, pool',
  })

  const server = createHttpServer().on('upgrade', (request, socket, head) =>
    handled.tunnel.upgrade(request, socket, head, 'pool'),
  )
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const { port } = server.address() as { port: number }
  t.equal(originOf((await upgrade(t, `127.0.0.1:${port}`)).answer), 'live')
})

/** A plain request on a connection of its own; `body` is sent in two pieces. */
async function ask(
  address: string,
  method: string,
  body = '',
  fields: Record<string, string> = {},
): Promise<{ status: number; text: string }> {
  const request = httpRequest({
    ...placeOf(address),
    method,
    path: '/page',
    headers: { Host: 'chat.test', ...fields },
  })
  if (body !== '') request.write(body.slice(0, body.length / 2))
  request.end(body.slice(body.length / 2))
  const [answer] = (await once(request, 'response')) as [AsyncIterable<Buffer> & { statusCode: number }]
  let text = ''
  for await (const chunk of answer) text += chunk
  return { status: answer.statusCode, text }
}

/** An HTTP origin that answers with its name, the host it was asked for, and the length of the body. */
async function startSite(
  t: Test,
  name: string,
  port = 0,
): Promise<{ address: string; count(): number; stop(): void }> {
  let count = 0
  const server = createHttpServer(async (request, response) => {
    count += 1
    let size = 0
    for await (const chunk of request) size += (chunk as Buffer).length
    if (request.headers['x-die'] !== undefined) request.socket.destroy()
    else response.end(`${name} ${request.headers.host} ${size}`)
  })
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')
  const stop = () => {
    server.close()
    server.closeAllConnections()
  }
  t.teardown(stop)
  return { address: `127.0.0.1:${(server.address() as { port: number }).port}`, count: () => count, stop }
}

t.test(
  'send: plain requests go on to the next backend, too, with their bodies, and only unsent',
  async (t) => {
    const dead = await deadAddress(t)
    const hole = `127.0.0.1:${await blackHole(t)}`
    const [one, two] = [await startSite(t, 'one'), await startSite(t, 'two')]
    const never = { ejection: 'off' } as const
    const started = await startPool(
      t,
      [
        { name: 'dead', address: dead.address, overrideHost: 'dead.test', ...never },
        { name: 'silent', address: hole, connectTimeout: 50, ...never },
        { name: 'one', address: one.address, overrideHost: 'one.test' },
        { name: 'two', address: two.address },
      ],
      {},
      { handler: (request) => send(request, 'pool') },
    )
    const { address } = started
    t.same(await ask(address, 'GET'), { status: 200, text: 'one one.test 0' })
    const body = 'x'.repeat(1_000_000)
    t.same(await ask(address, 'POST', body), { status: 200, text: 'one one.test 1000000' })
    const length = { 'Content-Length': '1000000' }
    t.same(await ask(address, 'PUT', body, length), { status: 200, text: 'one one.test 1000000' })
    t.match(await ask(address, 'POST', 'body', { 'X-Die': '1' }), { status: 502 })
    t.match(await started.refused(), { code: 'answer-closed', end: 'origin-fin-answer' })
    t.equal(two.count(), 0, 'what was sent is sent to nobody else')
    one.stop()
    t.same(await ask(address, 'POST', body), { status: 200, text: 'two chat.test 1000000' })
    // Nobody of these four can be reached, nor the pool's time waited for.
    two.stop()
    t.match(await ask(address, 'GET'), { status: 502 })
    t.match(await started.refused(), { code: 'dial-refused', detail: `ECONNREFUSED ${two.address}` })
  },
)

t.test(
  'send: the time of a director ends a dial, and a client on a kept connection sees no difference',
  async (t) => {
    const hole = `127.0.0.1:${await blackHole(t)}`
    const site = await startSite(t, 'site')
    const never = { ejection: 'off' } as const
    const started = await startPool(
      t,
      [
        { name: 'silent', address: hole, connectTimeout: 600_000, ...never },
        { name: 'site', address: site.address },
      ],
      { timeout: 100 },
      { routes: [{ match: { path: '/slow' }, send: 'pool' }, { send: 'site' }] },
    )
    const client = await connectTo(t, started.address)
    client.write('GET /slow HTTP/1.1\r\nHost: chat.test\r\n\r\n')
    t.match(await client.all(), /^HTTP\/1\.1 504 /)
    t.match(await started.refused(), { code: 'dial-timeout', detail: /^silent, / })
    t.equal(site.count(), 0)

    const dead = await deadAddress(t)
    const pool = await startPool(
      t,
      [
        { name: 'dead', address: dead.address, ...never },
        { name: 'site', address: site.address },
      ],
      {},
      { routes: [{ send: 'pool' }] },
    )
    const kept = await connectTo(t, pool.address)
    for (let count = 1; count <= 3; count += 1) {
      kept.write('GET / HTTP/1.1\r\nHost: chat.test\r\n\r\n')
      while (kept.text.split('site chat.test 0').length <= count) await once(kept.socket, 'data')
    }
    t.strictSame(failuresOf(pool), { dead: { 'dial-refused': 3 }, site: {} })
  },
)

t.test('send: plain answers that do not come eject as well, and those that do pardon', async (t) => {
  const hung = await startOrigin(t)
  const site = await startSite(t, 'site')
  const started = await startPool(
    t,
    [
      { name: 'hung', address: hung.address, firstByteTimeout: 50, ejection: { failures: 2 } },
      { name: 'site', address: site.address },
    ],
    {},
    { routes: [{ send: 'pool' }] },
  )
  for (let count = 0; count < 2; count += 1) t.match(await ask(started.address, 'GET'), { status: 504 })
  t.match(await started.health(), { backend: 'hung', health: 'unhealthy', reason: /did not answer in time/ })
  t.same(await ask(started.address, 'GET'), { status: 200, text: 'site chat.test 0' })
})

t.test(
  'checks: who fails them gets nothing until they pass again, without a client that finds out',
  async (t) => {
    const dead = await deadAddress(t)
    const live = await startOrigin(t, { answer: named('live') })
    const pair = await (await testAuthority()).issue({ names: ['origin.test'] })
    const verified = await startOrigin(t, { tls: pair, answer: named('verified') })
    const tls = { tls: true, certHostname: 'other.test' } as const
    const often = { interval: 20, timeout: '5s', rise: 2, fall: 2 } as const
    const started = await startPool(t, [
      { name: 'dead', address: dead.address, health: { check: 'tcp', ...often } },
      { name: 'wrong', address: verified.address, ...tls, health: { check: 'tls', ...often } },
      { name: 'live', address: live.address, health: { check: 'tcp', ...often } },
    ])
    const downs = [await started.health(), await started.health()].sort((x, y) =>
      x.backend.localeCompare(y.backend),
    )
    t.match(downs, [
      {
        backend: 'dead',
        health: 'unhealthy',
        reason: /^check tcp: the origin refused the connection: ECONNREFUSED/,
      },
      {
        backend: 'wrong',
        health: 'unhealthy',
        reason: /^check tls: .*certificate is for origin\.test, not other\.test/,
      },
    ])
    t.equal(originOf((await upgrade(t, started.address)).answer), 'live')
    t.strictSame(failuresOf(started), { dead: {}, wrong: {}, live: {} }, 'nobody dialled them')
    await dead.revive(named('back'))
    t.match(await started.health(), { backend: 'dead', health: 'healthy', reason: 'its checks pass' })
    t.equal(originOf((await upgrade(t, started.address)).answer), 'back')
    const [checked] = started.tunnel.backends()
    t.ok(
      (checked?.checks.passed ?? 0) >= 2 && (checked?.checks.failed ?? 0) >= 1,
      JSON.stringify(checked?.checks),
    )
  },
)

t.test('checks by http take a backend out that accepts connections; they end with the tunnel', async (t) => {
  let status = 200
  const asked: string[] = []
  const site = createHttpServer((request, response) => {
    asked.push(request.url ?? '')
    response.writeHead(request.url === '/one' ? status : 200).end()
    site.emit('checked')
  })
  site.on('upgrade', (request, socket) => {
    socket.write(
      switching(`Sec-WebSocket-Key: ${request.headers['sec-websocket-key']}`, 'X-Origin: site\r\n'),
    )
    socket.pipe(socket)
  })
  site.listen(0, '127.0.0.1')
  await once(site, 'listening')
  t.teardown(() => {
    site.close()
    site.closeAllConnections()
  })
  const address = `127.0.0.1:${(site.address() as { port: number }).port}`
  const spare = await startOrigin(t, { answer: named('spare') })
  const often = { interval: 20, timeout: '5s', rise: 1, fall: 2 } as const
  const started = await startPool(t, [
    { name: 'site', address, health: { check: 'http', path: '/one', ...often } },
    { name: 'spare', address: spare.address },
  ])
  const other = await startTunnel(t, address, {
    backend: { health: { check: 'http', path: '/two', ...often } },
  })
  while (!asked.includes('/one') || !asked.includes('/two')) await once(site, 'checked')
  t.equal(originOf((await upgrade(t, started.address)).answer), 'site')
  status = 503
  t.match(await started.health(), {
    backend: 'site',
    health: 'unhealthy',
    reason: 'check http: /one answers with 503',
  })
  t.equal(originOf((await upgrade(t, started.address)).answer), 'spare')
  status = 200
  t.match(await started.health(), { backend: 'site', health: 'healthy' })
  t.equal(originOf((await upgrade(t, started.address)).answer), 'site')

  await started.tunnel.close()
  const until = async (more: number) => {
    const twos = () => asked.filter((path) => path === '/two').length
    const wanted = twos() + more
    while (twos() < wanted) await once(site, 'checked')
  }
  await until(2)
  const ones = asked.filter((path) => path === '/one').length
  await until(10)
  t.equal(asked.filter((path) => path === '/one').length, ones, 'checked no more')
  t.equal(other.tunnel.backends()[0]?.health, 'healthy')
})

t.test('an embedder that never listens has checks, too; they keep no process alive', async (t) => {
  const origin = await startOrigin(t)
  const { address: dead } = await deadAddress(t)
  const folder = t.testdir({
    'embedder.mjs': `import { once } from 'node:events'
import { createServer } from 'node:http'
import { createTunnel } from ${JSON.stringify(new URL('../../../dist/index.js', import.meta.url).href)}
const backends = [
  { name: 'live', address: '${origin.address}', health: { check: 'tcp', interval: '1h' } },
  { name: 'dead', address: '${dead}', health: { check: 'tcp', interval: 10 } },
]
const directors = [{ name: 'pool', backends: ['live', 'dead'] }]
const tunnel = createTunnel({ services: [{ id: 'chat', domains: ['*'], backends, directors }] })
const server = createServer().on('upgrade', (...request) => tunnel.upgrade(...request, 'pool')).listen(0)
const told = once(tunnel, 'health')
await tunnel.listen([])
const [{ backend, health }] = await told
console.log(backend, health)
server.close()
`,
  })
  const program = startProgram(t, [], { script: `${folder}/embedder.mjs` })
  t.match(await program.ended, { code: 0, stdout: 'dead unhealthy\n', stderr: '' })
})

t.test('the program: requests go on, origins are ejected, come back, and the log says so', async (t) => {
  const dying = await deadAddress(t)
  const live = await startOrigin(t, { answer: named('live') })
  const pair = await (await testAuthority()).issue({ names: ['origin.test'] })
  const secure = await startOrigin(t, { tls: pair, answer: named('secure') })
  const folder = t.testdir({
    'headrace.yaml': `
listeners: [{ address: "127.0.0.1:0" }]
services:
  - id: chat
    domains: ["*"]
    websockets: on
    backends:
      - { name: dying, address: "${dying.address}", ejection: { failures: 2, for: 100ms, max: 100ms } }
      - { name: impostor, address: "${secure.address}", tls: on, certHostname: other.test }
      - { name: live, address: "${live.address}" }
      - name: secure
        address: "${secure.address}"
        tls: on
        certHostname: origin.test
        health: { check: tls, interval: 50ms }
    directors:
      - { name: pool, backends: [dying, impostor, live], policy: fallback }
      - { name: checked, backends: [secure] }
    routes:
      - { match: { path: /checked }, handoff: checked }
      - { match: { upgrade: websocket }, handoff: pool }
workers: 2
drainTimeout: 0
`,
  })
  const authority = process.env.NODE_EXTRA_CA_CERTS ?? ''
  const words = ['run', '--config', `${folder}/headrace.yaml`]
  const program = startProgram(t, words, { environment: { NODE_EXTRA_CA_CERTS: authority } })
  const [, address = ''] = /^headrace listens on (\S+)$/.exec(await program.line()) ?? []
  const line = async (msg: string, backend: string): Promise<Record<string, unknown>> => {
    for (;;) {
      const found = JSON.parse(await program.line()) as Record<string, unknown>
      if (found.msg === msg && found.backend === backend) return found
    }
  }
  t.equal(originOf((await upgrade(t, address)).answer), 'live')
  t.match(await line('backend passed over', 'dying'), {
    level: 'info',
    service: 'chat',
    code: 'dial-refused',
    path: '/chat',
  })
  t.match(await line('backend passed over', 'impostor'), { code: 'certificate-rejected' })
  t.match(await line('tunnel accepted', 'live'), { origin: live.address })
  t.equal(originOf((await upgrade(t, address, {}, '/checked')).answer), 'secure')
  // With several processes each of them has to find out for itself.
  let isEjected = false
  const ejected = line('backend unhealthy', 'dying').finally(() => {
    isEjected = true
  })
  while (!isEjected) t.equal(originOf((await upgrade(t, address)).answer), 'live')
  t.match(await ejected, {
    level: 'warn',
    service: 'chat',
    address: dying.address,
    reason: /^2 failures in a row/,
  })
  await dying.revive(named('back'))
  let isBack = false
  const healthy = line('backend healthy', 'dying').finally(() => {
    isBack = true
  })
  while (!isBack) t.match(originOf((await upgrade(t, address)).answer), /^(live|back)$/)
  t.match(await healthy, { level: 'info', reason: 'it answers again' })
  program.child.kill('SIGTERM')
  t.match(await program.ended, { code: 0 })
})
