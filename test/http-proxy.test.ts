// http-proxy's WebSockets: what only ours do, or do in another way; docs/http-proxy.md has the list.

import { type EventEmitter, once } from 'node:events'
import type { ServerResponse } from 'node:http'
import { createServer } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import type { TLSSocket } from 'node:tls'
import t from 'tap'
import { WebSocket } from 'ws'
import type { ProxySocket, ServerOptions } from '../src/http-proxy/index.ts'
import proxyServer, {
  createServer as createOurs,
  createProxy,
  createProxyServer,
  ProxyServer,
} from '../src/http-proxy/index.ts'
import { edge } from '../src/http-proxy/targets.ts'
import { selfSigned, testAuthority } from './support/certificates.ts'
import { echo, KEY, startOrigin, switching, upgradeRequest } from './support/origin.ts'
import { connectTo } from './support/peer.ts'
import { serveBy, toldOf } from './support/proxy.ts'
import { talkTo } from './support/websocket.ts'

t.test(
  'bytes of the others are the kernel’s; who listens for data later, or for what there is not, is told so',
  async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const proxy = createProxyServer({ target: `ws://${origin.address}` })
    const opened = new Promise<ProxySocket>((resolve) => proxy.on('open', resolve))
    const server = createServer()
    const client = await connectTo(t, await serveBy(t, proxy, proxy.ws, server))
    client.write(`${upgradeRequest()}hello`)
    await client.until('hello')
    const socket = await opened
    const { tunnels } = await edge().tunnels()
    t.match(tunnels.at(-1), { engine: edge().engine.name, origin: origin.address, service: 'http-proxy' })
    t.throws(() => socket.on('data', () => {}), {
      code: 'argument-invalid',
      message: /in the listener of open/,
    })
    t.throws(() => (socket as EventEmitter).once('readable', () => {}), { code: 'argument-invalid' })
    t.equal(socket.bytesRead, 5)
    t.equal(socket.bytesWritten, 5)
    const ended = once(socket, 'close')
    socket.destroy()
    t.match(await client.closed, /^(ECONNRESET)?$/)
    t.strictSame(await ended, [false])
    t.ok(socket.destroyed)
  },
)

t.test('a listener of open ends the tunnel, in order or at once, also before it has begun', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  for (const how of ['end', 'destroy'] as const) {
    const proxy = createProxyServer({ target: `ws://${origin.address}` })
    const closed = new Promise<string>((resolve) =>
      proxy.on('open', (socket) => socket[how]().on('close', (hadError) => resolve(`${how} ${hadError}`))),
    )
    const client = await connectTo(t, await serveBy(t, proxy))
    client.write(upgradeRequest())
    t.match(await client.all(), /^HTTP\/1\.1 101 |^$/)
    client.end()
    t.equal(await closed, `${how} false`)
  }
})

t.test('an upgrade that a listener of proxyReqWs ends is not dialled, and is no error', async (t) => {
  const origin = await startOrigin(t)
  const proxy = createProxyServer({ target: `ws://${origin.address}` })
  proxy.on('error', (error) => t.fail(error.message))
  proxy.on('proxyReqWs', (_, __, socket) => socket.end('HTTP/1.1 401 Who\r\n\r\n'))
  const client = await connectTo(t, await serveBy(t, proxy))
  client.write(upgradeRequest())
  t.equal(await client.all(), 'HTTP/1.1 401 Who\r\n\r\n')
  t.equal(origin.count, 0)
})

t.test('a request that is sent changes no more, and what belongs to the connection never', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const proxy = createProxyServer({ target: `ws://${origin.address}` })
  const asked = once(proxy, 'proxyReqWs')
  const address = await serveBy(t, proxy)
  await talkTo(t, address)
  const [proxyReq] = await asked
  t.throws(() => proxyReq.setHeader('X-Late', '1'), { code: 'ERR_HTTP_HEADERS_SENT' })
  t.match(proxyReq.getHeaders(), { 'sec-websocket-version': '13', upgrade: 'websocket' })
  proxy.once('proxyReqWs', (request) => request.setHeader('Sec-WebSocket-Key', KEY))
  const failed = once(proxy, 'error')
  await t.rejects(talkTo(t, address), /500/)
  t.match(await failed, [
    { code: 'argument-invalid', message: /Sec-WebSocket-Key belongs to the connection/ },
  ])
})

