// What the soak relies on: that its tunnels notice a wrong byte, a lost one, and an end that nobody has brought about.

import { once } from 'node:events'
import type { AddressInfo, Socket } from 'node:net'
import { connect, createServer } from 'node:net'
import type { Test } from 'tap'
import t from 'tap'
import { addressOf } from '../bench/load/wire.ts'
import { startOrigin } from '../bench/soak/origin.ts'
import { Pair } from '../bench/soak/pair.ts'

/** What a proxy makes of a chunk that the origin has sent behind its 101; null: it ends the client's connection. */
type Change = (chunk: Buffer) => Buffer | null

const UNCHANGED: Change = (chunk) => chunk

/** A tunnel through a proxy that does this, open; resolves with what it has complained of so far. */
async function tunnelThrough(t: Test, change: Change): Promise<{ pair: Pair; failures: string[] }> {
  const pairs = new Map<number, Pair>()
  const origin = await startOrigin((id) => pairs.get(id))
  const sockets: Socket[] = []
  const proxy = createServer({ allowHalfOpen: true }, (client) => {
    const to = connect({ ...addressOf(origin.address), allowHalfOpen: true })
    sockets.push(client, to)
    let isHead = true
    client.pipe(to)
    to.on('end', () => client.end())
    to.on('data', (chunk: Buffer) => {
      const bytes = isHead ? chunk : change(chunk)
      isHead = false
      if (bytes === null) client.end()
      else client.write(bytes)
    })
    for (const socket of [client, to]) socket.on('error', () => {})
  })
  proxy.listen(0, '127.0.0.1')
  await once(proxy, 'listening')
  const failures: string[] = []
  const { port } = proxy.address() as AddressInfo
  const pair = new Pair(1, { host: '127.0.0.1', port }, (what) => failures.push(what))
  pairs.set(1, pair)
  t.teardown(() => {
    pair.drop()
    origin.close()
    for (const socket of sockets) socket.destroy()
    proxy.close()
  })
  t.equal(await pair.answered, 101)
  return { pair, failures }
}

async function over(pair: Pair): Promise<void> {
  while (pair.state !== 'over') await new Promise((resolve) => setTimeout(resolve, 5))
}

t.test('a tunnel that moves every byte both ways and is closed in order has no complaint', async (t) => {
  const { pair, failures } = await tunnelThrough(t, UNCHANGED)
  pair.send('client', 100_000)
  pair.send('origin', 100_000)
  pair.close('client')
  await over(pair)
  t.strictSame(failures, [])
  t.strictSame([pair.up.received, pair.down.received], [100_000, 100_000])
})

t.test('a bit that is not the one that was sent is noticed', async (t) => {
  const { pair, failures } = await tunnelThrough(t, (chunk) => {
    chunk[5] = (chunk[5] ?? 0) ^ 1
    return chunk
  })
  pair.send('origin', 1_000)
  await over(pair)
  t.match(failures, [/a wrong byte came to the client, at 0 to 1000 of 1000/])
})

t.test('a byte that is lost is noticed, by the next one or by the end', async (t) => {
  const inside = await tunnelThrough(t, (chunk) => chunk.subarray(1))
  inside.pair.send('origin', 1_000)
  await over(inside.pair)
  t.match(inside.failures, [/a wrong byte came to the client/])
  const last = await tunnelThrough(t, (chunk) => chunk.subarray(0, -1))
  last.pair.send('origin', 1_000)
  last.pair.close('origin')
  await over(last.pair)
  t.match(last.failures, [/FIN came to the client with 999 of 1000 bytes/])
})

t.test('an end that nobody has brought about is noticed, one with an excuse is not', async (t) => {
  const cut = await tunnelThrough(t, () => null)
  cut.pair.send('origin', 1)
  await over(cut.pair)
  t.match(cut.failures, [/FIN came to the client, nobody had ended it/])
  const meant = await tunnelThrough(t, () => null)
  meant.pair.excuse = 'its worker was killed'
  meant.pair.send('origin', 1)
  await over(meant.pair)
  t.strictSame(meant.failures, [])
})
