// Programs of other products, as people have them, in front of real origins: what their clients and their backends see.

import { once } from 'node:events'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer, request as httpRequest } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join, resolve } from 'node:path'
import type { Test } from 'tap'
import t from 'tap'
import type { TroubleEvent } from '../src/index.ts'
import { createTunnel } from '../src/index.ts'
import { newFolder } from './support/control.ts'
import { echo, startOrigin, switching, upgradeRequest } from './support/origin.ts'
import { connectTo } from './support/peer.ts'
import type { ServiceInput, Started } from './support/tunnel.ts'
import { startTunnel } from './support/tunnel.ts'
import { talkTo } from './support/websocket.ts'

const PROGRAMS = resolve('test/programs')

type Answer = (request: IncomingMessage, response: ServerResponse) => void

async function startWeb(t: Test, answer: Answer): Promise<string> {
  const server = createServer(answer).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return `127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** Says what it was asked, as it was sent. */
const mirror: Answer = async (request, response) => {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  const { method, url, rawHeaders } = request
  response.writeHead(200, ['X-Origin', 'Web', 'Set-Cookie', 'a=1', 'set-cookie', 'b=2'])
  response.end(JSON.stringify({ method, url, rawHeaders, body: Buffer.concat(chunks).toString() }))
}

/** A tunnel with a program and the backends of the seed's sample. */
async function start(
  t: Test,
  program: NonNullable<ServiceInput['program']>,
  {
    ws = '127.0.0.1:1',
    web = '127.0.0.1:1',
    ...service
  }: Partial<ServiceInput> & { ws?: string; web?: string } = {},
): Promise<Started & { troubles: TroubleEvent[] }> {
  const backends = [
    { name: 'ws_backend_name', address: ws },
    { name: 'non_ws_backend_name', address: web },
  ]
  const started = await startTunnel(t, ws, { service: { program, backends, ...service } })
  const troubles: TroubleEvent[] = []
  started.tunnel.on('trouble', (event) => troubles.push(event))
  return { ...started, troubles }
}

/** The path of a program with this text. */
function written(t: Test, text: string, name = 'main.js'): string {
  return join(newFolder(t, { [name]: text }), name)
}

async function problemOf(t: Test, program: NonNullable<ServiceInput['program']>): Promise<string> {
  const tunnel = createTunnel({ services: [{ id: 'a', domains: ['*'], program }] })
  t.teardown(() => tunnel.close())
  return await tunnel.listen([{ address: '127.0.0.1:0' }]).then(
    () => 'none',
    (error: Error) => error.message,
  )
}

t.test("the sample of Fastly's page, to the letter", async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const web = await startWeb(t, mirror)
  const started = await start(t, { fastly: join(PROGRAMS, 'fastly-seed.js') }, { ws: origin.address, web })
  const client = await connectTo(t, started.address)
  client.write(upgradeRequest())
  await client.until('\r\n\r\n')
  client.write('through')
  await client.until('through')
  client.end()
  t.match(await started.closed(), {
    backend: 'ws_backend_name',
    bytes: { clientToOrigin: 7, originToClient: 7 },
  })

  const response = await fetch(`http://${started.address}/form?x=%7e`, { method: 'POST', body: 'some body' })
  t.equal(response.status, 200)
  t.equal(response.headers.get('x-origin'), 'Web')
  t.strictSame(response.headers.getSetCookie(), ['a=1', 'b=2'])
  const { rawHeaders, ...asked } = (await response.json()) as { rawHeaders: string[] }
  t.strictSame(asked, { method: 'POST', url: '/form?x=%7e', body: 'some body' })
  t.ok(rawHeaders.join('\n').includes('content-length\n9'), 'with its length')
  const patient = await connectTo(t, started.address)
  patient.write('POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n')
  await patient.until('HTTP/1.1 100 Continue\r\n\r\n')
  patient.write('late')
  await patient.until('"body":"late"')
  t.strictSame(started.troubles, [])
})

