// Who decides what: services, routes, handlers, header rules, and what the origin gets of it.

import { once } from 'node:events'
import { createServer } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import t, { type Test } from 'tap'
import { createTunnel, createWebsocketHandoff, HeadraceError, handoff } from '../../src/index.ts'
import { selfSigned } from '../support/certificates.ts'
import { echo, startOrigin, switching, upgradeRequest } from '../support/origin.ts'
import { connectTo } from '../support/peer.ts'
import type { Wanted } from '../support/tunnel.ts'
import { startTunnel } from '../support/tunnel.ts'

/** The head that an origin gets of an upgrade request. */
async function headAtOrigin(t: Test, wanted: Wanted, request: string): Promise<string> {
  const origin = await startOrigin(t)
  const { address } = await startTunnel(t, origin.address, wanted)
  const client = await connectTo(t, address)
  client.write(request)
  const peer = await origin.next()
  const head = await peer.until('\r\n\r\n')
  peer.write(switching(head))
  await client.until('\r\n\r\n')
  return head
}

/** The status that a client gets. */
async function statusOf(t: Test, address: string, request: string): Promise<number> {
  const client = await connectTo(t, address)
  client.write(request)
  return Number((await client.until('\r\n\r\n')).split(' ')[1])
}

t.test(
  'services by host: exact before wildcard before all; 421 for none; 403 while WebSockets are off',
  async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const backends = [{ name: 'origin', address: origin.address }]
    const on = { websockets: 'on', backends } as const
    const tunnel = createTunnel({
      services: [
        { id: 'exact', domains: ['chat.example.com'], ...on },
        { id: 'wild', domains: ['*.example.com'], ...on },
        { id: 'deep', domains: ['*.eu.example.com'], ...on },
        { id: 'off', domains: ['off.test'], backends },
      ],
    })
    t.teardown(() => tunnel.close())
    const found: string[] = []
    tunnel.on('accepted', ({ service }) => found.push(service))
    const codes: string[] = []
    tunnel.on('refused', ({ code }) => codes.push(code))
    const { addresses } = await tunnel.listen([{ address: '127.0.0.1:0' }])
    const [address = ''] = addresses
    for (const host of [
      'chat.example.com',
      'CHAT.Example.com:8080',
      'chat.example.com.',
      'a.example.com',
      'b.a.example.com',
      'x.eu.example.com',
    ]) {
      t.equal(await statusOf(t, address, upgradeRequest({ Host: host })), 101, host)
    }
    t.same(found, ['exact', 'exact', 'exact', 'wild', 'wild', 'deep'])
    t.equal(await statusOf(t, address, upgradeRequest({ Host: 'example.com' })), 421)
    const off = await connectTo(t, address)
    off.write(upgradeRequest({ Host: 'off.test' }))
    t.match(await off.all(), /^HTTP\/1\.1 403 [\s\S]*WebSockets are switched off for this service/)
    t.same(codes, ['service-unknown', 'websockets-off'])
  },
)

t.test('routes: the first that matches by upgrade, path, method and field', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const say = (status: number) => ({ respond: { status } })
  const { address, refused } = await startTunnel(t, origin.address, {
    service: {
      routes: [
        { match: { path: '/exact' }, ...say(201) },
        { match: { path: '/below/*' }, ...say(202) },
        { match: { path: '/rooms/:id/ws' }, ...say(203) },
        { match: { headers: { 'X-Beta': '1' } }, ...say(206) },
        { match: { headers: { 'X-Any': true } }, ...say(207) },
        { match: { upgrade: 'none', method: ['GET', 'HEAD'] }, ...say(208) },
        { match: { upgrade: 'websocket', path: '/chat' }, handoff: 'origin' },
      ],
    },
  })
  const expected: [string, number][] = [
    [upgradeRequest({}, '/exact?x=1'), 201],
    [upgradeRequest({}, '/below/a/b'), 202],
    [upgradeRequest({}, '/rooms/7/ws'), 203],
    [upgradeRequest({}, '/rooms/7/8/ws'), 404],
    [upgradeRequest({}, '/Exact'), 404],
    [upgradeRequest({}, '/below'), 404],
    [upgradeRequest({ 'x-beta': '1' }), 206],
    [upgradeRequest({ 'X-Beta': '2' }), 101],
    [upgradeRequest({ 'X-Any': 'whatever' }), 207],
    ['GET / HTTP/1.1\r\nHost: chat.test\r\n\r\n', 208],
    ['POST / HTTP/1.1\r\nHost: chat.test\r\nContent-Length: 0\r\n\r\n', 426],
    [upgradeRequest(), 101],
  ]
  for (const [request, status] of expected)
    t.equal(await statusOf(t, address, request), status, request.split('\r\n')[0] ?? '')
  t.equal((await refused()).code, 'route-missing')
})

