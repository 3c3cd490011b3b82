// The branch: ordinary HTTP through a service, beside its WebSockets.

import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import type { IncomingMessage, RequestListener } from 'node:http'
import { Agent, createServer, request as httpRequest } from 'node:http'
import t, { type Test } from 'tap'
import { WebSocketServer } from 'ws'
import { startOrigin, upgradeRequest } from '../support/origin.ts'
import { connectTo } from '../support/peer.ts'
import type { Started } from '../support/tunnel.ts'
import { startTunnel } from '../support/tunnel.ts'

interface Site extends Started {
  /** How many connections the origin has accepted. */
  readonly connections: () => number
}

async function startSite(
  t: Test,
  listener: RequestListener,
  options: { firstByteTimeout?: number; headTimeout?: number } = {},
): Promise<Site> {
  const server = createServer(listener)
  server.on('checkContinue', (request, response) => {
    if (request.headers['x-refuse']) return void response.writeHead(413, { 'Content-Length': 0 }).end()
    response.writeContinue()
    server.emit('request', request, response)
  })
  const sockets = new WebSocketServer({ server })
  sockets.on('connection', (socket) => {
    socket.on('error', () => {})
    socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }))
  })
  let connections = 0
  server.on('connection', () => {
    connections += 1
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  const { firstByteTimeout = 15_000, headTimeout = 10_000 } = options
  const started = await startTunnel(t, `127.0.0.1:${(server.address() as { port: number }).port}`, {
    backend: { firstByteTimeout },
    service: { routes: [{ match: { upgrade: 'websocket' }, handoff: 'origin' }, { send: 'origin' }] },
    options: { limits: { headTimeout } },
  })
  return { ...started, connections: () => connections }
}

async function bodyOf(message: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of message) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

function clientOf(address: string, agent: Agent) {
  const [host = '', port = ''] = address.split(':')
  return (options: { method?: string; path?: string; headers?: Record<string, string> }) =>
    httpRequest({ host, port: Number(port), agent, ...options })
}

t.test('bodies stream both ways, over kept-alive connections on both sides', async (t) => {
  const site = await startSite(t, (request, response) => {
    response.writeHead(200, { 'X-Length': request.headers['content-length'] ?? 'chunked' })
    request.pipe(response)
  })
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  const ask = clientOf(site.address, agent)
  let reused = 0
  for (let round = 0; round < 5; round += 1) {
    const body = randomBytes(700_000 * round)
    const request = ask({
      method: 'POST',
      headers: round % 2 ? { 'Content-Length': String(body.length) } : {},
    })
    if (body.length > 0) request.write(body)
    request.end()
    const [response] = (await once(request, 'response')) as [IncomingMessage]
    if (request.reusedSocket) reused += 1
    t.ok((await bodyOf(response)).equals(body))
    t.equal(response.headers['x-length'], round % 2 ? String(body.length) : round === 0 ? '0' : 'chunked')
  }
  t.equal(reused, 4, 'the client kept its connection')
  t.equal(site.connections(), 1, 'the origin saw one connection')
})

t.test('a slow reader slows the origin down', async (t) => {
  let written = 0
  const block = Buffer.alloc(1024 * 1024)
  const total = 200
  let stalled: () => void = () => {}
  const hasStalled = new Promise<void>((resolve) => {
    stalled = resolve
  })
  const site = await startSite(t, async (_, response) => {
    response.writeHead(200, { 'Content-Length': String(total * block.length) })
    for (let count = 0; count < total; count += 1) {
      written += 1
      if (!response.write(block)) {
        setTimeout(stalled, 200)
        await once(response, 'drain')
      }
    }
    response.end()
  })
  const client = await connectTo(t, site.address)
  client.socket.pause()
  client.write('GET / HTTP/1.1\r\nHost: chat.test\r\nConnection: close\r\n\r\n')
  await hasStalled
  t.ok(written < total, `the origin was stopped after ${written} MiB`)
  let received = 0
  client.socket.on('data', (chunk: Buffer) => {
    received += chunk.length
  })
  client.socket.resume()
  await client.ended
  t.ok(received > total * block.length)
})

t.test('the head of an answer does not wait for its body', async (t) => {
  let begin = () => {}
  const site = await startSite(t, (_, response) => {
    response.writeHead(200, { 'Content-Type': 'text/event-stream' }).flushHeaders()
    begin = () => response.end('data: hello\n\n')
  })
  const client = await connectTo(t, site.address)
  client.write('GET / HTTP/1.1\r\nHost: chat.test\r\nConnection: close\r\n\r\n')
  t.match(await client.until('\r\n\r\n'), /^HTTP\/1\.1 200 OK\r\n/)
  begin()
  t.match(await client.all(), /data: hello/)
})

t.test('an origin that has closed all kept connections is asked on a new one', async (t) => {
  const origin = await startOrigin(t)
  const { address } = await startTunnel(t, origin.address, { service: { routes: [{ send: 'origin' }] } })
  const get = 'GET / HTTP/1.1\r\nHost: chat.test\r\nConnection: close\r\n\r\n'
  const ok = (text: string) => `HTTP/1.1 200 OK\r\nContent-Length: ${text.length}\r\n\r\n${text}`
  const clients = [await connectTo(t, address), await connectTo(t, address), await connectTo(t, address)]
  for (const client of clients) client.write(get)
  const kept = [await origin.next(), await origin.next(), await origin.next()]
  for (const peer of kept) {
    const { length } = await peer.until('\r\n\r\n')
    peer.write(ok('first'))
    // Each of them dies of its second request.
    void peer.until(length + 1).then(() => peer.reset())
  }
  for (const client of clients) t.match(await client.all(), /first$/)
  const client = await connectTo(t, address)
  client.write(get)
  const peer = await origin.next()
  await peer.until('\r\n\r\n')
  peer.write(ok('second'))
  t.match(await client.all(), /second$/)
  for (const one of kept) await one.closed
})

t.test('100-continue is the origin’s to say, and so is no', async (t) => {
  const site = await startSite(t, (request, response) => void request.pipe(response.writeHead(200)))
  const head = 'POST / HTTP/1.1\r\nHost: chat.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n'
  const client = await connectTo(t, site.address)
  client.write(`${head}Connection: close\r\n\r\n`)
  t.equal(await client.until('\r\n\r\n'), 'HTTP/1.1 100 Continue\r\n\r\n')
  client.write('hello')
  t.match(await client.all(), /HTTP\/1\.1 200 OK[\s\S]*hello/)
  const refused = await connectTo(t, site.address)
  refused.write(`${head}X-Refuse: 1\r\nConnection: close\r\n\r\n`)
  t.match(await refused.all(), /^HTTP\/1\.1 413 /)
})

t.test('trailers pass both ways', async (t) => {
  const site = await startSite(t, (request, response) => {
    request.resume().on('end', () => {
      response.writeHead(200, { Trailer: 'X-Sum', 'Transfer-Encoding': 'chunked' })
      response.write('body')
      response.addTrailers({ 'X-Sum': request.trailers['x-hash'] ?? 'none' })
      response.end()
    })
  })
  const client = await connectTo(t, site.address)
  client.write(
    'POST / HTTP/1.1\r\nHost: chat.test\r\nTransfer-Encoding: chunked\r\nTrailer: X-Hash\r\n\r\n2\r\nab\r\n0\r\nX-Hash: 42\r\n\r\n',
  )
  t.match(
    await client.until('X-Sum: 42\r\n\r\n'),
    /\r\nTrailer: X-Sum\r\n[\s\S]*\r\n\r\n4\r\nbody\r\n0\r\nX-Sum: 42\r\n\r\n$/,
  )
})

t.test('HEAD, 204, 304, duplicates and letter case pass as they are', async (t) => {
  const site = await startSite(t, (request, response) => {
    if (request.url === '/204') response.writeHead(204).end()
    else if (request.url === '/304') response.writeHead(304, { ETag: '"1"' }).end()
    else
      response
        .writeHead(200, 'Fine', [
          'X-ODD',
          '1',
          'Set-Cookie',
          'a=1',
          'Set-Cookie',
          'b=2',
          'Content-Length',
          '5',
        ])
        .end('hello')
  })
  const client = await connectTo(t, site.address)
  const get = (method: string, path: string) =>
    client.write(`${method} ${path} HTTP/1.1\r\nHost: chat.test\r\n\r\n`)
  get('HEAD', '/')
  get('GET', '/204')
  get('GET', '/304')
  get('GET', '/')
  const answers = (await client.until('hello')).split('HTTP/1.1 ').slice(1)
  t.same(
    answers.map((one) => one.split('\r\n')[0]),
    ['200 Fine', '204 No Content', '304 Not Modified', '200 Fine'],
  )
  t.match(answers[0], /X-ODD: 1\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 5\r\n/)
})

t.test('an upgrade on a kept-alive connection, behind answers that are not complete yet', async (t) => {
  const site = await startSite(t, (request, response) =>
    setTimeout(() => response.end(`page ${request.url}`), 20),
  )
  const client = await connectTo(t, site.address)
  client.write('GET /a HTTP/1.1\r\nHost: chat.test\r\n\r\n')
  await client.until('page /a')
  // The next two come without waiting for each other; a masked `hi` follows the upgrade at once.
  client.write(`GET /b HTTP/1.1\r\nHost: chat.test\r\n\r\n${upgradeRequest()}\x81\x82\0\0\0\0hi`)
  t.match(await client.until('\x81\x02hi'), /page \/b[\s\S]*HTTP\/1\.1 101 [\s\S]*\r\n\r\n\x81\x02hi$/)
  t.equal(site.tunnel.size, 1)
  client.end('\x88\x80\0\0\0\0')
  t.equal((await site.closed()).end.split('-')[1], 'fin')
})

t.test('a malformed request behind a good one is refused behind its answer', async (t) => {
  let count = 0
  const site = await startSite(t, (_, response) => {
    count += 1
    setTimeout(() => response.end('first'), 20)
  })
  const client = await connectTo(t, site.address)
  client.write(
    'GET / HTTP/1.1\r\nHost: chat.test\r\n\r\nPOST / HTTP/1.1\r\nHost: chat.test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
  )
  t.match(await client.all(), /first[\s\S]*HTTP\/1\.1 400 /)
  t.equal(count, 1)
  t.equal((await site.refused()).end, 'client-error-head')
  const nextHost = await connectTo(t, site.address)
  nextHost.write('GET / HTTP/1.1\r\nHost: chat.test\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n')
  t.match(await nextHost.all(), /first[\s\S]*HTTP\/1\.1 400 /)
  t.equal(count, 2)
})

t.test('a later head that is too slow is 408', async (t) => {
  const site = await startSite(t, (_, response) => void response.end('page'), { headTimeout: 300 })
  const client = await connectTo(t, site.address)
  client.write('GET / HTTP/1.1\r\nHost: chat.test\r\n\r\n')
  await client.until('page')
  client.write('GET / HT')
  t.match(await client.all(), /HTTP\/1\.1 408 /)
})

t.test('origins that fail: 502, 504, and an answer that is cut short is not complete', async (t) => {
  const gone = await startTunnel(t, '127.0.0.1:1', { service: { routes: [{ send: 'origin' }] } })
  const get = 'GET / HTTP/1.1\r\nHost: chat.test\r\n\r\n'
  const first = await connectTo(t, gone.address)
  first.write(get)
  t.match(await first.all(), /^HTTP\/1\.1 502 /)
  t.equal((await gone.refused()).code, 'dial-refused')

  const silent = await startSite(t, () => {}, { firstByteTimeout: 200 })
  const second = await connectTo(t, silent.address)
  second.write(get)
  t.match(await second.all(), /^HTTP\/1\.1 504 /)
  t.equal((await silent.refused()).code, 'answer-timeout')

  const cut = await startSite(t, (_, response) => {
    response.writeHead(200, { 'Content-Length': '100' })
    response.write('half', () => response.socket?.resetAndDestroy())
  })
  const third = await connectTo(t, cut.address)
  third.write(get)
  t.notMatch(await third.all(), /HTTP\/1\.1 5/)

  const broken = await startOrigin(t, {
    async answer(peer) {
      await peer.until('\r\n\r\n')
      peer.end('not HTTP at all\r\n\r\n')
    },
  })
  const fourth = await startTunnel(t, broken.address, { service: { routes: [{ send: 'origin' }] } })
  const client = await connectTo(t, fourth.address)
  client.write(get)
  t.match(await client.all(), /^HTTP\/1\.1 502 /)
  t.equal((await fourth.refused()).code, 'answer-malformed')
})

t.test('a client that leaves takes its request along', async (t) => {
  let left: () => void = () => {}
  const hasLeft = new Promise<void>((resolve) => {
    left = resolve
  })
  let asked: () => void = () => {}
  const isAsked = new Promise<void>((resolve) => {
    asked = resolve
  })
  const site = await startSite(t, (request) => {
    asked()
    request.on('close', left)
  })
  const client = await connectTo(t, site.address)
  client.write('GET / HTTP/1.1\r\nHost: chat.test\r\n\r\n')
  await isAsked
  client.reset()
  await hasLeft
  t.pass('the origin noticed')
})

t.test('a service without a plain route answers 426', async (t) => {
  const { address, refused } = await startTunnel(t, '127.0.0.1:1')
  const client = await connectTo(t, address)
  client.write('GET / HTTP/1.1\r\nHost: chat.test\r\n\r\n')
  t.match(await client.all(), /^HTTP\/1\.1 426 Upgrade Required\r\n[\s\S]*\r\nUpgrade: websocket\r\n/)
  t.equal((await refused()).code, 'upgrade-required')
})

t.test('what follows an answer that ends the connection is not looked at', async (t) => {
  const origin = await startOrigin(t)
  const { address, refused } = await startTunnel(t, origin.address)
  const client = await connectTo(t, address)
  client.write(`GET / HTTP/1.1\r\nHost: chat.test\r\n\r\n${upgradeRequest()}`)
  t.equal((await client.all()).match(/HTTP\/1\.1 /g)?.length, 1)
  t.equal((await refused()).code, 'upgrade-required')
  t.equal(origin.count, 0)
})
