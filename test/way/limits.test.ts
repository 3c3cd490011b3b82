// The limits of a head on each way on which a head can come: the first of a connection, a later one behind plain requests,
// one that another server has parsed; over TCP, TLS and a Unix socket. And what they must not touch.

import { once } from 'node:events'
import { createServer } from 'node:http'
import t, { type Test } from 'tap'
import { socketPath } from '../support/accepting.ts'
import { selfSigned } from '../support/certificates.ts'
import { echo, startOrigin, switching, upgradeRequest } from '../support/origin.ts'
import type { Peer } from '../support/peer.ts'
import { connectTo } from '../support/peer.ts'
import type { Wanted } from '../support/tunnel.ts'
import { startTunnel } from '../support/tunnel.ts'

const PLAIN = 'GET / HTTP/1.1\r\nHost: chat.test\r\n\r\n'
const ROUTES = [{ match: { upgrade: 'websocket' as const }, handoff: 'origin' }, { respond: { status: 200 } }]
/** In ms; long enough for a TLS handshake on a busy machine, which it covers. */
const HEAD_TIMEOUT = 800
const LIMITS = { headSize: 2_048, headFields: 20 }

interface Entrance {
  readonly name: string
  /** A connection whose next bytes are a head. */
  enter(t: Test, wanted?: Wanted): Promise<{ client: Peer; refused: () => Promise<{ code: string }> }>
}

async function started(t: Test, wanted: Wanted = {}) {
  const origin = await startOrigin(t, { answer: echo })
  return startTunnel(t, origin.address, {
    service: { routes: ROUTES },
    options: { limits: LIMITS },
    ...wanted,
  })
}

const ENTRANCES: readonly Entrance[] = [
  {
    name: 'TCP',
    async enter(t, wanted) {
      const { address, refused } = await started(t, wanted)
      return { client: await connectTo(t, address), refused }
    },
  },
  {
    name: 'TLS',
    async enter(t, wanted) {
      const tls = await selfSigned({ names: ['chat.test'] })
      const listeners = [{ address: '127.0.0.1:0', tls }]
      const { address, refused } = await started(t, { ...wanted, listeners })
      return { client: await connectTo(t, address, {}), refused }
    },
  },
  {
    name: 'a Unix socket',
    async enter(t, wanted) {
      const listeners = [{ address: `unix:${await socketPath(t)}` }]
      const { address, refused } = await started(t, { ...wanted, listeners })
      return { client: await connectTo(t, address), refused }
    },
  },
  {
    name: 'a connection that was kept alive',
    async enter(t, wanted) {
      const { address, refused } = await started(t, wanted)
      const client = await connectTo(t, address)
      client.write(PLAIN)
      await client.until('\r\n\r\n')
      return { client, refused }
    },
  },
  {
    name: 'the upgrade event of another server',
    async enter(t, wanted) {
      const { tunnel, refused } = await started(t, wanted)
      const server = createServer()
      server.on('upgrade', (request, socket, head) => tunnel.upgrade(request, socket, head, 'origin'))
      server.listen(0, '127.0.0.1')
      await once(server, 'listening')
      t.teardown(() => {
        server.closeAllConnections()
        server.close()
      })
      const { port } = server.address() as { port: number }
      return { client: await connectTo(t, `127.0.0.1:${port}`), refused }
    },
  },
]

/** A head with this many fields: five are those of the handshake. */
function headOf(count: number): string {
  return upgradeRequest(Object.fromEntries(Array.from({ length: count - 5 }, (_, at) => [`X-${at}`, '1'])))
}

for (const { name, enter } of ENTRANCES) {
  t.test(`${name}: as many fields as allowed are a tunnel, one more is 431`, async (t) => {
    const exact = await enter(t)
    exact.client.write(headOf(LIMITS.headFields))
    t.match(await exact.client.until('HTTP/1.1 101 '), /HTTP\/1\.1 101 /)
    const over = await enter(t)
    over.client.write(headOf(LIMITS.headFields + 1))
    t.match(await over.client.until('HTTP/1.1 431 '), /HTTP\/1\.1 431 /)
    t.equal((await over.refused()).code, 'head-too-many-fields')
  })
}