t.test('a proxy without a listener for errors, and listeners that throw, end no process', async (t) => {
  const warnings: string[] = []
  const heard = (warning: Error) => warnings.push(warning.message)
  process.on('warning', heard)
  t.teardown(() => process.off('warning', heard))
  const proxy = createProxyServer({ target: 'ws://127.0.0.1:1' })
  const address = await serveBy(t, proxy)
  for (const _ of [1, 2]) await t.rejects(talkTo(t, address), /502/)
  const origin = await startOrigin(t, { answer: echo })
  const throwing = createProxyServer({ target: `ws://${origin.address}` })
  const closed = new Promise<void>((resolve) => throwing.on('close', () => resolve()))
  for (const name of ['open', 'close', 'error'] as const) {
    throwing.on(name, () => {
      throw new Error(`thrown in ${name}`)
    })
  }
  const talker = await talkTo(t, await serveBy(t, throwing))
  talker.socket.terminate()
  await closed
  await new Promise(setImmediate)
  t.equal(warnings.filter((text) => text.includes('the origin refused the connection')).length, 1)
  t.match(warnings[0], /listen with proxy\.on\('error'/)
  for (const name of ['open', 'close'])
    t.ok(
      warnings.some((text) => text.includes(`thrown in ${name}`)),
      name,
    )
})

t.test('plain HTTP is answered with 426, or by a listener', async (t) => {
  const proxy = createProxyServer({ target: 'ws://127.0.0.1:1' })
  const told = once(proxy, 'error')
  const address = await serveBy(t, proxy)
  const answer = await fetch(`http://${address}/page`, { method: 'POST', body: 'some' })
  t.equal(answer.status, 426)
  t.match(await answer.text(), /keep http-proxy for plain HTTP/)
  const [error, request] = await told
  t.match(error, { code: 'upgrade-required' })
  t.equal(request.url, '/page')
  proxy.on('error', (_, __, response) => (response as ServerResponse).writeHead(500).end('own'))
  t.equal(await (await fetch(`http://${address}/`)).text(), 'own')
  const server = createServer((request, response) =>
    proxy.web(request, response, (_, __, answerer) => (answerer as ServerResponse).end('called')),
  )
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const { port } = server.address() as AddressInfo
  t.equal(await (await fetch(`http://127.0.0.1:${port}/`)).text(), 'called')
})

t.test(
  'what is no valid upgrade is refused by the rules of Headrace, and is no error of the proxy',
  async (t) => {
    const origin = await startOrigin(t)
    const proxy = createProxyServer({ target: `ws://${origin.address}` })
    proxy.on('error', (error) => t.fail(error.message))
    const address = await serveBy(t, proxy)
    const wrong = { 'Sec-WebSocket-Version': '7' }
    for (const [fields, status] of [
      [wrong, 426],
      [{ 'Content-Length': '5' }, 400],
      [{ 'Sec-WebSocket-Key': 'x' }, 400],
    ] as const) {
      const client = await connectTo(t, address)
      client.write(upgradeRequest(fields))
      t.match(await client.all(), new RegExp(`^HTTP/1\\.1 ${status} `))
    }
    t.equal(origin.count, 0)
  },
)

t.test('a 101 that is wrong is an error, and the client gets a 502', async (t) => {
  const origin = await startOrigin(t, {
    answer: (peer) =>
      void peer.until('\r\n\r\n').then(() => peer.write(switching(`Sec-WebSocket-Key: ${KEY}`))),
  })
  const proxy = createProxyServer({ target: `ws://${origin.address}` })
  const failed = once(proxy, 'error')
  await t.rejects(talkTo(t, await serveBy(t, proxy)), /502/)
  t.match(await failed, [{ code: 'answer-wrong' }])
})

t.test('a wss target must have a certificate that node trusts, for the name of the target', async (t) => {
  const authority = await testAuthority()
  const right = await startOrigin(t, { answer: echo, tls: await authority.issue({ names: ['localhost'] }) })
  const other = await startOrigin(t, { answer: echo, tls: await authority.issue({ names: ['else.test'] }) })
  const targetOf = ({ address }: { readonly address: string }) => `wss://localhost:${address.split(':')[1]}`
  const client = await connectTo(
    t,
    await serveBy(t, createProxyServer({ target: targetOf(right), secure: true })),
  )
  client.write(`${upgradeRequest()}secret`)
  t.match(await client.until('secret'), /^HTTP\/1\.1 101 /)
  const told = await toldOf(t, createProxyServer, { target: targetOf(other) })
  t.match(told, { code: 'ERR_TLS_CERT_ALTNAME_INVALID', answer: /^HTTP\/1\.1 502 / })
})

t.test('a target that asks for a certificate gets that of the target', async (t) => {
  const authority = await testAuthority()
  const { certificate: cert, key } = await authority.issue({ names: ['localhost'] })
  const target = createTlsServer({ cert, key, ca: authority.certificate, requestCert: true })
  const named = new Promise<string>((resolve) => {
    target.on('upgrade', (_, socket) => {
      resolve(String((socket as TLSSocket).getPeerCertificate().subject.CN))
      socket.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n')
    })
  })
  target.listen(0, '127.0.0.1')
  await once(target, 'listening')
  t.teardown(() => target.close())
  const { port } = target.address() as AddressInfo
  const own = await authority.issue({ names: ['proxy.test'] })
  const parts = {
    protocol: 'wss:',
    host: 'localhost',
    port,
    cert: own.certificate,
    key: Buffer.from(own.key),
  }
  await t.rejects(talkTo(t, await serveBy(t, createProxyServer({ target: parts }))), /403/)
  t.equal(await named, 'proxy.test')
})

t.test('a target that does not answer within proxyTimeout is an error', async (t) => {
  const origin = await startOrigin(t)
  const told = await toldOf(t, createProxyServer, { target: `ws://${origin.address}`, proxyTimeout: 100 })
  t.match(told, { code: 'ETIMEDOUT', answer: /^HTTP\/1\.1 504 / })
})

t.test('a proxy behind an https server', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const { certificate: cert, key } = await selfSigned({ names: ['localhost'] })
  const proxy = createProxyServer({ target: `ws://${origin.address}`, xfwd: true })
  const address = await serveBy(t, proxy, proxy.ws, createTlsServer({ cert, key }))
  const client = await connectTo(t, address, {})
  client.write(`${upgradeRequest()}through TLS`)
  await client.until('through TLS')
  client.end('bye')
  await client.until('bye')
})

