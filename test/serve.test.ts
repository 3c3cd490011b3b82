// WebSockets that end in a handler: what their clients see, and how they are listed, counted and ended.

import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Test } from 'tap'
import t from 'tap'
import type { Handler, LocalSocket, TroubleEvent } from '../src/index.ts'
import { createTunnel, respond, serve, sessions } from '../src/index.ts'
import { selfSigned } from './support/certificates.ts'
import { upgradeRequest } from './support/origin.ts'
import { connectTo } from './support/peer.ts'
import type { ServiceInput, Started } from './support/tunnel.ts'
import { startTunnel } from './support/tunnel.ts'
import { talkTo } from './support/websocket.ts'

/** Text `text` in a frame of a client, masked with zeros (RFC 6455 section 5.3). */
function frameOf(text: string): Buffer {
  return Buffer.concat([Buffer.from([0x81, 0x80 | text.length, 0, 0, 0, 0]), Buffer.from(text)])
}

function echo(socket: LocalSocket): void {
  socket.addEventListener('message', ({ data }) => socket.send(data as string | ArrayBuffer))
}

async function start(
  t: Test,
  handler: Handler,
  service: Partial<ServiceInput> = {},
  more: Parameters<typeof startTunnel>[2] = {},
): Promise<Started> {
  return await startTunnel(t, '127.0.0.1:1', { ...more, service: { handler, ...service } })
}

function troublesOf({ tunnel }: Started): TroubleEvent[] {
  const troubles: TroubleEvent[] = []
  tunnel.on('trouble', (event) => troubles.push(event))
  return troubles
}

t.test('texts and bytes come back, and the session is a tunnel whose origin is local', async (t) => {
  const started = await start(t, (request) => serve(request, echo))
  const talker = await talkTo(t, started.address, '/echo')
  talker.socket.send('hello')
  t.equal(await talker.next(), 'hello')
  talker.socket.send(Buffer.from([1, 2, 255]))
  t.equal(await talker.next(), 'binary 0102ff')
  const { tunnels } = await started.tunnel.tunnels()
  t.match(tunnels, [
    {
      service: 'chat',
      backend: 'local',
      origin: 'local',
      engine: 'stream',
      // Frames as they are on the wire: headers of 2 bytes, masks of 4.
      bytes: { clientToOrigin: 2 + 4 + 5 + 2 + 4 + 3, originToClient: 2 + 5 + 2 + 3 },
    },
  ])
  talker.socket.close(1000)
  t.match(await talker.closed, { code: 1000 })
  const bytes = { clientToOrigin: 20 + 8, originToClient: 12 + 4 }
  t.match(await started.closed(), { end: 'client-fin-tunnel', origin: 'local', backend: 'local', bytes })
  const { services } = await started.tunnel.usage()
  t.match(services, [{ service: 'chat', connections: 1, minutes: 1, bytes }])
  t.equal(started.tunnel.size, 0)
})

t.test('bytes that came behind the request are the first message', async (t) => {
  const { address } = await start(t, async (request) => serve(request, echo))
  const client = await connectTo(t, address)
  client.write(Buffer.concat([Buffer.from(upgradeRequest()), frameOf('early')]))
  t.match(
    await client.until('early'),
    /^HTTP\/1\.1 101 [\s\S]*s3pPLMBiTxaQ9kYGzzhZRbK\+xOo=\r\n\r\n\x81\x05early$/,
  )
})

t.test('what code sends at once comes right behind the 101', async (t) => {
  const { address } = await start(t, (request) => serve(request, (socket) => socket.send('welcome')))
  const talker = await talkTo(t, address)
  t.equal(await talker.next(), 'welcome')
})

t.test('a listener that throws ends its own socket alone, and the log says where it was', async (t) => {
  const started = await start(t, (request) =>
    serve(request, (socket) => {
      socket.addEventListener('message', ({ data }) => {
        if (data === 'throw') throw new Error('boom')
        socket.send(String(data))
      })
      socket.addEventListener('message', async ({ data }) => {
        if (data === 'reject') throw new Error('bang')
      })
    }),
  )
  const troubles = troublesOf(started)
  const other = await talkTo(t, started.address)
  for (const word of ['throw', 'reject']) {
    const talker = await talkTo(t, started.address)
    talker.socket.send(word)
    t.match(await talker.closed, { code: 1011 })
    t.match(await started.closed(), { end: 'origin-error-tunnel' })
  }
  t.match(troubles, [
    { code: 'handler-failed', detail: /boom \(\/.*serve\.test\.[jt]s:\d+:\d+\)$/ },
    { code: 'handler-failed', detail: /bang \(\/.*serve\.test\.[jt]s:\d+:\d+\)$/ },
  ])
  other.socket.send('still here')
  t.equal(await other.next(), 'still here')
})