t.test(
  'what a program changes on the request is what the origin gets, and nothing else changes',
  async (t) => {
    const origin = await startOrigin(t)
    const file = written(
      t,
      `import { createWebsocketHandoff } from 'fastly:websocket'
     import { env } from 'fastly:env'
     addEventListener('fetch', (event) => {
       const { request, client } = event
       request.headers.set('X-Client', client.address)
       request.headers.set('x-CASE', 'new')
       request.headers.delete('X-Secret')
       request.headers.append('X-Env', env('STAGE') + env('NOTHING'))
       event.respondWith(createWebsocketHandoff(request, 'ws_backend_name'))
     })`,
    )
    const { address } = await start(t, { fastly: file, env: { STAGE: 'test' } }, { ws: origin.address })
    const client = await connectTo(t, address)
    client.write(
      upgradeRequest(
        { 'X-cAsE': 'old', 'X-Secret': '1', 'X-Two': 'a\r\nx-two: b', Cookie: 'a=1; b=2' },
        '/a/../%7e?q=%c3',
      ),
    )
    const peer = await origin.next()
    const head = await peer.until('\r\n\r\n')
    t.equal(
      head.replace(/X-Forwarded-\S+: .*\r\n/g, ''),
      [
        'GET /a/../%7e?q=%c3 HTTP/1.1',
        'Host: chat.test',
        'Upgrade: websocket',
        'Connection: Upgrade',
        'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
        'Sec-WebSocket-Version: 13',
        'X-cAsE: new',
        'X-Two: a',
        'x-two: b',
        'Cookie: a=1; b=2',
        'x-client: 127.0.0.1',
        'x-env: test',
        '\r\n',
      ].join('\r\n'),
    )
    peer.write(switching(head))
    await client.until('\r\n\r\n')
  },
)

t.test('a new Request, with another path and host', async (t) => {
  const origin = await startOrigin(t)
  const file = written(
    t,
    `addEventListener('fetch', (event) => {
       const url = new URL(event.request.url)
       url.pathname = '/v2' + url.pathname
       url.host = 'inner.test'
       event.respondWith(createWebsocketHandoff(new Request(url, event.request), 'ws_backend_name'))
     })`,
  )
  const { address } = await start(t, { fastly: file }, { ws: origin.address })
  const client = await connectTo(t, address)
  client.write(upgradeRequest({}, '/chat?q=1'))
  const head = await (await origin.next()).until('\r\n\r\n')
  t.match(head, /^GET \/v2\/chat\?q=1 HTTP\/1\.1\r\nHost: inner\.test\r\n/)
  t.match(head, /Sec-WebSocket-Key: dGhl/)
})

t.test("createWebsocketHandoff and fetch have Fastly's errors", async (t) => {
  const file = written(
    t,
    `import { createWebsocketHandoff as handoff } from 'fastly:websocket'
     const thrown = (act) => { try { act(); return 'nothing' } catch (error) { return error.name + ': ' + error.message } }
     const outside = thrown(() => handoff(new Request('http://a/'), 'b'))
     addEventListener('fetch', async (event) => {
       event.respondWith((async () => (await null, Response.json([
         outside,
         thrown(() => handoff(event.request)),
         thrown(() => handoff({}, 'b')),
         thrown(() => handoff(event.request, '')),
         thrown(() => handoff(event.request, 'x'.repeat(255))),
         thrown(() => new handoff(event.request, 'b')),
         handoff.length,
         handoff(event.request, 'b') instanceof Response,
         thrown(() => event.respondWith(new Response())),
         await fetch('http://chat.test/x').catch((error) => error.message),
         await fetch('http://chat.test/x', { backend: 'nobody' }).catch((error) => error.message),
       ])))())
     })`,
  )
  const { address } = await start(t, { fastly: file })
  const call = 'createWebsocketHandoff:'
  const missing =
    'Must provide a `backend` property on the `init` object passed to either `new Request()` or `fetch`'
  t.strictSame(await (await fetch(`http://${address}/`)).json(), [
    `Error: ${call} a handoff is only possible while the request is being handled`,
    `TypeError: ${call} At least 2 arguments required, but only 1 passed`,
    `Error: ${call} request parameter must be an instance of Request`,
    `Error: ${call} Backend parameter can not be an empty string`,
    `Error: ${call} name can not be more than 254 characters`,
    'TypeError: handoff is not a constructor',
    2,
    true,
    'InvalidStateError: FetchEvent#respondWith must be called synchronously from within a FetchEvent handler',
    `No backend specified for request with url http://chat.test/x. ${missing}`,
    'the decision names a backend that this service does not have: "nobody"; service chat has ws_backend_name, non_ws_backend_name',
  ])
})