t.test('header rules of service and route, after each other; overrideHost wins', async (t) => {
  const head = await headAtOrigin(
    t,
    {
      backend: { overrideHost: 'inner.test:9000' },
      service: {
        headers: { set: { 'X-One': 'service', 'X-Two': 'service', Host: 'rule.test' }, remove: ['X-Debug'] },
        routes: [{ handoff: 'origin', headers: { set: { 'X-Two': 'route' }, add: { 'X-One': 'again' } } }],
      },
    },
    upgradeRequest({ 'X-Debug': '1', 'x-one': 'client' }),
  )
  t.match(head, /\r\nX-One: service\r\n[\s\S]*\r\nX-Two: route\r\nX-One: again\r\n/)
  t.notMatch(head, /X-Debug|client/)
  t.match(head, /\r\nHost: inner\.test:9000\r\n/)
  t.equal(head.match(/^host:/gim)?.length, 1)
  t.match(head, /\r\nX-Forwarded-Host: chat\.test\r\n/)
})

t.test('what a handler changes is what the origin gets; it sees who asks', async (t) => {
  const seen: unknown[] = []
  const head = await headAtOrigin(
    t,
    {
      service: {
        handler: (request, context) => {
          const { method, url, path, host, isUpgrade, service, tls } = request
          seen.push({ method, url, path, host, isUpgrade, service, tls, room: request.query.get('room') })
          seen.push(request.client.address, request.headers.get('x-list'), context.signal.aborted)
          request.headers.set('x-list', 'changed')
          request.headers.append('X-New', 'ä'.normalize('NFC'))
          request.headers.delete('Origin')
          request.headers.set('Host', 'other.test')
          request.path = '/v2/chat'
          return createWebsocketHandoff(request, 'origin')
        },
      },
    },
    upgradeRequest({ 'X-List': 'a', Origin: 'https://evil.test' }, '/chat?room=7'),
  )
  t.same(seen, [
    {
      method: 'GET',
      url: '/chat?room=7',
      path: '/chat',
      host: 'chat.test',
      isUpgrade: true,
      service: 'chat',
      tls: null,
      room: '7',
    },
    '127.0.0.1',
    'a',
    false,
  ])
  t.match(head, /^GET \/v2\/chat\?room=7 HTTP\/1\.1\r\nHost: other\.test\r\n/)
  t.match(head, /\r\nx-list: changed\r\n/)
  t.match(head, /\r\nX-New: \xe4\r\n/)
  t.notMatch(head, /Origin/)
})

t.test('what a handler must not do throws inside it', async (t) => {
  const thrown: string[] = []
  await headAtOrigin(
    t,
    {
      service: {
        handler: (request) => {
          const attempts = [
            () => request.headers.set('Connection', 'close'),
            () => request.headers.delete('sec-websocket-key'),
            () => request.headers.set('X Y', 'a'),
            () => request.headers.append('X-Y', 'a\nb'),
            () => request.headers.set('X-Y', '\u{1f600}'),
            () => {
              request.url = 'http://elsewhere/'
            },
            () => {
              request.path = '/a b'
            },
            () => {
              request.method = 'POST'
            },
            () => handoff({} as never, 'origin'),
            () => handoff(request, ''),
          ]
          for (const attempt of attempts) {
            try {
              attempt()
              thrown.push('nothing')
            } catch (error) {
              thrown.push(error instanceof HeadraceError ? error.code : String(error))
            }
          }
          return handoff(request, 'origin')
        },
      },
    },
    upgradeRequest(),
  )
  t.same(thrown, Array(10).fill('argument-invalid'))
})

t.test('createWebsocketHandoff speaks as Fastly does', async (t) => {
  const messages: string[] = []
  await headAtOrigin(
    t,
    {
      service: {
        handler: (request) => {
          const loose = createWebsocketHandoff as (...given: unknown[]) => unknown
          const attempts = [
            () => loose(),
            () => loose(request),
            () => loose({}, 'a'),
            () => loose(request, ''),
            () => loose(request, 'x'.repeat(255)),
          ]
          for (const attempt of attempts) {
            try {
              attempt()
            } catch (error) {
              messages.push(String(error))
            }
          }
          t.throws(() => Reflect.construct(createWebsocketHandoff, [request, 'origin']), TypeError)
          t.equal(createWebsocketHandoff.length, 2)
          return createWebsocketHandoff(request, 'origin')
        },
      },
    },
    upgradeRequest(),
  )
  t.same(messages, [
    'TypeError: createWebsocketHandoff: At least 2 arguments required, but only 0 passed',
    'TypeError: createWebsocketHandoff: At least 2 arguments required, but only 1 passed',
    'Error: createWebsocketHandoff: request parameter must be an instance of Request',
    'Error: createWebsocketHandoff: Backend parameter can not be an empty string',
    'Error: createWebsocketHandoff: name can not be more than 254 characters',
  ])
})