t.test('a callback that throws when the socket opens ends it with 1011', async (t) => {
  const { address } = await start(t, (request) =>
    serve(request, () => {
      throw new Error('no')
    }),
  )
  t.match(await (await talkTo(t, address)).closed, { code: 1011 })
})

t.test('those who join a session of one name hear each other, and nobody else', async (t) => {
  const left: string[] = []
  const started = await start(t, (request) =>
    sessions.get(request.path).join(request, (socket, room) => {
      room.state.count = Number(room.state.count ?? 0) + 1
      socket.addEventListener('message', ({ data }) => {
        for (const one of room.sockets) one.send(`${room.name} ${room.state.count}: ${data}`)
      })
      socket.addEventListener('close', ({ code }) => left.push(`${code} ${room.sockets.size}`))
    }),
  )
  const talkers = await Promise.all(['/red', '/red', '/blue'].map((path) => talkTo(t, started.address, path)))
  const [red, second, blue] = talkers
  red?.socket.send('hi')
  t.equal(await second?.next(), '/red 2: hi')
  t.equal(await red?.next(), '/red 2: hi')
  blue?.socket.send('ho')
  t.equal(await blue?.next(), '/blue 1: ho')
  for (const { socket } of talkers) {
    socket.close(4000)
    await started.closed()
  }
  t.strictSame(left, ['4000 1', '4000 0', '4000 0'])
  const again = await talkTo(t, started.address, '/red')
  again.socket.send('new')
  t.equal(await again.next(), '/red 1: new', 'the last one has taken the state along')
})

t.test('an operator ends it with a close frame, or at once', async (t) => {
  const started = await start(t, (request) => serve(request, echo))
  const first = await talkTo(t, started.address)
  t.equal(await started.tunnel.end({ service: 'chat' }), 1)
  t.match(await first.closed, { code: 1001 })
  t.match(await started.closed(), { end: 'operator-fin-tunnel' })
  const client = await connectTo(t, started.address)
  client.write(upgradeRequest())
  await client.until('\r\n\r\n')
  await started.tunnel.end({ service: 'chat' }, 'reset')
  t.equal(await client.closed, 'ECONNRESET')
  t.match(await started.closed(), { end: 'operator-reset-tunnel' })
  const last = await talkTo(t, started.address)
  await Promise.all([started.tunnel.close(), last.closed.then(({ code }) => t.equal(code, 1001))])
})

t.test('one that the code closes ends by its origin', async (t) => {
  const started = await start(t, (request) => serve(request, (socket) => socket.close(4001, 'enough')))
  t.match(await (await talkTo(t, started.address)).closed, { code: 4001, reason: 'enough' })
  t.match(await started.closed(), { end: 'origin-fin-tunnel' })
})

t.test('a client that resets is told to the code as 1006', async (t) => {
  let told: (code: number | undefined) => void = () => {}
  const closed = new Promise<number | undefined>((resolve) => {
    told = resolve
  })
  const started = await start(t, (request) =>
    serve(request, (socket) => socket.addEventListener('close', ({ code }) => told(code))),
  )
  const client = await connectTo(t, started.address)
  client.write(upgradeRequest())
  await client.until('\r\n\r\n')
  client.reset()
  t.equal(await closed, 1006)
  t.match(await started.closed(), { end: 'client-reset-tunnel', error: 'ECONNRESET' })
})

t.test('a message over maxPayload ends its session with 1009', async (t) => {
  const started = await start(t, (request) => serve(request, echo), { local: { maxPayload: '1KiB' } })
  const talker = await talkTo(t, started.address)
  talker.socket.send('x'.repeat(1_024))
  t.equal((await talker.next()).length, 1_024)
  talker.socket.send('x'.repeat(1_025))
  t.match(await talker.closed, { code: 1009 })
  t.match(await started.closed(), { end: 'client-error-tunnel', error: 'WS_ERR_UNSUPPORTED_MESSAGE_LENGTH' })
})

