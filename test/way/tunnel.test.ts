// Established tunnels on real sockets: what goes in at one end comes out at the other, ends included.

import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { connect } from 'node:net'
import { connect as connectTls } from 'node:tls'
import t, { type Test } from 'tap'
import { selfSigned } from '../support/certificates.ts'
import type { Origin } from '../support/origin.ts'
import { echo, startOrigin, switching, upgradeRequest } from '../support/origin.ts'
import type { Peer } from '../support/peer.ts'
import { connectTo, placeOf } from '../support/peer.ts'
import type { Started } from '../support/tunnel.ts'
import { startTunnel } from '../support/tunnel.ts'

interface Open {
  readonly client: Peer
  readonly origin: Peer
}

async function open(t: Test, { address }: Started, origin: Origin): Promise<Open> {
  const client = await connectTo(t, address)
  client.write(upgradeRequest())
  const peer = await origin.next()
  peer.write(switching(await peer.until('\r\n\r\n')))
  await client.until('\r\n\r\n')
  return { client, origin: peer }
}

t.test('half-close by the client: the origin hears FIN, answers, and ends it', async (t) => {
  const origin = await startOrigin(t)
  const started = await startTunnel(t, origin.address)
  const ends = await open(t, started, origin)
  ends.client.end('that is all')
  await ends.origin.ended
  t.match(ends.origin.text, /that is all$/)
  ends.origin.end('farewell')
  t.match(await ends.client.all(), /farewell$/)
  const { end, bytes } = await started.closed()
  t.equal(end, 'client-fin-tunnel')
  t.same(bytes, { clientToOrigin: 11, originToClient: 8 })
})

t.test('half-close by the origin: the client hears FIN, still sends, and ends it', async (t) => {
  const origin = await startOrigin(t)
  const started = await startTunnel(t, origin.address)
  const ends = await open(t, started, origin)
  ends.origin.end('that is all')
  await ends.client.ended
  t.match(ends.client.text, /that is all$/)
  ends.client.end('farewell')
  t.match(await ends.origin.all(), /farewell$/)
  const { end } = await started.closed()
  t.equal(end, 'origin-fin-tunnel')
})

t.test('a RST of one side is a RST at the other', async (t) => {
  const origin = await startOrigin(t)
  const started = await startTunnel(t, origin.address)
  const first = await open(t, started, origin)
  first.client.reset()
  t.equal(await first.origin.closed, 'ECONNRESET')
  t.equal((await started.closed()).end, 'client-reset-tunnel')
  const second = await open(t, started, origin)
  second.origin.reset()
  t.equal(await second.client.closed, 'ECONNRESET')
  t.equal((await started.closed()).end, 'origin-reset-tunnel')
})

t.test('a RST of the origin reaches a client over TLS', async (t) => {
  const { certificate, key } = await selfSigned({ names: ['chat.test'] })
  const origin = await startOrigin(t)
  const listeners = [{ address: '127.0.0.1:0', tls: { certificate, key } }]
  const started = await startTunnel(t, origin.address, { listeners })
  const client = await connectTo(t, started.address, {})
  client.write(upgradeRequest())
  const peer = await origin.next()
  peer.write(switching(await peer.until('\r\n\r\n')))
  await client.until('\r\n\r\n')
  peer.reset()
  t.equal(await client.closed, 'ECONNRESET')
  t.equal((await started.closed()).end, 'origin-reset-tunnel')
})

t.test('an operator ends all tunnels with FIN, after what was on the way', async (t) => {
  const origin = await startOrigin(t)
  const started = await startTunnel(t, origin.address)
  const ends = await open(t, started, origin)
  ends.origin.write('last')
  await ends.client.until('last')
  const closing = started.tunnel.close()
  await Promise.all([ends.client.ended, ends.origin.ended])
  ends.client.end()
  ends.origin.end()
  await closing
  t.equal((await started.closed()).end, 'operator-fin-tunnel')
  t.equal(started.tunnel.size, 0)
})

t.test('close waits for tunnels that end in time', async (t) => {
  const origin = await startOrigin(t)
  const started = await startTunnel(t, origin.address)
  const ends = await open(t, started, origin)
  const closing = started.tunnel.close({ drain: '1h' })
  ends.client.end('bye')
  await ends.origin.ended
  ends.origin.end()
  await closing
  t.equal((await started.closed()).end, 'client-fin-tunnel')
})

t.test('a second close hurries the first, and both come to an end', async (t) => {
  const origin = await startOrigin(t)
  const started = await startTunnel(t, origin.address)
  const ends = await open(t, started, origin)
  const first = started.tunnel.close({ drain: '1h' })
  const second = started.tunnel.close()
  await Promise.all([ends.client.ended, ends.origin.ended])
  const startedAt = performance.now()
  ends.client.end()
  ends.origin.end()
  await Promise.all([first, second])
  t.ok(performance.now() - startedAt < 1_500, 'nobody waited for a time limit')
})

