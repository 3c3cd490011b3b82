// The way from accept to the 101, and everything that can go wrong on it.

import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { respond } from '../../src/index.ts'
import { selfSigned } from '../support/certificates.ts'
import { echo, startOrigin, switching, upgradeRequest } from '../support/origin.ts'
import { connectTo, placeOf } from '../support/peer.ts'
import { startTunnel } from '../support/tunnel.ts'

t.test('a head that trickles in is read; one that never ends is 408', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const { address, refused } = await startTunnel(t, origin.address, {
    options: { limits: { headTimeout: 500 } },
  })
  const patient = await connectTo(t, address)
  for (const byte of upgradeRequest()) patient.write(byte)
  t.match(await patient.until('\r\n\r\n'), /^HTTP\/1\.1 101 /)

  const slow = await connectTo(t, address)
  slow.write('GET /chat HTTP/1.1\r\nHost: chat.test\r\nX-')
  t.match(await slow.all(), /^HTTP\/1\.1 408 Request Timeout\r\n[\s\S]*\r\nConnection: close\r\n/)
  t.equal((await refused()).end, 'client-timeout-head')
  t.equal(origin.count, 1, 'the origin heard nothing of it')
})

t.test('the deadline covers the TLS handshake', async (t) => {
  const { certificate, key } = await selfSigned({ names: ['chat.test'] })
  const origin = await startOrigin(t)
  const { address, refused } = await startTunnel(t, origin.address, {
    options: { limits: { headTimeout: 300 } },
    listeners: [{ address: '127.0.0.1:0', tls: { certificate, key } }],
  })
  const silent = await connectTo(t, address)
  t.equal(await silent.all(), '', 'nothing that TLS could not read')
  t.equal((await refused()).end, 'client-timeout-tls')
  const shaken = await connectTo(t, address, {})
  t.match(await shaken.all(), /^HTTP\/1\.1 408 /)
  t.equal((await refused()).end, 'client-timeout-head')
})

t.test('a head at the limit is read, one byte more is 431', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const limits = { headSize: 1024, headFields: 20 }
  const { address, refused } = await startTunnel(t, origin.address, { options: { limits } })
  const room = limits.headSize - upgradeRequest({ 'X-Fill': 'x' }).length + 1
  const exact = await connectTo(t, address)
  exact.write(upgradeRequest({ 'X-Fill': 'x'.repeat(room) }))
  t.match(await exact.until('\r\n\r\n'), /^HTTP\/1\.1 101 /)
  const over = await connectTo(t, address)
  over.write(upgradeRequest({ 'X-Fill': 'x'.repeat(room + 1) }))
  t.match(await over.all(), /^HTTP\/1\.1 431 /)
  t.equal((await refused()).code, 'head-too-large')
  const endless = await connectTo(t, address)
  endless.write(`GET /${'x'.repeat(100_000)}`)
  t.match(await endless.all(), /^HTTP\/1\.1 431 /)
  t.equal((await refused()).code, 'head-too-large')
  const many = await connectTo(t, address)
  many.write(upgradeRequest(Object.fromEntries(Array.from({ length: 16 }, (_, at) => [`X-${at}`, '1']))))
  t.match(await many.all(), /^HTTP\/1\.1 431 /)
  t.equal((await refused()).code, 'head-too-many-fields')
})

t.test(
  'bytes that a client sends before the 101 reach the origin after it, intact and not before',
  async (t) => {
    const origin = await startOrigin(t)
    const { address } = await startTunnel(t, origin.address)
    const client = await connectTo(t, address)
    client.write(`${upgradeRequest()}first`)
    const peer = await origin.next()
    const head = await peer.until('\r\n\r\n')
    client.write('second')
    t.match(head, /\r\n\r\n$/, 'only the head until now')
    peer.write(`${switching(head)}welcome`)
    t.match(await client.until('welcome'), /\r\n\r\nwelcome$/)
    t.equal((await peer.until('second')).slice(head.length), 'firstsecond')
  },
)

t.test('a client that pushes before the 101 is stopped, and all that it sent arrives', async (t) => {
  const origin = await startOrigin(t)
  const { address } = await startTunnel(t, origin.address)
  const client = await connectTo(t, address)
  const megabytes = Buffer.alloc(20 * 1024 * 1024, 'early')
  client.write(upgradeRequest())
  const sent = new Promise((resolve) => client.socket.write(megabytes, resolve))
  const peer = await origin.next()
  const head = await peer.until('\r\n\r\n')
  let isSent = false
  void sent.then(() => {
    isSent = true
  })
  // Another tunnel passes as many bytes meanwhile.
  const other = await connectTo(t, address)
  other.write(upgradeRequest())
  const otherPeer = await origin.next()
  otherPeer.write(switching(await otherPeer.until('\r\n\r\n')))
  await other.until('\r\n\r\n')
  other.write(megabytes)
  await otherPeer.until(megabytes.length)
  t.notOk(isSent, 'it was stopped')
  t.equal(peer.size, head.length, 'the origin has the head only')
  peer.write(switching(head))
  await sent
  await peer.until(head.length + megabytes.length)
  t.ok(peer.received.subarray(head.length).equals(megabytes))
})