t.test('an answer comes as it is sent, and can be changed on its way', async (t) => {
  let finish: () => void = () => {}
  const web = await startWeb(t, (_request, response) => {
    response.writeHead(201, 'Made', { 'X-Kept': '1', 'X-Removed': '1' })
    response.write('first')
    finish = () => response.end('last')
  })
  const file = written(
    t,
    `addEventListener('fetch', (event) => event.respondWith(answer(event)))
     async function answer(event) {
       const response = await fetch(event.request, { backend: 'non_ws_backend_name' })
       response.headers.delete('X-Removed')
       return new Response(response.body, { status: response.status, statusText: 'Seen', headers: response.headers })
     }`,
  )
  const { address } = await start(t, { fastly: file }, { web })
  const client = await connectTo(t, address)
  client.write('GET / HTTP/1.1\r\nHost: a.test\r\n\r\n')
  const head = await client.until('first')
  t.match(head, /^HTTP\/1\.1 201 Seen\r\nX-Kept: 1\r\n/)
  t.notMatch(head, /X-Removed/i)
  finish()
  await client.until('last')
})

t.test('a program that misbehaves harms its own request, and the log says where', async (t) => {
  const file = written(
    t,
    `addEventListener('fetch', (event) => {
       const { pathname } = new URL(event.request.url)
       if (pathname === '/throw')
         throw new Error('boom')
       if (pathname === '/nothing') return
       if (pathname === '/never') return event.respondWith(new Promise(() => {}))
       if (pathname === '/late') event.waitUntil(Promise.reject(new Error('late')))
       if (pathname === '/reject') return event.respondWith(Promise.reject(new Error('bang')))
       if (pathname === '/text') return event.respondWith('text')
       if (pathname === '/down') return event.respondWith(fetch(event.request, { backend: 'ws_backend_name' }))
       event.respondWith(new Response('well'))
     })`,
  )
  const started = await start(t, { fastly: file }, { handlerTimeout: '100ms' })
  const { address, refused, troubles } = started
  const asked = async (path: string) => (await fetch(`http://${address}${path}`)).status
  t.equal(await asked('/throw'), 500)
  t.match(await refused(), { code: 'handler-failed', detail: /^boom \(\/.*main\.js:4:\d+\)$/ })
  t.equal(await asked('/reject'), 500)
  t.match(await refused(), { code: 'handler-failed', detail: /^bang \(\/.*main\.js:8:\d+\)$/ })
  t.equal(await asked('/nothing'), 500)
  t.match(await refused(), { detail: /no listener of the event fetch has called respondWith/ })
  t.equal(await asked('/text'), 500)
  t.match(await refused(), { detail: /respondWith got no Response/ })
  t.equal(await asked('/never'), 500)
  t.match(await refused(), { code: 'handler-timeout' })
  t.equal(await asked('/down'), 502, 'an origin that is down is no fault of the program')
  t.match(await refused(), { code: 'dial-refused' })
  t.equal(await asked('/late'), 200)
  t.match(troubles, [{ code: 'handler-failed', detail: /^service chat: late \(\/.*main\.js:7:\d+\)$/ }])
  t.equal(await asked('/well'), 200)
})

t.test('what a program can not be loaded for is told at the start', async (t) => {
  const at = (text: string) => ({ fastly: written(t, text) })
  t.match(
    await problemOf(t, at("import { KVStore } from 'fastly:kv-store'")),
    /main\.js can't be loaded: Error: fastly:kv-store is not offered; there is fastly:websocket, fastly:env/,
  )
  t.match(
    await problemOf(t, at("import { get } from 'fastly:env'")),
    /does not provide an export named 'get'/,
  )
  t.match(await problemOf(t, at('const one = 1')), /it listens to nothing: addEventListener\('fetch', …\)/)
  t.match(await problemOf(t, at('\n\nconst = 1')), /SyntaxError: Unexpected token '=' \(.*main\.js:3:7\)/)
  t.match(await problemOf(t, at("\nthrow new Error('no')")), /Error: no \(\/.*main\.js:2:7\)/)
  t.match(await problemOf(t, { fastly: '/nowhere/main.js' }), /there is no such file/)
  t.match(await problemOf(t, { worker: written(t, 'export default {}') }), /its default export has no fetch/)
  const worker = written(t, 'export default { fetch() {} }')
  t.match(
    await problemOf(t, { worker, objects: { ROOMS: 'Room' } }),
    /it exports no class Room, which objects\.ROOMS names/,
  )
})