t.test('listen opens a server, close ends it when its tunnels are over', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const { certificate: cert, key } = await selfSigned({ names: ['localhost'] })
  for (const ssl of [undefined, { cert, key }]) {
    const proxy = new ProxyServer({ target: `ws://${origin.address}`, ws: true, ssl }).listen(0)
    const { port } = proxy.address() as AddressInfo
    const client = await connectTo(t, `127.0.0.1:${port}`, ssl && {})
    client.write(`${upgradeRequest()}hello`)
    await client.until('hello')
    let isClosed = false
    const closed = new Promise<void>((resolve) =>
      proxy.close(() => {
        isClosed = true
        resolve()
      }),
    )
    await t.rejects(talkTo(t, `127.0.0.1:${port}`), { code: 'ECONNREFUSED' })
    t.notOk(isClosed)
    client.end('bye')
    await client.until('bye')
    await closed
  }
  const idle = createProxyServer()
  await new Promise<void>((resolve) => idle.close(() => resolve()))
})

t.test('without the option ws, listen serves no upgrades', async (t) => {
  const proxy = createOurs({ target: 'ws://127.0.0.1:1' }).listen(0)
  proxy.on('error', () => {})
  t.teardown(() => proxy.close())
  const { port } = proxy.address() as AddressInfo
  await t.rejects(talkTo(t, `127.0.0.1:${port}`), /426/)
})