for (const how of ['end', 'reset'] as const) {
  t.test(
    `a client that leaves by ${how} while the origin is silent takes the origin's connection with it`,
    async (t) => {
      const origin = await startOrigin(t)
      const { address, refused } = await startTunnel(t, origin.address)
      const client = await connectTo(t, address)
      client.write(upgradeRequest())
      const peer = await origin.next()
      await peer.until('\r\n\r\n')
      client[how]()
      await Promise.race([peer.ended, peer.closed])
      const { code, end } = await refused()
      t.equal(code, how === 'end' ? 'client-closed' : 'client-reset')
      t.equal(end, how === 'end' ? 'client-fin-answer' : 'client-reset-answer')
    },
  )
}

t.test('nobody listens: 502, and the log knows why', async (t) => {
  const { address, refused } = await startTunnel(t, '127.0.0.1:1')
  const client = await connectTo(t, address)
  client.write(upgradeRequest())
  const answer = await client.all()
  t.match(answer, /^HTTP\/1\.1 502 Bad Gateway\r\n/)
  t.match(answer, /\r\n\r\n502 Bad Gateway: the origin refused the connection \(request \S+\)\n$/)
  t.notMatch(answer, /127\.0\.0\.1/, 'the client learns no address')
  const event = await refused()
  t.equal(event.detail, 'ECONNREFUSED 127.0.0.1:1')
  t.equal(event.end, 'origin-refused-dial')
})

t.test('a silent origin: 504, also if it sends interim answers for ever', async (t) => {
  const origin = await startOrigin(t)
  const { address, refused } = await startTunnel(t, origin.address, { backend: { firstByteTimeout: 300 } })
  const client = await connectTo(t, address)
  client.write(upgradeRequest())
  const peer = await origin.next()
  await peer.until('\r\n\r\n')
  peer.write('HTTP/1.1 102 Processing\r\n\r\n')
  t.match(await client.all(), /^HTTP\/1\.1 102 Processing\r\n\r\nHTTP\/1\.1 504 Gateway Timeout\r\n/)
  await Promise.race([peer.ended, peer.closed])
  t.equal((await refused()).code, 'answer-timeout')

  const second = await connectTo(t, address)
  second.write(upgradeRequest())
  const chatty = await origin.next()
  await chatty.until('\r\n\r\n')
  chatty.write('HTTP/1.1 102 Processing\r\n\r\n'.repeat(40))
  t.match(await second.all(), /HTTP\/1\.1 502 Bad Gateway\r\n/)
  t.equal((await refused()).code, 'answer-malformed')
})

t.test('an origin that resets the connection, or sends a huge head: 502', async (t) => {
  const origin = await startOrigin(t)
  const { address, refused } = await startTunnel(t, origin.address)
  const first = await connectTo(t, address)
  first.write(upgradeRequest())
  const peer = await origin.next()
  await peer.until('\r\n\r\n')
  peer.reset()
  t.match(await first.all(), /^HTTP\/1\.1 502 /)
  t.equal((await refused()).end, 'origin-reset-answer')
  const second = await connectTo(t, address)
  second.write(upgradeRequest())
  const huge = await origin.next()
  await huge.until('\r\n\r\n')
  huge.write(`HTTP/1.1 101 Switching Protocols\r\nX-Fill: ${'x'.repeat(20_000)}\r\n`)
  t.match(await second.all(), /^HTTP\/1\.1 502 /)
  t.equal((await refused()).code, 'answer-too-large')
})

t.test('an answer that is cut short is a RST for the client, never a complete answer', async (t) => {
  const origin = await startOrigin(t)
  const { address, refused } = await startTunnel(t, origin.address)
  const client = await connectTo(t, address)
  client.write(upgradeRequest())
  const peer = await origin.next()
  await peer.until('\r\n\r\n')
  peer.write('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf')
  await client.until('half')
  peer.end()
  t.equal(await client.closed, 'ECONNRESET')
  t.equal((await refused()).code, 'answer-closed')
})