for (const { name, enter } of ENTRANCES.slice(0, 4)) {
  t.test(`${name}: a head that is too large is 431`, async (t) => {
    const { client, refused } = await enter(t)
    client.write(upgradeRequest({ 'X-Fill': 'x'.repeat(LIMITS.headSize) }))
    t.match(await client.all(), /HTTP\/1\.1 431 [\s\S]*\r\nConnection: close\r\n/)
    t.equal((await refused()).code, 'head-too-large')
  })

  t.test(`${name}: a head that drips in for ever is 408 when its time is over`, async (t) => {
    const { client, refused } = await enter(t, {
      options: { limits: { ...LIMITS, headSize: 16_384, headTimeout: HEAD_TIMEOUT } },
    })
    client.write(upgradeRequest().replace(/\r\n$/, 'X-Drip: '))
    const dripping = setInterval(() => client.write('x'), 10)
    t.teardown(() => clearInterval(dripping))
    t.match(await client.all(), /HTTP\/1\.1 408 [\s\S]*\r\nConnection: close\r\n/)
    t.equal((await refused()).code, 'head-timeout')
  })
}

for (const { name, enter } of ENTRANCES.slice(0, 3)) {
  t.test(`${name}: a client that never says a word is 408`, async (t) => {
    const { client, refused } = await enter(t, { options: { limits: { headTimeout: HEAD_TIMEOUT } } })
    t.match(await client.all(), /^HTTP\/1\.1 408 /)
    t.equal((await refused()).code, 'head-timeout')
  })
}

t.test('empty lines that drip in do not buy time, and many of them are 400', async (t) => {
  const { address, refused } = await started(t, { options: { limits: { headTimeout: HEAD_TIMEOUT } } })
  const few = await connectTo(t, address)
  few.write('\r\n')
  t.match(await few.all(), /^HTTP\/1\.1 408 /)
  t.equal((await refused()).code, 'head-timeout')
  const many = await connectTo(t, address)
  many.write('\r\n'.repeat(1_000))
  t.match(await many.all(), /^HTTP\/1\.1 400 /)
  t.equal((await refused()).code, 'head-malformed')
})

t.test('a handshake that drips in is cut off in time, without a word', async (t) => {
  const tls = await selfSigned({ names: ['chat.test'] })
  const { address, refused } = await started(t, {
    options: { limits: { headTimeout: HEAD_TIMEOUT } },
    listeners: [{ address: '127.0.0.1:0', tls }],
  })
  const client = await connectTo(t, address)
  // The head of a record of 512 bytes, the beginning of a ClientHello.
  client.write('\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03')
  const dripping = setInterval(() => client.write('\0'), 10)
  t.teardown(() => clearInterval(dripping))
  t.equal(await client.all(), '')
  t.equal((await refused()).end, 'client-timeout-tls')
})

t.test('bytes before the 101: over TLS, and up to the byte of the bound', async (t) => {
  const earlySize = 1_000
  const tls = await selfSigned({ names: ['chat.test'] })
  const origin = await startOrigin(t)
  const { addresses } = await startTunnel(t, origin.address, {
    options: { limits: { earlySize } },
    listeners: [{ address: '127.0.0.1:0' }, { address: '127.0.0.1:0', tls }],
  })
  for (const [at, address] of addresses.entries()) {
    for (const size of [1, earlySize - 1, earlySize, earlySize + 1, 300_000]) {
      for (const isTogether of [true, false]) {
        const early = Buffer.alloc(size, 'early').toString('latin1')
        const client = await connectTo(t, address, at === 1 ? {} : undefined)
        client.write(upgradeRequest() + (isTogether ? early : ''))
        const peer = await origin.next()
        const head = await peer.until('\r\n\r\n')
        if (!isTogether) client.write(early)
        peer.write(switching(head))
        await client.until('\r\n\r\n')
        client.write('late')
        const all = await peer.until(head.length + size + 4)
        t.ok(all.slice(head.length) === `${early}late`, `${size} bytes, together: ${isTogether}`)
      }
    }
  }
})