t.test('X-Forwarded-*: those of strangers are replaced, those of trusted senders continued', async (t) => {
  const claims = {
    'X-Forwarded-For': '6.6.6.6',
    'X-Forwarded-Proto': 'https',
    'X-Forwarded-Host': 'claimed.test',
    Forwarded: 'for=6.6.6.6',
  }
  const stranger = await headAtOrigin(t, {}, upgradeRequest(claims))
  t.match(
    stranger,
    /\r\nX-Forwarded-For: 127\.0\.0\.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: chat\.test\r\n/,
  )
  t.notMatch(stranger, /6\.6\.6\.6|claimed/)
  const trusted = {
    listeners: [{ address: '127.0.0.1:0', forwarded: { from: ['127.0.0.0/8'] } }],
    service: { forwarded: true },
  }
  const continued = await headAtOrigin(t, trusted, upgradeRequest(claims))
  t.match(continued, /\r\nX-Forwarded-For: 6\.6\.6\.6, 127\.0\.0\.1\r\n/)
  t.match(continued, /\r\nX-Forwarded-Proto: https\r\n/)
  t.match(continued, /\r\nX-Forwarded-Host: claimed\.test\r\n/)
  t.match(continued, /\r\nForwarded: for=6\.6\.6\.6, for=127\.0\.0\.1;host="chat\.test";proto=http\r\n/)
})

t.test('a module is a handler, too; one that is none is told when listening begins', async (t) => {
  const folder = t.testdir({
    'edge.mjs': `export default (request) => ({ kind: 'respond', status: 299, headers: [], body: request.path })`,
    'none.mjs': 'export const nothing = 1',
    'broken.mjs': 'export default (',
  })
  const started = await startTunnel(t, '127.0.0.1:1', { service: { handler: `${folder}/edge.mjs` } })
  t.equal(await statusOf(t, started.address, upgradeRequest()), 299)
  for (const file of ['none.mjs', 'broken.mjs', 'absent.mjs']) {
    await t.rejects(startTunnel(t, '127.0.0.1:1', { service: { handler: `${folder}/${file}` } }), {
      code: 'config-invalid',
    })
  }
})

t.test("another server's upgrade events are taken over, over HTTP and HTTPS", async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const { tunnel, closed, refused } = await startTunnel(t, origin.address)
  const { certificate: cert, key } = await selfSigned({ names: ['chat.test'] })
  for (const server of [createServer(), createTlsServer({ cert, key })]) {
    server.on('request', (_, response) => response.end('the site'))
    server.on('upgrade', (request, socket, head) => {
      const backend = request.url === '/nobody' ? 'nobody' : 'origin'
      tunnel.upgrade(request, socket, head, backend)
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    t.teardown(() => {
      server.close()
      server.closeAllConnections()
    })
    const address = `127.0.0.1:${(server.address() as { port: number }).port}`
    const tls = 'setSecureContext' in server ? {} : undefined
    const client = await connectTo(t, address, tls)
    client.write(`${upgradeRequest()}early`)
    await client.until('early')
    client.end('bye')
    await client.until('bye')
    t.same((await closed()).bytes, { clientToOrigin: 8, originToClient: 8 })
    const wrong = await connectTo(t, address, tls)
    wrong.write(upgradeRequest({ 'Sec-WebSocket-Version': '7' }))
    t.match(await wrong.all(), /^HTTP\/1\.1 426 /)
    t.equal((await refused()).code, 'websocket-version')
    const bodied = await connectTo(t, address, tls)
    bodied.write(`${upgradeRequest({ 'Content-Length': '5' })}he`)
    t.match(await bodied.all(), /^HTTP\/1\.1 400 /)
    t.equal((await refused()).code, 'upgrade-invalid')
    const nobody = await connectTo(t, address, tls)
    nobody.write(upgradeRequest({}, '/nobody'))
    t.match(await nobody.all(), /^HTTP\/1\.1 500 /)
    t.equal((await refused()).code, 'backend-unknown')
  }
})

t.test('options that are wrong are told all at once', (t) => {
  const wrong = { services: [{ id: 'a b', domains: [], backends: [], websokets: 'on' }] }
  t.throws(() => createTunnel(wrong as never), {
    code: 'config-invalid',
    message: /services\[0\]\.id: [\s\S]*services\[0\]\.domains: [\s\S]*did you mean websockets\?/,
  })
  t.end()
})