t.test('a large answer goes to a slow client at its pace, whole', async (t) => {
  const body = Buffer.alloc(30_000_000, 'answer')
  const origin = await startOrigin(t, {
    async answer(peer) {
      await peer.until('\r\n\r\n')
      peer.write(`HTTP/1.1 403 Forbidden\r\nContent-Length: ${body.length}\r\n\r\n`)
      peer.write(body)
    },
  })
  const { address } = await startTunnel(t, origin.address)
  const client = await connectTo(t, address)
  client.socket.pause()
  client.write(upgradeRequest())
  setImmediate(() => client.socket.resume())
  await client.all()
  t.ok(client.received.subarray(-body.length).equals(body))
})

t.test('maxConnections: one more is 503, and a place that gets free is used', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const started = await startTunnel(t, origin.address, { backend: { maxConnections: 2 } })
  const open = async () => {
    const client = await connectTo(t, started.address)
    client.write(upgradeRequest())
    return { client, head: await client.until('\r\n\r\n') }
  }
  const first = await open()
  await open()
  const third = await open()
  t.match(third.head, /^HTTP\/1\.1 503 /)
  t.equal((await started.refused()).code, 'backend-full')
  first.client.end()
  await started.closed()
  t.match((await open()).head, /^HTTP\/1\.1 101 /)
})

t.test('an origin on a Unix socket, and a tunnel on one', async (t) => {
  // Short: a path of a Unix socket has at most 107 bytes.
  const folder = await mkdtemp(join(tmpdir(), 'headrace-'))
  t.teardown(() => rm(folder, { recursive: true }))
  const inner = await startTunnel(t, (await startOrigin(t, { answer: echo })).address, {
    listeners: [{ address: `unix:${folder}/inner.sock` }],
  })
  const outer = await startTunnel(t, inner.address)
  const client = await connectTo(t, outer.address)
  client.write(`${upgradeRequest()}through both`)
  t.match(await client.until('through both'), /^HTTP\/1\.1 101 /)
})

t.test('one misbehaving connection does not disturb the others', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const started = await startTunnel(t, origin.address, {
    service: {
      handlerTimeout: 200,
      handler: async (request) => {
        if (request.path === '/throws') throw new Error('from the handler')
        if (request.path === '/hangs') return await new Promise(() => {})
        if (request.path === '/nonsense') return 'nonsense' as never
        if (request.path === '/nobody') return { kind: 'handoff', backend: 'nobody' }
        if (request.path === '/injects') request.headers.set('X-Name', 'a\r\nX-Evil: 1')
        if (request.path === '/answers') return respond(418, 'short and stout\n', { 'X-Pot': 'tea' })
        return { kind: 'handoff', backend: 'origin' }
      },
    },
  })
  started.tunnel.on('accepted', () => {
    throw new Error('from a listener')
  })
  const steady = await connectTo(t, started.address)
  steady.write(upgradeRequest({}, '/fine'))
  await steady.until('\r\n\r\n')
  const outcomes = {
    '/throws': [500, 'handler-failed'],
    '/hangs': [500, 'handler-timeout'],
    '/nonsense': [500, 'handler-failed'],
    '/nobody': [500, 'backend-unknown'],
    '/injects': [500, 'handler-failed'],
  } as const
  for (const [path, [status, code]] of Object.entries(outcomes)) {
    const client = await connectTo(t, started.address)
    client.write(upgradeRequest({}, path))
    t.match(await client.all(), new RegExp(`^HTTP/1\\.1 ${status} `), path)
    t.equal((await started.refused()).code, code)
  }
  const pot = await connectTo(t, started.address)
  pot.write(upgradeRequest({}, '/answers'))
  t.match(
    await pot.all(),
    /^HTTP\/1\.1 418 I'm a Teapot\r\nX-Pot: tea\r\nContent-Length: 16\r\nConnection: close\r\n\r\nshort and stout\n$/,
  )
  const garbage = connect(placeOf(started.address))
  garbage.end('\x16\x03\x01')
  garbage.resume()
  await once(garbage, 'close')
  steady.write('still here')
  await steady.until('still here')
  t.equal(started.tunnel.size, 1)
})

t.test('close at once refuses what is on its way', async (t) => {
  const origin = await startOrigin(t)
  const started = await startTunnel(t, origin.address)
  const client = await connectTo(t, started.address)
  client.write(upgradeRequest())
  const peer = await origin.next()
  await peer.until('\r\n\r\n')
  await started.tunnel.close()
  t.match(await client.all(), /^HTTP\/1\.1 503 /)
  t.equal((await started.refused()).end, 'operator-refused-answer')
  const late = connect(placeOf(started.address))
  const [error] = (await once(late, 'error')) as [NodeJS.ErrnoException]
  t.equal(error.code, 'ECONNREFUSED')
})
