// An origin that refuses the upgrade, and a client that sends more behind it: the client gets the whole answer, the origin
// never a byte behind the first head (an origin that answered is an HTTP server again, and would take it for a request).

import t from 'tap'
import { selfSigned } from '../support/certificates.ts'
import { startOrigin, upgradeRequest } from '../support/origin.ts'
import { connectTo } from '../support/peer.ts'
import { startTunnel } from '../support/tunnel.ts'

const SECOND = 'GET /second HTTP/1.1\r\nHost: chat.test\r\n\r\n'
const BODY = 'x'.repeat(200_000)

/** Each body in two pieces, so that there is a moment in the middle of it. */
const ANSWERS: readonly {
  readonly name: string
  readonly pieces: readonly [string, string]
  readonly closes: boolean
}[] = [200, 401, 426].flatMap((status) => {
  const half = BODY.length / 2
  const line = `HTTP/1.1 ${status} Given\r\n`
  const size = half.toString(16)
  const chunk = `${size}\r\n${BODY.slice(0, half)}\r\n`
  return [
    {
      name: `${status} with a length`,
      pieces: [`${line}Content-Length: ${BODY.length}\r\n\r\n${BODY.slice(0, half)}`, BODY.slice(half)],
      closes: false,
    },
    {
      name: `${status} in chunks`,
      pieces: [`${line}Transfer-Encoding: chunked\r\n\r\n${chunk}`, `${chunk}0\r\n\r\n`],
      closes: false,
    },
    {
      name: `${status} until the close`,
      pieces: [`${line}\r\n${BODY.slice(0, half)}`, BODY.slice(half)],
      closes: true,
    },
  ]
})

for (const scheme of ['TCP', 'TLS'] as const) {
  t.test(`over ${scheme}`, async (t) => {
    const pair = await selfSigned({ names: ['chat.test'] })
    const origin = await startOrigin(t)
    const { address, refused } = await startTunnel(t, origin.address, {
      listeners: [{ address: '127.0.0.1:0', ...(scheme === 'TLS' ? { tls: pair } : {}) }],
    })
    for (const { name, pieces, closes } of ANSWERS) {
      await t.test(`${name}: what the client sends before, during and after it reaches nobody`, async (t) => {
        const client = await connectTo(t, address, scheme === 'TLS' ? {} : undefined)
        // In the same segment as the upgrade, as a client that pipelines would.
        client.write(upgradeRequest() + SECOND)
        const peer = await origin.next()
        const head = await peer.until('\r\n\r\n')
        const [first, rest] = pieces
        client.write(SECOND)
        peer.write(first)
        await client.until('\r\n\r\n')
        client.write(SECOND)
        peer.write(rest)
        if (closes) peer.end()
        const answer = await client.all()
        t.match(answer, new RegExp(`^HTTP/1\\.1 ${name.slice(0, 3)} Given\r\n`))
        t.match(answer, /\r\nConnection: close\r\n/)
        t.equal(answer.match(/HTTP\/1\.1 /g)?.length, 1, 'one answer')
        t.equal(answer.match(/x/g)?.length, BODY.length, 'the whole body')
        client.end(SECOND)
        await Promise.all([client.closed, Promise.race([peer.closed, peer.ended])])
        t.equal(peer.text, head, 'the origin has the one head and nothing else')
        t.equal((await refused()).code, 'answer-refused')
      })
    }
    t.equal(origin.count, ANSWERS.length, 'and no connection more')
  })
}

t.test('a client that has sent FIN while the answer is on its way still gets all of it', async (t) => {
  const origin = await startOrigin(t)
  const { address } = await startTunnel(t, origin.address)
  const client = await connectTo(t, address)
  client.write(upgradeRequest())
  const peer = await origin.next()
  await peer.until('\r\n\r\n')
  peer.write('HTTP/1.1 401 Unauthorized\r\nContent-Length: 5\r\n\r\nhe')
  await client.until('he')
  client.end()
  peer.write('llo')
  t.match(await client.all(), /\r\n\r\nhello$/)
})

t.test('a client that resets while the answer is on its way ends the origin’s part, too', async (t) => {
  const origin = await startOrigin(t)
  const { address, refused } = await startTunnel(t, origin.address)
  const client = await connectTo(t, address)
  client.write(upgradeRequest())
  const peer = await origin.next()
  await peer.until('\r\n\r\n')
  peer.write('HTTP/1.1 401 Unauthorized\r\nContent-Length: 5\r\n\r\nhe')
  await client.until('he')
  client.reset()
  await Promise.race([peer.closed, peer.ended])
  t.equal((await refused()).end, 'client-reset-answer')
})

t.test('an origin that resets in the middle of its answer: the client gets a RST, not an end', async (t) => {
  const origin = await startOrigin(t)
  const { address, refused } = await startTunnel(t, origin.address)
  for (const framing of ['Content-Length: 5', 'Transfer-Encoding: chunked', 'X-Until: close']) {
    const client = await connectTo(t, address)
    client.write(upgradeRequest())
    const peer = await origin.next()
    await peer.until('\r\n\r\n')
    peer.write(`HTTP/1.1 200 OK\r\n${framing}\r\n\r\n2\r\n`)
    await client.until('2\r\n')
    peer.reset()
    t.equal(await client.closed, 'ECONNRESET', framing)
    t.equal((await refused()).code, 'answer-reset')
  }
})
