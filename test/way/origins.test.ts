// Origins that misbehave while they are dialled, and clients that leave meanwhile: what each side sees of it.

import { EventEmitter, once } from 'node:events'
import type { Socket } from 'node:net'
import { connect, createServer } from 'node:net'
import { Worker } from 'node:worker_threads'
import t, { type Test } from 'tap'
import { handoff } from '../../src/index.ts'
import { selfSigned, testAuthority } from '../support/certificates.ts'
import { echo, startOrigin, switching, upgradeRequest } from '../support/origin.ts'
import { connectTo, placeOf } from '../support/peer.ts'
import { startTunnel } from '../support/tunnel.ts'

/** Longer than any test takes: what ends before it was not ended by it. */
const NEVER_MS = 600_000
const PATIENT = { tls: true, connectTimeout: NEVER_MS, firstByteTimeout: NEVER_MS }

for (const how of ['end', 'reset'] as const) {
  t.test(`a client that leaves by ${how} during the dial takes the dial with it, at once`, async (t) => {
    // It accepts TCP and never says a word of TLS.
    const origin = await startOrigin(t)
    const { address, refused } = await startTunnel(t, origin.address, { backend: PATIENT })
    const client = await connectTo(t, address)
    client.write(`${upgradeRequest()}early`)
    const peer = await origin.next()
    await peer.until(1)
    client[how]()
    await Promise.race([peer.ended, peer.closed])
    const event = await refused()
    t.equal(event.code, how === 'end' ? 'client-closed' : 'client-reset')
    t.equal(event.end, how === 'end' ? 'client-fin-dial' : 'client-reset-dial')
  })
}

t.test('a client that leaves while the handler thinks is not dialled for', async (t) => {
  const origin = await startOrigin(t)
  const asking = new EventEmitter()
  const { address, refused } = await startTunnel(t, origin.address, {
    service: {
      handler: (request) =>
        new Promise((resolve) => asking.emit('asked', () => resolve(handoff(request, 'origin')))),
    },
  })
  const leaving = await connectTo(t, address)
  const asked = once(asking, 'asked')
  leaving.write(upgradeRequest())
  const [decide] = (await asked) as [() => void]
  leaving.end()
  t.equal((await refused()).end, 'client-fin-decide')
  decide()
  // The next client is the first that the origin sees.
  const staying = await connectTo(t, address)
  asking.once('asked', (decide: () => void) => decide())
  staying.write(upgradeRequest({ 'X-Number': '2' }))
  const peer = await origin.next()
  t.match(await peer.until('\r\n\r\n'), /\r\nX-Number: 2\r\n/)
  t.equal(origin.count, 1)
})

t.test('an origin that never answers the TLS handshake: 504, and it is let go', async (t) => {
  const origin = await startOrigin(t)
  const { address, refused } = await startTunnel(t, origin.address, {
    backend: { ...PATIENT, connectTimeout: 200 },
  })
  const client = await connectTo(t, address)
  client.write(upgradeRequest())
  const peer = await origin.next()
  t.match(await client.all(), /^HTTP\/1\.1 504 Gateway Timeout\r\n/)
  await Promise.race([peer.ended, peer.closed])
  const { code, end } = await refused()
  t.equal(code, 'dial-timeout')
  t.equal(end, 'origin-timeout-dial')
})

t.test('an origin that resets, ends, or talks nonsense in the TLS handshake: 502', async (t) => {
  const origin = await startOrigin(t)
  const { address, refused } = await startTunnel(t, origin.address, { backend: PATIENT })
  const outcomes = { reset: 'dial-reset', end: undefined, nonsense: 'origin-tls-failed' } as const
  for (const [how, code] of Object.entries(outcomes)) {
    const client = await connectTo(t, address)
    client.write(upgradeRequest())
    const peer = await origin.next()
    await peer.until(1)
    if (how === 'reset') peer.reset()
    else if (how === 'end') peer.end()
    else peer.write('HTTP/1.1 400 Bad Request\r\n\r\n')
    t.match(await client.all(), /^HTTP\/1\.1 502 Bad Gateway\r\n/, how)
    const event = await refused()
    if (code !== undefined) t.equal(event.code, code)
    t.match(event.end, /^origin-\w+-dial$/)
  }
})

t.test(
  'certificates: of no authority, or for another name, 502, with the reason for the operator only',
  async (t) => {
    const own = await selfSigned({ names: ['origin.test'] })
    const other = await (await testAuthority()).issue({ names: ['other.test'] })
    for (const [pair, reason] of [
      [own, /self-signed certificate/],
      [other, /hostname mismatch: certificate is for other\.test, not origin\.test/],
    ] as const) {
      const origin = await startOrigin(t, { tls: pair })
      const { address, refused } = await startTunnel(t, origin.address, {
        backend: { tls: true, certHostname: 'origin.test' },
      })
      const client = await connectTo(t, address)
      client.write(upgradeRequest())
      const answer = await client.all()
      t.match(answer, /^HTTP\/1\.1 502 /)
      t.notMatch(answer, /origin\.test|other\.test|self-signed|127\.0\.0\.1/)
      const event = await refused()
      t.equal(event.code, 'certificate-rejected')
      t.match(event.detail, reason)
      t.equal(origin.count, 0, 'not a byte of HTTP')
    }
  },
)

