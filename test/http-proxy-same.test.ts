// http-proxy's WebSockets: where docs/http-proxy.md says that ours are the same, one scenario runs with http-proxy-3 and with
// ours, and what the target, the client and the listeners get is compared.

import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { createServer } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { createServer as createUnixServer } from 'node:net'
import t, { type Test } from 'tap'
import { WebSocketServer } from 'ws'
import type { ProxyServer, ProxySocket, ServerOptions } from '../src/http-proxy/index.ts'
import { createProxyServer } from '../src/http-proxy/index.ts'
import { socketPath } from './support/accepting.ts'
import { selfSigned } from './support/certificates.ts'
import { echo, startOrigin, switching, upgradeRequest } from './support/origin.ts'
import { connectTo, Peer } from './support/peer.ts'
import type { Library } from './support/proxy.ts'
import { LIBRARIES, serveBy, theirs, toldOf } from './support/proxy.ts'
import { talkTo } from './support/websocket.ts'

/** Start line and fields, in no order and in no letter case: http-proxy changes both. */
function partsOf(head: string): string[] {
  const [start = '', ...lines] = head.slice(0, head.indexOf('\r\n\r\n')).split('\r\n')
  const fields = lines.map((line) => line.replace(/^[^:]*/, (name) => name.toLowerCase()))
  return [start, ...fields.sort()]
}

interface Scenario {
  /** Of the proxy; `target` is given with what is here if it has none. */
  readonly options?: (address: string, port: number) => ServerOptions
  /** Of the call. */
  readonly called?: (address: string) => ServerOptions
  readonly prepare?: (proxy: ProxyServer) => void
  readonly fields?: Readonly<Record<string, string>>
  readonly path?: string
}

/** What the target gets, and what the client gets of its 101. */
async function played(t: Test, library: Library, scenario: Scenario): Promise<[string[], string[]]> {
  const origin = await startOrigin(t, { port: 0 })
  const port = Number(origin.address.split(':')[1])
  const proxy = library({ target: `ws://${origin.address}`, ...scenario.options?.(origin.address, port) })
  scenario.prepare?.(proxy)
  const { called } = scenario
  const address = await serveBy(
    t,
    proxy,
    called && ((request, socket, head) => proxy.ws(request, socket, head, called(origin.address))),
  )
  const client = await connectTo(t, address)
  client.write(upgradeRequest(scenario.fields, scenario.path))
  const peer = await origin.next()
  const asked = await peer.until('\r\n\r\n')
  peer.write(switching(asked, 'Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-From: target\r\n'))
  const answered = await client.until('\r\n\r\n')
  const named = (head: string) => head.replaceAll(origin.address, 'TARGET').replaceAll(String(port), 'PORT')
  return [partsOf(named(asked)), partsOf(named(answered))]
}

