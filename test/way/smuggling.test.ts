// Requests and answers that try to be two: whatever the edge makes of them, an independent reader at the other side
// (node's own HTTP server as the origin) must never see a request that the client did not openly send.

import { once } from 'node:events'
import { createServer } from 'node:http'
import t, { type Test } from 'tap'
import { startOrigin, upgradeRequest } from '../support/origin.ts'
import { connectTo } from '../support/peer.ts'
import type { Wanted } from '../support/tunnel.ts'
import { startTunnel } from '../support/tunnel.ts'

const WHOLE_SITE: Wanted = {
  service: { routes: [{ match: { upgrade: 'websocket' }, handoff: 'origin' }, { send: 'origin' }] },
}
const HOST = 'Host: chat.test\r\n'
const HIDDEN = `GET /hidden HTTP/1.1\r\n${HOST}\r\n`
const LENGTH = `Content-Length: ${HIDDEN.length}\r\n`
const CHUNKED = `${HIDDEN.length.toString(16)}\r\n${HIDDEN}\r\n0\r\n\r\n`

/** An origin that tells every request that node's parser finds in what it receives, with the length of its body. */
async function startReader(t: Test): Promise<{ address: string; seen: string[] }> {
  const seen: string[] = []
  const server = createServer(async (request, response) => {
    let length = 0
    try {
      for await (const chunk of request) length += (chunk as Buffer).length
    } catch {
      // Cut short by the edge: no request.
      return
    }
    seen.push(`${request.method} ${request.url} ${length}`)
    response.end('seen')
  })
  server.on('clientError', (error: NodeJS.ErrnoException, socket) => {
    if (error.code !== 'ECONNRESET') seen.push('garbage')
    socket.destroy()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return { address: `127.0.0.1:${(server.address() as { port: number }).port}`, seen }
}

/** Each of them hides a request in a body whose length it tries to make unclear. */
const TRICKS: Readonly<Record<string, string>> = {
  'a POST whose Connection names Content-Length': `POST /open HTTP/1.1\r\n${HOST}Connection: Content-Length\r\n${LENGTH}\r\n${HIDDEN}`,
  'a GET whose Connection names Content-Length': `GET /open HTTP/1.1\r\n${HOST}Connection: content-length\r\n${LENGTH}\r\n${HIDDEN}`,
  'a DELETE whose Connection names Content-Length': `DELETE /open HTTP/1.1\r\n${HOST}Connection: close, Content-Length\r\n${LENGTH}\r\n${HIDDEN}`,
  'a POST whose Connection names Transfer-Encoding': `POST /open HTTP/1.1\r\n${HOST}Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n${CHUNKED}`,
  'a GET whose Connection names Transfer-Encoding': `GET /open HTTP/1.1\r\n${HOST}Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n${CHUNKED}`,
  'a GET with a body': `GET /open HTTP/1.1\r\n${HOST}${LENGTH}\r\n${HIDDEN}`,
  'a HEAD with a body': `HEAD /open HTTP/1.1\r\n${HOST}${LENGTH}\r\n${HIDDEN}`,
  'an OPTIONS with a chunked body': `OPTIONS /open HTTP/1.1\r\n${HOST}Transfer-Encoding: chunked\r\n\r\n${CHUNKED}`,
  'chunks with extensions': `POST /open HTTP/1.1\r\n${HOST}Transfer-Encoding: chunked\r\n\r\n${CHUNKED.replace('\r\n', ';a="b"\r\n')}`,
  'trailers that look like framing': `POST /open HTTP/1.1\r\n${HOST}Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n${CHUNKED.replace(/\r\n$/, `${LENGTH}\r\n`)}`,
  'h2c with a body': `POST /open HTTP/1.1\r\n${HOST}Connection: Upgrade\r\nUpgrade: h2c\r\n${LENGTH}\r\n${HIDDEN}`,
  'a body that 100-continue announces': `POST /open HTTP/1.1\r\n${HOST}Expect: 100-continue\r\n${LENGTH}\r\n${HIDDEN}`,
}

for (const [name, bytes] of Object.entries(TRICKS)) {
  t.test(`${name} is one request to the origin, with its whole body, or none`, async (t) => {
    const { address: origin, seen } = await startReader(t)
    const { address } = await startTunnel(t, origin, WHOLE_SITE)
    const client = await connectTo(t, address)
    client.write(bytes)
    const answer = await client.until('\r\n\r\n')
    // Through the pool, behind whatever stands on the connection to the origin by now.
    const second = await connectTo(t, address)
    second.write(`GET /last HTTP/1.1\r\n${HOST}Connection: close\r\n\r\n`)
    t.match(await second.all(), /^HTTP\/1\.1 200 /)
    const [, method] = /^(\S+)/.exec(bytes) ?? []
    const isRefused = /^HTTP\/1\.1 4/.test(answer)
    const expected = isRefused ? ['GET /last 0'] : [`${method} /open ${HIDDEN.length}`, 'GET /last 0']
    t.same(seen, expected)
  })
}

t.test('a body that turns out not to be chunks ends at both sides, and is 400', async (t) => {
  const origin = await startOrigin(t)
  const { address, refused } = await startTunnel(t, origin.address, WHOLE_SITE)
  for (const broken of ['zz\r\n', '2\r\nabcd\r\n', '-1\r\n\r\n', '2 \r\nab\r\n', '2\nab\r\n']) {
    const client = await connectTo(t, address)
    client.write(`POST /open HTTP/1.1\r\n${HOST}Transfer-Encoding: chunked\r\n\r\n3\r\nfoo\r\n`)
    const peer = await origin.next()
    await peer.until('foo')
    client.write(broken)
    t.match(await client.all(), /^HTTP\/1\.1 400 /, JSON.stringify(broken))
    t.equal((await refused()).code, 'head-malformed')
    await Promise.race([peer.ended, peer.closed])
    t.notMatch(peer.text, /\r\n0\r\n\r\n$/, 'the origin does not take it for complete')
  }
})

t.test(
  'a client that leaves in the middle of a body: the origin does not take it for complete',
  async (t) => {
    const origin = await startOrigin(t)
    const { address } = await startTunnel(t, origin.address, WHOLE_SITE)
    for (const how of ['end', 'reset'] as const) {
      const client = await connectTo(t, address)
      client.write(`POST /open HTTP/1.1\r\n${HOST}Transfer-Encoding: chunked\r\n\r\n3\r\nfoo\r\n`)
      const peer = await origin.next()
      await peer.until('foo')
      client[how]()
      await Promise.race([peer.ended, peer.closed])
      t.notMatch(peer.text, /\r\n0\r\n\r\n$/, how)
    }
  },
)

t.test('an answer whose coding is not chunked ends with its connection, also on a kept one', async (t) => {
  const origin = await startOrigin(t, {
    async answer(peer) {
      await peer.until('\r\n\r\n')
      peer.end('HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello')
    },
  })
  const { address } = await startTunnel(t, origin.address, WHOLE_SITE)
  const client = await connectTo(t, address)
  client.write(`GET / HTTP/1.1\r\n${HOST}\r\n`)
  t.match(await client.all(), /\r\nConnection: close\r\n[\s\S]*hello/)
})

t.test('what an origin sends unasked on a kept connection answers nobody', async (t) => {
  const origin = await startOrigin(t)
  const { address } = await startTunnel(t, origin.address, WHOLE_SITE)
  const first = await connectTo(t, address)
  first.write(`GET /first HTTP/1.1\r\n${HOST}Connection: close\r\n\r\n`)
  const peer = await origin.next()
  await peer.until('\r\n\r\n')
  peer.write(
    'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirstHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil',
  )
  t.match(await first.all(), /\r\n\r\nfirst$/)
  // Whichever connection the pool takes for the second request, its answer is the one given to it.
  const second = await connectTo(t, address)
  second.write(`GET /second HTTP/1.1\r\n${HOST}Connection: close\r\n\r\n`)
  const right = 'HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond'
  void origin.next().then(async (other) => {
    await other.until('/second')
    other.write(right)
  })
  void peer.until('/second').then(
    () => peer.write(right),
    () => {},
  )
  t.match(await second.all(), /\r\n\r\nsecond$/)
})

t.test('a refused upgrade with a whole request behind it, in each way to be refused', async (t) => {
  const { address: origin, seen } = await startReader(t)
  const { address } = await startTunnel(t, origin, WHOLE_SITE)
  const refused = [
    upgradeRequest({ 'Sec-WebSocket-Version': '8' }),
    upgradeRequest({ 'Sec-WebSocket-Key': 'short' }),
    upgradeRequest({ 'Content-Length': String(HIDDEN.length) }),
    upgradeRequest({ 'Transfer-Encoding': 'chunked' }),
    upgradeRequest({ Expect: '100-continue' }),
    upgradeRequest({ Host: '' }),
  ]
  for (const bytes of refused) {
    const client = await connectTo(t, address)
    client.write(bytes + HIDDEN)
    const answer = await client.all()
    t.match(answer, /^HTTP\/1\.1 4[0-9]{2} [\s\S]*\r\nConnection: close\r\n/)
    t.equal(answer.match(/HTTP\/1\.1 /g)?.length, 1)
  }
  t.same(seen, [])
})