t.test('a program may have modules, and shares no names with others, nor with itself', async (t) => {
  const folder = newFolder(t, {
    'main.js': `import { answer } from './answer.js'
      addEventListener('fetch', (event) => event.respondWith(answer(event.request.headers.get('host'))))
      globalThis.count = 0`,
    'answer.js': `import { env } from 'fastly:env'
      export const answer = (host) => new Response([env('NAME'), host, ++self.count, typeof count].join(' '))`,
  })
  const service = (id: string) => ({
    id,
    domains: [`${id}.test`],
    program: { fastly: join(folder, 'main.js'), env: { NAME: id } },
  })
  const tunnel = createTunnel({ services: [service('a'), service('b')] })
  t.teardown(() => tunnel.close())
  const { addresses } = await tunnel.listen([{ address: '127.0.0.1:0' }])
  const ask = (host: string) =>
    new Promise<string>((heard) => {
      const [name = '', port] = (addresses[0] ?? '').split(':')
      httpRequest({ host: name, port, headers: { host } }, async (response) => {
        heard(Buffer.concat(await response.toArray()).toString())
      }).end()
    })
  t.equal(await ask('a.test'), 'a a.test 1 undefined')
  t.equal(await ask('a.test'), 'a a.test 2 undefined')
  t.equal(await ask('b.test'), 'b b.test 1 undefined')
  t.notOk('addEventListener' in globalThis && 'count' in globalThis)
})

t.test("an echo in a Worker, as in Cloudflare's documentation", async (t) => {
  const { address, closed } = await start(t, { worker: join(PROGRAMS, 'worker-echo.js') })
  const talker = await talkTo(t, address)
  talker.socket.send('hello')
  t.equal(await talker.next(), 'hello')
  talker.socket.send(Buffer.from([7]))
  t.equal(await talker.next(), 'binary 07')
  talker.socket.close()
  t.match(await closed(), { end: 'client-fin-tunnel', origin: 'local' })
  const response = await fetch(`http://${address}/`)
  t.equal(response.status, 426)
  t.equal(await response.text(), 'Expected Upgrade: websocket')
})

t.test('a Worker in front of a backend: its upgrades are handed off, with what it has changed', async (t) => {
  const origin = await startOrigin(t)
  const program = {
    worker: join(PROGRAMS, 'worker-proxy.js'),
    env: { TENANT: 'ada' },
    backend: 'ws_backend_name',
  }
  const { address, troubles, refused } = await start(t, program, { ws: origin.address })
  const client = await connectTo(t, address)
  client.write(upgradeRequest({ 'X-Secret': '1', 'X-Kept': '2' }))
  const peer = await origin.next()
  const head = await peer.until('\r\n\r\n')
  t.match(head, /^GET \/v2\/chat HTTP\/1\.1\r\n/)
  t.match(head, /\r\nX-Kept: 2\r\n/)
  t.match(head, /\r\nx-tenant: ada\r\n/)
  t.notMatch(head, /X-Secret/i)
  peer.write(switching(head))
  await client.until('\r\n\r\n')
  t.match(troubles, [{ detail: /^service chat: log server is down \(\/.*worker-proxy\.js:\d+:\d+\)$/ }])

  t.equal((await fetch(`http://${address}/elsewhere`)).status, 500)
  t.match(await refused(), { detail: /example\.com is not the host of this service/ })
  const later = await fetch(`http://${address}/later`)
  t.equal(later.headers.get('x-name'), 'proxy')
  while (!troubles.some(({ detail }) => detail.includes('thrown later'))) await new Promise(setImmediate)
})

t.test('two rooms of a chat in a Worker, one object each', async (t) => {
  const program = {
    worker: join(PROGRAMS, 'worker-chat.js'),
    env: { GREETING: 'hi' },
    objects: { ROOMS: 'ChatRoom' },
  }
  const { address, closed } = await start(t, program, {})
  const ada = await talkTo(t, address, '/room/red/websocket?name=ada')
  t.equal(await ada.next(), 'ada joined')
  const bob = await talkTo(t, address, '/room/red/websocket?name=bob')
  const eve = await talkTo(t, address, '/room/blue/websocket?name=eve')
  t.equal(await eve.next(), 'eve joined')
  for (const one of [ada, bob]) t.equal(await one.next(), 'bob joined')
  ada.socket.send('hello')
  for (const one of [ada, bob]) t.equal(await one.next(), 'ada: hello')
  eve.socket.send('ping')
  t.equal(await eve.next(), 'pong')
  const state = await (await fetch(`http://${address}/room/red`)).json()
  t.strictSame(state, { room: 'red', greeting: 'hi', here: 2, messages: 1 })
  ada.socket.close()
  await closed()
  t.equal(await bob.next(), 'ada left')
  t.equal((await fetch(`http://${address}/room/red/websocket`)).status, 426)
  t.equal((await fetch(`http://${address}/`)).status, 404)
})