const SCENARIOS: Readonly<Record<string, Scenario>> = {
  'the request as it came, X-Forwarded-* included': {
    fields: { 'X-Forwarded-For': '6.6.6.6', Cookie: 'a=1; b=2', 'User-Agent': 'one', 'X-Empty': ' ' },
  },
  'a target as a URL': { options: (address) => ({ target: new URL(`http://${address}`) }) },
  'a target in parts': { options: (_, port) => ({ target: { host: '127.0.0.1', port } }) },
  'a target of the call over that of the proxy': {
    options: () => ({ target: 'ws://127.0.0.1:1' }),
    called: (address) => ({ target: `ws://${address}` }),
  },
  'the host of a URL, with its port': { options: () => ({ changeOrigin: true }) },
  'the host of a target in parts, without its port': {
    options: (_, port) => ({ changeOrigin: true, target: { host: '127.0.0.1', port } }),
  },
  'the host of a target in parts with a protocol': {
    options: (_, port) => ({ changeOrigin: true, target: { protocol: 'ws:', host: '127.0.0.1', port } }),
  },
  'headers over those of the client': {
    options: () => ({ headers: { 'X-Added': 'one', 'user-agent': 'two', 'X-Number': 3 } }),
    fields: { 'User-Agent': 'one' },
  },
  'a Host in headers, and changeOrigin over it': {
    options: () => ({ headers: { host: 'else.test' }, changeOrigin: true }),
  },
  'a Host in headers': { options: () => ({ headers: { host: 'else.test' } }) },
  'X-Forwarded-* with xfwd': { options: () => ({ xfwd: true }) },
  'X-Forwarded-* with xfwd, behind those of the client': {
    options: () => ({ xfwd: true }),
    fields: { Host: 'chat.test:8080', 'X-Forwarded-For': '6.6.6.6', 'X-Forwarded-Proto': 'https' },
  },
  'auth in the place of that of the client': {
    options: () => ({ auth: 'ada:secret' }),
    fields: { Authorization: 'Bearer x' },
  },
  'the path of the target before that of the request, with both queries': {
    options: (address) => ({ target: `ws://${address}/base/?x=1` }),
    path: '/chat?y=2',
  },
  'a path without dots in it': { path: '/a/../b/./c?d=/../e' },
  'a path with two slashes': { path: '//a//b' },
  'a path as it came, with toProxy': { options: () => ({ toProxy: true }), path: '/a/../b?c' },
  'no path of the target, with prependPath: false': {
    options: (address) => ({ target: `ws://${address}/base?x=1`, prependPath: false }),
    path: '/chat?y=2',
  },
  'no path of the request, with ignorePath': {
    options: (address) => ({ target: `ws://${address}/base?x=1`, ignorePath: true }),
    path: '/chat?y=2',
  },
  'neither path': { options: () => ({ ignorePath: true }), path: '/chat?y=2' },
  'what a listener of proxyReqWs changes': {
    prepare: (proxy) =>
      proxy.on('proxyReqWs', (proxyReq, req, _, options) => {
        proxyReq.setHeader('X-Special-Proxy-Header', 'foobar')
        proxyReq.setHeader('X-Agent', String(proxyReq.getHeader('user-agent')))
        proxyReq.setHeader('X-Url', `${req.url} ${options.changeOrigin}`)
        proxyReq.removeHeader('User-Agent')
        proxyReq.setHeader('X-Has', String(proxyReq.hasHeader('USER-AGENT')))
        proxyReq.path = `${proxyReq.path}?added`
      }),
    fields: { 'User-Agent': 'one' },
  },
  'options that http-proxy does not look at either': {
    options: () => ({ timeout: 1, followRedirects: true, selfHandleResponse: true, secure: false }),
  },
}

for (const [name, scenario] of Object.entries(SCENARIOS)) {
  t.test(`the target gets ${name}, as with http-proxy`, async (t) => {
    const [expected, found] = [
      await played(t, theirs, scenario),
      await played(t, createProxyServer, scenario),
    ]
    t.strictSame(found, expected)
  })
}

t.test('a Unix socket and a source address are dialled, as with http-proxy', async (t) => {
  const path = await socketPath(t)
  const unix = createUnixServer((socket) => void echo(new Peer(socket)))
  await new Promise<void>((resolve) => unix.listen(path, resolve))
  t.teardown(() => unix.close())
  const origin = await startOrigin(t)
  for (const [name, library] of LIBRARIES) {
    const address = await serveBy(t, library({ target: { host: 'localhost', port: 1, socketPath: path } }))
    const client = await connectTo(t, address)
    client.write(`${upgradeRequest()}early`)
    t.match(await client.until('early'), /^HTTP\/1\.1 101 /, name)
    client.end()
    const other = await serveBy(t, library({ target: `ws://${origin.address}`, localAddress: '127.0.0.9' }))
    const second = await connectTo(t, other)
    second.write(upgradeRequest())
    t.equal((await origin.next()).socket.remoteAddress, '127.0.0.9', name)
  }
})

t.test('what came with the upgrade reaches the target, and what came with the 101 the client', async (t) => {
  const origin = await startOrigin(t)
  for (const [name, library] of LIBRARIES) {
    const proxy = library({ target: `ws://${origin.address}` })
    const closed = new Promise<Buffer>((resolve) => proxy.on('close', (_, __, head) => resolve(head)))
    const client = await connectTo(t, await serveBy(t, proxy))
    client.write(`${upgradeRequest()}from the client`)
    const peer = await origin.next()
    peer.write(`${switching(await peer.until('\r\n\r\n'))}from the target`)
    t.match(await client.until('from the target'), /\r\n\r\nfrom the target$/, name)
    t.match(await peer.until('from the client'), /\r\n\r\nfrom the client$/, name)
    peer.end()
    client.end()
    t.equal((await closed).toString(), 'from the target', name)
  }
})