t.test('a client that does not read is ended, and what waits for it is bounded', async (t) => {
  let most = 0
  const started = await start(
    t,
    (request) =>
      serve(request, (socket) => {
        const flood = () => {
          if (socket.readyState !== socket.OPEN) return
          socket.send('x'.repeat(65_536))
          most = Math.max(most, socket.bufferedAmount)
          setImmediate(flood)
        }
        flood()
      }),
    { local: { maxBuffered: '1MiB' } },
  )
  const client = await connectTo(t, started.address)
  client.socket.pause()
  client.write(upgradeRequest())
  t.match(await started.closed(), { end: 'client-timeout-tunnel', error: 'ENOBUFS' })
  t.ok(most < 1_048_576 + 2 * 65_600, `${most} bytes`)
})

t.test('over TLS, and from the server of an embedder', async (t) => {
  const { certificate, key } = await selfSigned({ names: ['chat.test'] })
  const listeners = [{ address: '127.0.0.1:0', tls: { certificate, key } }]
  const started = await start(t, (request) => serve(request, echo), {}, { listeners })
  const client = await connectTo(t, started.address, { servername: 'chat.test' })
  client.write(upgradeRequest())
  await client.until('\r\n\r\n')
  client.write(frameOf('secret'))
  await client.until('\x81\x06secret')
  client.end()
  const bytes = { clientToOrigin: 12, originToClient: 8 + 4 }
  t.match(await started.closed(), { end: 'client-fin-tunnel', bytes })

  const server = createServer()
  server.on('upgrade', (request, socket, head) => started.tunnel.upgrade(request, socket, head))
  t.teardown(() => server.close())
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const talker = await talkTo(t, `127.0.0.1:${(server.address() as AddressInfo).port}`)
  talker.socket.send('embedded')
  t.equal(await talker.next(), 'embedded')
})

t.test('the seat of a gate is given back with the session', async (t) => {
  const started = await start(t, (request) => serve(request, echo), { gate: { maxConnections: 1 } })
  const first = await talkTo(t, started.address)
  await t.rejects(talkTo(t, started.address), /503/)
  first.socket.close()
  await started.closed()
  await talkTo(t, started.address)
})

t.test('a subprotocol is chosen among those that were offered', async (t) => {
  const started = await start(t, (request) => serve(request, echo, { protocol: 'chat.v2' }))
  const talker = await talkTo(t, started.address, '/', { protocols: ['chat.v1', 'chat.v2'] })
  t.equal(talker.socket.protocol, 'chat.v2')
  await t.rejects(talkTo(t, started.address, '/', { protocols: ['chat.v1'] }), /500/)
  t.match(await started.refused(), {
    code: 'handler-failed',
    detail: /did not offer the subprotocol chat\.v2/,
  })
})

t.test('permessage-deflate is offered only if the config says so', async (t) => {
  for (const deflate of [false, true]) {
    const { address } = await start(t, (request) => serve(request, echo), { local: { deflate } })
    const talker = await talkTo(t, address)
    t.equal(talker.socket.extensions, deflate ? 'permessage-deflate' : '')
    talker.socket.send('x'.repeat(5_000))
    t.equal(await talker.next(), 'x'.repeat(5_000))
  }
})

t.test('what serve can not do is told', async (t) => {
  const wrong = createTunnel({ services: [{ id: 'a', domains: ['*'], handler: () => respond(204) }] })
  await wrong.close()
  const started = await start(t, (request) =>
    request.path === '/name' ? sessions.get('').join(request, echo) : serve(request, null as never),
  )
  await t.rejects(talkTo(t, started.address, '/name'), /500/)
  t.match(await started.refused(), { code: 'handler-failed', detail: /a name is a text of 1 to 512 bytes/ })
  await t.rejects(talkTo(t, started.address), /500/)
  t.match(await started.refused(), { code: 'handler-failed', detail: /the second argument is no function/ })
  const response = await fetch(`http://${started.address}/plain`)
  t.equal(response.status, 500)
  t.match(await started.refused(), { detail: /the request is no WebSocket upgrade/ })
})