/** A relay to `address`; what comes back goes through `change`, each piece with its number from 0, in one segment. */
async function relayBack(
  t: Test,
  address: string,
  change: (chunk: Buffer, at: number) => Buffer,
): Promise<string> {
  const sockets = new Set<Socket>()
  const server = createServer((client) => {
    const target = connect({ ...placeOf(address), noDelay: true })
    let count = 0
    target.on('data', (chunk) => client.write(change(chunk, count++)))
    client.pipe(target)
    for (const socket of [client, target]) {
      sockets.add(socket)
      socket.on('error', () => {})
      socket.on('close', () => {
        client.destroy()
        target.destroy()
      })
    }
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  return `127.0.0.1:${(server.address() as { port: number }).port}`
}

t.test(
  'a broken record right behind the handshake of an origin is 502, and disturbs nobody else',
  async (t) => {
    const pair = await (await testAuthority()).issue({ names: ['origin.test'] })
    const origin = await startOrigin(t, { tls: pair, answer: echo })
    const record = Buffer.from([0x17, 3, 3, 0, 20, ...Array(20).fill(1)])
    let isBroken = false
    const relay = await relayBack(t, origin.address, (chunk, at) =>
      isBroken && at === 0 ? Buffer.concat([chunk, record]) : chunk,
    )
    const { address, refused, tunnel } = await startTunnel(t, relay, {
      backend: { tls: true, certHostname: 'origin.test' },
    })
    const steady = await connectTo(t, address)
    steady.write(upgradeRequest())
    await steady.until('\r\n\r\n')
    isBroken = true
    for (let count = 0; count < 10; count += 1) {
      const client = await connectTo(t, address)
      client.write(upgradeRequest())
      t.match(await client.all(), /^HTTP\/1\.1 502 /)
      t.match((await refused()).end, /^origin-/)
    }
    steady.write('still here')
    await steady.until('still here')
    t.equal(tunnel.size, 1)
  },
)

t.test('many origins that fail at once leave no permit and no connection behind', async (t) => {
  const origin = await startOrigin(t)
  const { address, refused } = await startTunnel(t, origin.address, { backend: { maxConnections: 50 } })
  for (let round = 0; round < 3; round += 1) {
    const clients = await Promise.all(Array.from({ length: 50 }, () => connectTo(t, address)))
    for (const client of clients) client.write(upgradeRequest())
    const peers = await Promise.all(clients.map(() => origin.next()))
    for (const [at, peer] of peers.entries()) {
      await peer.until('\r\n\r\n')
      if (at % 3 === 0) peer.reset()
      else if (at % 3 === 1) peer.end()
      else peer.end('nonsense\r\n\r\n')
    }
    for (const client of clients) t.match(await client.all(), /^HTTP\/1\.1 502 /)
    for (const _ of clients) t.match((await refused()).code, /^answer-(?:reset|closed|malformed)$/)
  }
  const last = await connectTo(t, address)
  last.write(upgradeRequest())
  const peer = await origin.next()
  peer.write(switching(await peer.until('\r\n\r\n')))
  t.match(await last.until('\r\n\r\n'), /^HTTP\/1\.1 101 /)
})

/** An origin in a thread of its own, which says `answer` and FIN to whoever connects, and hears out what they say. */
async function startHasty(t: Test, answer: string): Promise<string> {
  const script = `
    const { parentPort, workerData } = require('node:worker_threads')
    const server = require('node:net').createServer({ allowHalfOpen: true }, (socket) => {
      socket.on('error', () => {}).resume().end(workerData)
    })
    server.listen(0, '127.0.0.1', () => parentPort.postMessage(server.address().port))`
  const worker = new Worker(script, { eval: true, workerData: answer, execArgv: [] })
  t.teardown(() => worker.terminate())
  const [port] = await once(worker, 'message')
  return `127.0.0.1:${port}`
}

/** Turns of the event loop that are so long that what others have done meanwhile is told at once. */
function keepBusy(t: Test): void {
  let isOver = false
  t.teardown(() => {
    isOver = true
  })
  const turn = () => {
    const until = performance.now() + 20
    while (performance.now() < until);
    if (!isOver) setImmediate(turn)
  }
  turn()
}

t.test('an origin that has answered and ended before a busy edge hears of its connection', async (t) => {
  const busy = await startHasty(t, 'HTTP/1.1 503 Busy\r\n\r\nsorry')
  const torn = await startHasty(t, 'HTTP/1.1 503 Bu')
  const backend = { firstByteTimeout: NEVER_MS }
  const [whole, part] = [await startTunnel(t, busy), await startTunnel(t, torn, { backend })]
  keepBusy(t)
  const client = await connectTo(t, whole.address)
  client.write(upgradeRequest())
  t.match(await client.all(), /^HTTP\/1\.1 503 Busy\r\n.*\r\n\r\nsorry$/s)
  await client.ended
  const other = await connectTo(t, part.address)
  other.write(upgradeRequest())
  t.match(await other.all(), /^HTTP\/1\.1 502 /)
  t.equal((await part.refused()).code, 'answer-closed')
})