t.test('another answer than a 101 is relayed, is no error, and the connection is closed', async (t) => {
  const origin = await startOrigin(t)
  for (const [name, library] of LIBRARIES) {
    for (const status of ['403 Forbidden', '200 OK', '302 Found']) {
      const proxy = library({ target: `ws://${origin.address}` })
      proxy.on('error', (error) => t.fail(`${name}: ${error.message}`))
      const client = await connectTo(t, await serveBy(t, proxy))
      client.write(upgradeRequest())
      const peer = await origin.next()
      await peer.until('\r\n\r\n')
      peer.end(`HTTP/1.1 ${status}\r\nContent-Length: 2\r\nX-Why: because\r\n\r\nno`)
      const answer = await client.all()
      t.ok(answer.startsWith(`HTTP/1.1 ${status}\r\n`) && answer.endsWith('\r\n\r\nno'), `${name}: ${answer}`)
      t.match(answer, /\r\nx-why: because\r\n/i, name)
    }
  }
})

t.test('what fails is told with the code that http-proxy has for it', async (t) => {
  const closing = await startOrigin(t, {
    answer: (peer) => void peer.until('\r\n\r\n').then(() => peer.end()),
  })
  const resetting = await startOrigin(t, {
    answer: (peer) => void peer.until('\r\n\r\n').then(() => peer.reset()),
  })
  const { certificate, key } = await selfSigned({ names: ['localhost'] })
  const untrusted = await startOrigin(t, { tls: { certificate, key } })
  const targets = [
    ['ws://127.0.0.1:1', /^ECONNREFUSED$/],
    // The second without a resolver.
    ['ws://no-such-host.invalid:9', /^(ENOTFOUND|EAI_AGAIN)$/],
    [`ws://${closing.address}`, /^ECONNRESET$/],
    [`ws://${resetting.address}`, /^ECONNRESET$/],
    [`wss://localhost:${untrusted.address.split(':')[1]}`, /^DEPTH_ZERO_SELF_SIGNED_CERT$/],
  ] as const
  for (const [target, code] of targets) {
    for (const [name, library] of LIBRARIES) {
      const found = await toldOf(t, library, { target })
      t.match(found, { code, url: '/chat', isSocket: true }, `${name}: ${target}`)
      // http-proxy closes, and says nothing.
      if (library === theirs) t.equal(found.answer, '')
      else t.match(found.answer, /^HTTP\/1\.1 502 /)
    }
  }
})

t.test('a listener may answer the client itself, as with http-proxy', async (t) => {
  const own = 'HTTP/1.1 503 Busy\r\nConnection: close\r\n\r\nlater'
  for (const [name, library] of LIBRARIES) {
    const target = 'ws://127.0.0.1:1'
    const ended = await toldOf(t, library, { target }, (socket) => socket.end(own))
    t.equal(ended.answer, own, name)
    const written = await toldOf(t, library, { target }, (socket) => void socket.write(own))
    t.equal(written.answer, own, name)
    const destroyed = await toldOf(t, library, { target }, (socket) => socket.destroy())
    t.equal(destroyed.answer, '', name)
  }
})

t.test('the callback of a call is told in the place of the listeners', async (t) => {
  for (const [name, library] of LIBRARIES) {
    const proxy = library({ target: 'ws://127.0.0.1:1' })
    proxy.on('error', () => t.fail(name))
    const told = new Promise<string | undefined>((resolve) => {
      void serveBy(t, proxy, (request, socket, head) =>
        proxy.ws(request, socket, head, { changeOrigin: true }, (error) =>
          resolve((error as NodeJS.ErrnoException).code),
        ),
      ).then(async (address) => (await connectTo(t, address)).write(upgradeRequest()))
    })
    t.equal(await told, 'ECONNREFUSED', name)
  }
})

t.test('a client that resets before the 101 is an error, one that leaves is none', async (t) => {
  const origin = await startOrigin(t)
  for (const [name, library] of LIBRARIES) {
    const proxy = library({ target: `ws://${origin.address}` })
    const codes: unknown[] = []
    const told = new Promise<void>((resolve) =>
      proxy.on('error', (error) => {
        codes.push((error as NodeJS.ErrnoException).code)
        resolve()
      }),
    )
    const address = await serveBy(t, proxy)
    const leaving = await connectTo(t, address)
    leaving.write(upgradeRequest({}, '/leaving'))
    await origin.next()
    leaving.end()
    const resetting = await connectTo(t, address)
    resetting.write(upgradeRequest({}, '/resetting'))
    await origin.next()
    resetting.reset()
    await told
    t.strictSame(codes, ['ECONNRESET'], name)
  }
})