const TUNNELS = 500
const PIECES = 12

/** Sends random pieces of random sizes, at the pace of the socket; resolves with their hash. */
async function sendRandom(socket: Socket, seed: number): Promise<string> {
  const hash = createHash('sha256')
  for (let piece = 0; piece < PIECES; piece += 1) {
    const bytes = randomBytes(1 + ((seed * 7919 + piece * 104_729) % 20_000))
    hash.update(bytes)
    if (!socket.write(bytes)) await once(socket, 'drain')
    if ((seed + piece) % 3 === 0) await new Promise(setImmediate)
  }
  socket.end()
  return hash.digest('hex')
}

function hashAfter(peer: Peer, marker: string): string {
  const all = peer.received
  return createHash('sha256')
    .update(all.subarray(all.indexOf(marker) + marker.length))
    .digest('hex')
}

t.test(
  `${TUNNELS} tunnels with random traffic both ways at once, slow readers, half-closes and resets`,
  async (t) => {
    const origin = await startOrigin(t)
    const started = await startTunnel(t, origin.address)
    let resets = 0
    let whole = 0
    started.tunnel.on('closed', ({ end }) => {
      if (end.endsWith('reset-tunnel')) resets += 1
    })
    async function one(at: number): Promise<void> {
      const client = await connectTo(t, started.address)
      client.write(upgradeRequest({ 'X-Number': String(at) }))
      await client.until('\r\n\r\n')
      const peer = peers.get(at)
      if (peer === undefined) throw new Error('no peer')
      if (at % 10 === 9) {
        // In the middle of traffic one of them is cut off; what its neighbours carry must not be touched.
        client.write(randomBytes(50_000))
        const victim = at % 20 === 9 ? peer : client
        const cutter = victim === peer ? client : peer
        cutter.reset()
        // Up to Node 22 the victim's own socket may take a RST behind bytes for FIN; what the tunnel did is counted below.
        await Promise.race([victim.closed, victim.ended])
        return
      }
      if (at % 7 === 0) {
        peer.socket.pause()
        setImmediate(() => peer.socket.resume())
      }
      const sent = Promise.all([sendRandom(client.socket, at), sendRandom(peer.socket, at + 1)])
      await Promise.all([client.all(), peer.all()])
      const [up, down] = await sent
      if (hashAfter(peer, '\r\n\r\n') === up && hashAfter(client, '\r\n\r\n') === down) whole += 1
    }
    const peers = new Map<number, Peer>()
    const answering = (async () => {
      for (let count = 0; count < TUNNELS; count += 1) {
        const peer = await origin.next()
        const head = await peer.until('\r\n\r\n')
        peers.set(Number(/X-Number: ([0-9]+)/.exec(head)?.[1]), peer)
        peer.write(switching(head))
      }
    })()
    await Promise.all([answering, ...Array.from({ length: TUNNELS }, (_, at) => one(at))])
    t.equal(whole, TUNNELS * 0.9, 'each tunnel that was not cut off delivered both streams')
    while (started.tunnel.size > 0) await started.closed()
    t.equal(resets, TUNNELS * 0.1)
  },
)

t.test('a tunnel that is idle keeps what it carries, for as long as it takes', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const started = await startTunnel(t, origin.address, {
    backend: { connectTimeout: 100, firstByteTimeout: 100 },
    options: { limits: { headTimeout: 100 } },
  })
  const client = await connectTo(t, started.address)
  client.write(upgradeRequest())
  await client.until('\r\n\r\n')
  // Longer than every time limit there is: this is the one test that has to wait.
  await new Promise((resolve) => setTimeout(resolve, 400))
  client.write('still here')
  await client.until('still here')
  t.equal(started.tunnel.size, 1)
})

t.test(
  'a TLS client that sends a broken record after the handshake is gone, and takes its tunnel along',
  async (t) => {
    const pair = await selfSigned({ names: ['chat.test'] })
    const origin = await startOrigin(t)
    const started = await startTunnel(t, origin.address, {
      listeners: [{ address: '127.0.0.1:0', tls: pair }],
    })
    const wire = connect(placeOf(started.address))
    const secured = connectTls({ socket: wire, rejectUnauthorized: false })
    secured.on('error', () => {})
    t.teardown(() => secured.destroy())
    await once(secured, 'secureConnect')
    secured.write(upgradeRequest())
    const peer = await origin.next()
    peer.write(switching(await peer.until('\r\n\r\n')))
    await once(secured, 'data')
    // Past the TLS layer: bytes that are no record that anybody could decrypt.
    wire.write(Buffer.from([0x17, 3, 3, 0, 20, ...Array(20).fill(1)]))
    const { end, error } = await started.closed()
    t.equal(end, 'client-error-tunnel')
    t.match(error, /^ERR_SSL_/)
    await Promise.race([peer.closed, peer.ended])
  },
)