t.test('options that can’t be kept are refused when the proxy is made, all at once', (t) => {
  const wrong = {
    target: 'wss://chat.example.com',
    secure: false,
    agent: {},
    ca: 'x',
    hostRewrite: 'a',
    cookieDomainRewrite: '',
    method: 'POST',
    changeOrgin: true,
    constructor: 'x',
    localAddress: 'localhost',
    proxyTimeout: -1,
    headers: { Connection: 'close' },
  }
  const { target: _, ...named } = wrong
  const lines = Object.keys(named).map((name) => `^${name}: [^]*`)
  t.throws(() => createProxyServer(wrong as never), {
    code: 'config-invalid',
    message: /did you mean changeOrigin\?/,
  })
  for (const line of lines)
    t.throws(() => createProxyServer(wrong as never), { message: new RegExp(line, 'm') }, line)
  const targets = [
    'localhost:9014',
    'no url',
    'ftp://a',
    'ws://ada:secret@a',
    { host: 'a', port: 'x' },
    { host: 'a', port: 65536 },
    { host: 'a', pfx: 'x' },
    { host: 'a', port: 1, key: 'x' },
    9014,
  ]
  for (const target of targets) {
    t.throws(() => createProxyServer({ target } as never), { code: 'config-invalid', message: /target/ })
  }
  t.throws(() => createProxyServer({ headers: { 'X-A': 'a\nb' } }), { message: /headers: the value of X-A/ })
  t.throws(() => createProxyServer({ headers: { 'X-A': undefined } } as never), {
    message: /headers: the value of X-A/,
  })
  const fine = {
    secure: false,
    agent: false,
    target: 'ws://a',
    timeout: 1,
    forward: 'http://b',
    cookieDomainRewrite: false,
  }
  t.ok(createProxyServer(fine as never))
  const proxy = createProxyServer()
  t.throws(() => (proxy as EventEmitter).on('proxyRes', () => {}), {
    code: 'argument-invalid',
    message: /plain HTTP stays/,
  })
  t.throws(() => proxy.before('ws', 'stream', () => {}), { code: 'argument-invalid' })
  t.end()
})

t.test('a call that has no target, or a wrong option, is an error of that call', async (t) => {
  const proxy = createProxyServer()
  const address = await serveBy(t, proxy, (request, socket, head) => {
    const options = request.url === '/none' ? {} : { target: 'wss://localhost', secure: false }
    proxy.ws(request, socket, head, options)
  })
  for (const [path, message] of [
    ['/none', /target: is missing/],
    ['/wrong', /secure: /],
  ] as const) {
    const failed = once(proxy, 'error')
    await t.rejects(talkTo(t, address, path), /500/)
    t.match(await failed, [{ code: 'config-invalid', message }])
  }
})

t.test('it is called in all the ways in which http-proxy is', async (t) => {
  const New = createProxyServer as unknown as new (options: ServerOptions) => ProxyServer
  const Static = proxyServer.createProxyServer as unknown as typeof New
  const origin = await startOrigin(t, { answer: echo })
  const options = { target: `ws://${origin.address}` }
  const proxies = [new New(options), new Static(options), new proxyServer(options), createProxy(options)]
  proxies.push(proxyServer.createServer(options), proxyServer.createProxy(options), createOurs(options))
  for (const proxy of proxies) {
    t.ok(proxy instanceof ProxyServer)
    const client = await connectTo(t, await serveBy(t, proxy))
    client.write(`${upgradeRequest()}hello`)
    await client.until('hello')
  }
})

t.test('thousands of targets leave nothing behind', async (t) => {
  const origin = await startOrigin(t, { host: '0.0.0.0', answer: (peer) => void echo(peer) })
  const [, port] = origin.address.split(':')
  const proxy = createProxyServer()
  const address = await serveBy(t, proxy, (request, socket, head) => {
    proxy.ws(request, socket, head, { target: `ws://${request.url?.slice(1)}:${port}` })
  })
  async function visit(number: number): Promise<void> {
    const target = `127.1.${number >> 8}.${number & 255}`
    const socket = new WebSocket(`ws://${address}/${target}`)
    await once(socket, 'open')
    socket.terminate()
    await once(socket, 'close')
  }
  const all = Array.from({ length: 2_000 }, (_, number) => number)
  while (all.length > 0) await Promise.all(all.splice(0, 50).map(visit))
  t.equal(origin.count, 2_000)
  const metrics = await edge().metrics()
  const backends = metrics.headrace_tunnels_opened_total?.map(({ labels }) => labels.backend)
  t.strictSame(backends, ['target'])
  t.equal(edge().backends().length, 1)
})