t.test('open and close are told once for each tunnel, with what they know of the connection', async (t) => {
  const origin = await startOrigin(t)
  for (const [name, library] of LIBRARIES) {
    const proxy = library({ target: `ws://${origin.address}` })
    const opened: ProxySocket[] = []
    proxy.on('open', (socket) => opened.push(socket))
    const closed = new Promise<unknown[]>((resolve) => proxy.on('close', (...told) => resolve(told)))
    const client = await connectTo(t, await serveBy(t, proxy))
    client.write(upgradeRequest())
    const peer = await origin.next()
    peer.write(switching(await peer.until('\r\n\r\n'), 'X-From: target\r\n'))
    await client.until('\r\n\r\n')
    const [socket] = opened
    t.match(socket, { remoteAddress: '127.0.0.1', remotePort: Number(origin.address.split(':')[1]) }, name)
    client.end('bytes')
    await peer.until('bytes')
    peer.end()
    const [response, same] = (await closed) as [IncomingMessage, unknown]
    t.equal(same, socket, name)
    t.match(response, { statusCode: 101, httpVersion: '1.1', statusMessage: 'Switching Protocols' }, name)
    t.match(response.headers, { 'x-from': 'target', upgrade: 'websocket' }, name)
    t.equal(opened.length, 1, name)
  }
})

t.test(
  'who listens for data in the listener of open hears what the target sends, as with http-proxy',
  async (t) => {
    const origin = await startOrigin(t)
    for (const [name, library] of LIBRARIES) {
      const proxy = library({ target: `ws://${origin.address}` })
      let heard = ''
      proxy.on('open', (socket) => socket.on('data', (chunk) => (heard += chunk)))
      const client = await connectTo(t, await serveBy(t, proxy))
      client.write(upgradeRequest())
      const peer = await origin.next()
      peer.write(`${switching(await peer.until('\r\n\r\n'))}first,`)
      await client.until('first,')
      peer.write('second')
      await client.until('second')
      t.equal(heard, 'first,second', name)
    }
  },
)

t.test(
  'who watches the socket of the client sees it live as long as its tunnel, and may end it',
  async (t) => {
    const origin = await startOrigin(t)
    for (const [name, library] of LIBRARIES) {
      for (const begin of ['connection', 'proxyReqWs']) {
        const proxy = library({ target: `ws://${origin.address}` })
        const open = new Set<Socket>()
        const watch = (socket: Socket) => {
          open.add(socket)
          socket.on('close', () => open.delete(socket))
        }
        const server = createServer()
        if (begin === 'connection') server.on('connection', watch)
        else proxy.on('proxyReqWs', (_, __, socket) => watch(socket))
        const client = await connectTo(t, await serveBy(t, proxy, proxy.ws, server))
        client.write(upgradeRequest())
        const peer = await origin.next()
        peer.write(`${switching(await peer.until('\r\n\r\n'))}there`)
        await client.until('there')
        t.equal(open.size, 1, `${name}: ${begin}`)
        for (const socket of open) socket.destroy()
        await client.all()
        await peer.all()
        t.equal(open.size, 0, `${name}: ${begin}`)
      }
    }
  },
)

t.test(
  'messages of real clients go there and back, with their subprotocol, whatever their size',
  async (t) => {
    const server = new WebSocketServer({ port: 0, host: '127.0.0.1', handleProtocols: () => 'chat' })
    await once(server, 'listening')
    t.teardown(() => server.close())
    server.on('connection', (socket) =>
      socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary })),
    )
    const { port } = server.address() as AddressInfo
    for (const [name, library] of LIBRARIES) {
      const address = await serveBy(t, library({ target: { host: '127.0.0.1', port } }))
      const talker = await talkTo(t, address, '/', { protocols: ['chat', 'other'] })
      t.equal(talker.socket.protocol, 'chat', name)
      const long = 'x'.repeat(3_000_000)
      for (const text of ['hello', '', long]) {
        talker.socket.send(text)
        t.ok((await talker.next()) === text, `${name}: ${text.length}`)
      }
      talker.socket.close(4001, 'bye')
      t.match(await talker.closed, { code: 4001 }, name)
    }
  },
)
