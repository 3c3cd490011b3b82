// How a tunnel ends, over each pair of transports: a half-close in both orders with bytes behind it, FIN only after all
// bytes, RST as RST.

import { once } from 'node:events'
import type { TLSSocket } from 'node:tls'
import t, { type Test } from 'tap'
import { wireOf } from '../../src/accept/client.ts'
import { socketPath } from '../support/accepting.ts'
import { selfSigned, testAuthority } from '../support/certificates.ts'
import type { Origin } from '../support/origin.ts'
import { startOrigin, switching, upgradeRequest } from '../support/origin.ts'
import type { Peer } from '../support/peer.ts'
import { connectTo } from '../support/peer.ts'
import type { Started } from '../support/tunnel.ts'
import { startTunnel } from '../support/tunnel.ts'

type ClientSide = 'TCP' | 'TLS' | 'Unix'
type OriginSide = 'TCP' | 'TLS'

/** What a FIN has to wait for: more than is on its way at once. */
const MUCH = 12 * 1024 * 1024

interface Stand {
  readonly origin: Origin
  readonly started: Started
  open(t: Test): Promise<{ client: Peer; origin: Peer }>
}

async function startStand(t: Test, clientSide: ClientSide, originSide: OriginSide): Promise<Stand> {
  const pair = await (await testAuthority()).issue({ names: ['origin.test'] })
  const origin = await startOrigin(t, originSide === 'TLS' ? { tls: pair } : {})
  const address = clientSide === 'Unix' ? `unix:${await socketPath(t)}` : '127.0.0.1:0'
  const front = clientSide === 'TLS' ? { tls: await selfSigned({ names: ['chat.test'] }) } : {}
  const started = await startTunnel(t, origin.address, {
    backend: originSide === 'TLS' ? { tls: true, certHostname: 'origin.test' } : {},
    listeners: [{ address, ...front }],
  })
  return {
    origin,
    started,
    async open(t) {
      const client = await connectTo(t, started.address, clientSide === 'TLS' ? {} : undefined)
      client.write(upgradeRequest())
      const peer = await origin.next()
      peer.write(switching(await peer.until('\r\n\r\n')))
      await client.until('\r\n\r\n')
      return { client, origin: peer }
    },
  }
}

/** What came behind the head. */
function payloadOf({ received }: Peer): Buffer {
  return received.subarray(received.indexOf('\r\n\r\n') + 4)
}

/** TLS itself has no RST: the socket below it has. */
function resetWire({ socket }: Peer): void {
  const wire = 'encrypted' in socket ? wireOf(socket as TLSSocket) : socket
  wire?.resetAndDestroy()
}

async function whole(t: Test, stand: Stand, first: 'client' | 'origin'): Promise<void> {
  const ends = await stand.open(t)
  const [leaving, staying] = first === 'client' ? [ends.client, ends.origin] : [ends.origin, ends.client]
  const there = Buffer.alloc(MUCH, `from the ${first}`)
  const back = Buffer.alloc(MUCH, 'back again')
  staying.socket.pause()
  leaving.end(there)
  // Another tunnel passes as many bytes and its own two FINs meanwhile, so that this one is stalled with its FIN behind.
  const other = await stand.open(t)
  const [from, to] = first === 'client' ? [other.client, other.origin] : [other.origin, other.client]
  from.end(there)
  await to.ended
  to.end()
  t.equal((await stand.started.closed()).end, `${first}-fin-tunnel`)
  staying.socket.resume()
  await staying.ended
  t.ok(payloadOf(staying).equals(there), 'FIN after all bytes')
  t.equal(stand.started.tunnel.size, 1, 'the other direction is open')
  staying.end(back)
  await leaving.ended
  t.ok(payloadOf(leaving).equals(back), 'and so after all that was sent behind it')
  const { end, error, bytes } = await stand.started.closed()
  t.equal(end, `${first}-fin-tunnel`)
  t.equal(error, '')
  t.same(bytes, { clientToOrigin: MUCH, originToClient: MUCH })
}

async function bothAtOnce(t: Test, stand: Stand): Promise<void> {
  const ends = await stand.open(t)
  const bytes = Buffer.alloc(300_000, 'at once')
  ends.client.end(bytes)
  ends.origin.end(bytes)
  await Promise.all([ends.client.ended, ends.origin.ended])
  t.ok(payloadOf(ends.client).equals(bytes) && payloadOf(ends.origin).equals(bytes))
  t.match((await stand.started.closed()).end, /^(?:client|origin)-fin-tunnel$/)
}

async function reset(t: Test, stand: Stand, by: 'client' | 'origin'): Promise<void> {
  for (const isHalfClosed of [false, true]) {
    const ends = await stand.open(t)
    const [leaving, staying] = by === 'client' ? [ends.client, ends.origin] : [ends.origin, ends.client]
    if (isHalfClosed) {
      leaving.socket.end()
      await staying.ended
    }
    // An exchange first, so that nothing is on its way when the RST comes.
    staying.write('ping')
    await once(leaving.socket, 'data')
    resetWire(leaving)
    // Behind a FIN nobody reads any more: there a RST is met by whoever writes.
    const writing = isHalfClosed ? setInterval(() => staying.write('pong'), 5) : undefined
    t.match(await staying.closed, isHalfClosed ? /^(?:ECONNRESET|EPIPE)$/ : /^ECONNRESET$/)
    clearInterval(writing)
    t.equal((await stand.started.closed()).end, `${by}-reset-tunnel`)
  }
}

for (const clientSide of ['TCP', 'TLS', 'Unix'] as const) {
  for (const originSide of ['TCP', 'TLS'] as const) {
    t.test(`a ${clientSide} client and an origin over ${originSide}`, async (t) => {
      const stand = await startStand(t, clientSide, originSide)
      await t.test('the client half-closes first', (t) => whole(t, stand, 'client'))
      await t.test('the origin half-closes first', (t) => whole(t, stand, 'origin'))
      await t.test('both half-close at once', (t) => bothAtOnce(t, stand))
      // A Unix socket knows no RST.
      if (clientSide === 'Unix') return
      await t.test('the client resets', (t) => reset(t, stand, 'client'))
      await t.test('the origin resets', (t) => reset(t, stand, 'origin'))
      t.equal(stand.started.tunnel.size, 0)
    })
  }
}
