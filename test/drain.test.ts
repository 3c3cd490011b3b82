// The end of all tunnels, spread over a time: the schedule by itself, and what clients of an edge in this process see.

import { equal, ok } from 'node:assert/strict'
import { once } from 'node:events'
import { connect } from 'node:net'
import fc from 'fast-check'
import type { Test } from 'tap'
import t from 'tap'
import type { Tunnel } from '../src/index.ts'
import { nextStep, STEP_MS } from '../src/tunnel/pace.ts'
import { echoes, openTunnel } from './support/control.ts'
import { echo, startOrigin, switching, upgradeRequest } from './support/origin.ts'
import type { Peer } from './support/peer.ts'
import { connectTo } from './support/peer.ts'
import { startTunnel } from './support/tunnel.ts'

interface Closing {
  readonly atMs: number
  readonly count: number
}

/** All steps of a drain, with these chances in turn; of those open, `leave` have gone by themselves at a time. */
function stepsOf(open: number, overMs: number, chances: readonly number[], leave: (atMs: number) => number) {
  const closings: Closing[] = []
  let atMs = 0
  let left = open
  while (left > 0) {
    const { waitMs, count } = nextStep(left, overMs - atMs, chances[closings.length % chances.length] ?? 0)
    atMs += waitMs
    left = Math.max(0, left - leave(atMs))
    const closed = Math.min(count, left)
    left -= closed
    closings.push({ atMs, count: closed })
  }
  return closings
}

const total = (closings: readonly Closing[]) => closings.reduce((sum, { count }) => sum + count, 0)

const someChances = fc.array(fc.double({ min: 0, max: 0.999, noNaN: true }), { minLength: 1, maxLength: 50 })
const someDrain = [
  fc.integer({ min: 1, max: 5_000 }),
  fc.integer({ min: 1, max: 600_000 }),
  someChances,
] as const

t.test('whatever chance says, all tunnels are closed, and none later than its time', (t) => {
  fc.assert(
    fc.property(...someDrain, (open, overMs, chances) => {
      const closings = stepsOf(open, overMs, chances, () => 0)
      equal(total(closings), open)
      ok((closings.at(-1)?.atMs ?? 0) <= overMs * 1.000_001)
      ok(closings.every(({ count }) => count > 0))
    }),
    { numRuns: 200 },
  )
  t.end()
})

t.test('they are spread: no second has much more than its share, however chance has it', (t) => {
  fc.assert(
    fc.property(...someDrain, (open, overMs, chances) => {
      const shareOfStep = Math.max(1, (open * STEP_MS) / overMs)
      // The floor of what a step closes is made up for by the steps behind it: at most twice as many, but for the last one.
      const closings = stepsOf(open, overMs, chances, () => 0)
      ok(closings.every(({ count }) => count <= shareOfStep * 4 + 2))
    }),
    { numRuns: 200 },
  )
  const random = Array.from({ length: 997 }, (_, at) => (at * 0.618_034) % 1)
  for (const [open, overMs] of [
    [100_000, 60_000],
    [1_000, 60_000],
    [100, 10_000],
  ] as const) {
    const closings = stepsOf(open, overMs, random, () => 0)
    for (const part of [0.25, 0.5, 0.75]) {
      const before = total(closings.filter(({ atMs }) => atMs <= overMs * part)) / open
      t.ok(Math.abs(before - part) < 0.1, `${open}: ${before} after ${part} of the time`)
    }
    const waits = closings.map(({ atMs }, at) => Math.round(atMs - (closings[at - 1]?.atMs ?? 0)))
    t.ok(new Set(waits).size > 10, 'no beat')
  }
  t.end()
})

t.test('what ends by itself leaves its time to the others', (t) => {
  const even = [0.5]
  const alone = stepsOf(10, 10_000, even, () => 0)
  t.equal(alone[0]?.atMs, 1_000)
  let hasLeft = false
  const closings = stepsOf(100, 10_000, even, () => {
    const leaving = hasLeft ? 0 : 50
    hasLeft = true
    return leaving
  })
  t.equal(total(closings), 50)
  t.ok((closings.at(-1)?.atMs ?? 0) > 9_000, 'and they use all of it')
  t.end()
})

/** The ids of its tunnels, in the order of their ends. */
function endsOf(tunnel: Tunnel): string[] {
  const ids: string[] = []
  tunnel.on('closed', ({ id }) => ids.push(id))
  return ids
}

async function openSome(t: Test, address: string, count: number): Promise<Peer[]> {
  const clients: Peer[] = []
  while (clients.length < count) {
    const client = await openTunnel(t, address)
    void client.ended.then(() => client.end())
    clients.push(client)
  }
  return clients
}

for (const engine of ['auto', 'stream'] as const) {
  t.test(`${engine}: the rest is closed one by one, those that talk last`, async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const { tunnel, address } = await startTunnel(t, origin.address, { options: { engine } })
    const idsOf = async () => (await tunnel.tunnels({ limit: 1_000 })).tunnels.map(({ id }) => id)
    const talkers = await openSome(t, address, 8)
    const talking = await idsOf()
    await openSome(t, address, 8)
    const ends = endsOf(tunnel)
    for (const talker of talkers) t.ok(await echoes(talker, 'I am not idle'))
    t.equal(tunnel.draining, null)
    const startedAt = performance.now()
    const closing = tunnel.close({ drain: '2s' })
    t.match(tunnel.draining, { open: 16, ended: 0, closed: 0, cut: 0 })
    t.strictSame(await closing, { ended: 0, closed: 16, cut: 0 })
    const tookMs = performance.now() - startedAt
    t.ok(tookMs > 1_000, `${tookMs} ms`)
    const isTalking = ends.map((id) => talking.includes(id))
    t.strictSame(isTalking, [...Array(8).fill(false), ...Array(8).fill(true)])
  })
}

t.test('one that begins to talk while it drains goes to the end of the queue', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const { tunnel, address } = await startTunnel(t, origin.address)
  const clients = await openSome(t, address, 6)
  const { tunnels } = await tunnel.tunnels()
  const ends = endsOf(tunnel)
  const closing = tunnel.close({ drain: '5s', spread: '2500ms' })
  const [oldest] = clients
  if (oldest !== undefined) t.ok(await echoes(oldest, 'here I am'))
  t.strictSame(await closing, { ended: 0, closed: 6, cut: 0 })
  t.equal(ends.at(-1), tunnels[0]?.id)
})

t.test('what ends by itself is counted as such, and nobody waits for the rest of the time', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const { tunnel, address } = await startTunnel(t, origin.address)
  const clients = await openSome(t, address, 5)
  const closing = tunnel.close({ drain: '1h', spread: '1s' })
  for (const client of clients) client.end('bye')
  t.strictSame(await closing, { ended: 5, closed: 0, cut: 0 })
})

t.test('a later close with less time shortens the first, one with more does not', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const { tunnel, address } = await startTunnel(t, origin.address)
  await openSome(t, address, 5)
  const first = tunnel.close({ drain: '1h' })
  const second = tunnel.close({ drain: '1s' })
  const third = tunnel.close({ drain: '1d' })
  const counts = { ended: 0, closed: 5, cut: 0 }
  t.strictSame(await Promise.all([first, second, third]), [counts, counts, counts])
})

t.test('who cannot wait any longer cuts the rest', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const { tunnel, address } = await startTunnel(t, origin.address)
  const clients = await openSome(t, address, 5)
  const first = tunnel.close({ drain: '1h' })
  const closed = once(tunnel, 'closed')
  clients[0]?.end()
  await closed
  const second = tunnel.close()
  const counts = { ended: 1, closed: 0, cut: 4 }
  t.strictSame(await Promise.all([first, second]), [counts, counts])
})

t.test('a request that is on its way becomes a tunnel yet; one that comes later is refused', async (t) => {
  const origin = await startOrigin(t)
  const { tunnel, address } = await startTunnel(t, origin.address)
  const client = await connectTo(t, address)
  client.write(upgradeRequest())
  const asked = await origin.next()
  const head = await asked.until('\r\n\r\n')
  const closing = tunnel.close({ drain: '1h' })
  asked.write(switching(head))
  t.match(await client.until('\r\n\r\n'), /^HTTP\/1\.1 101 /)
  asked.write('hello')
  await client.until('hello')
  t.match(tunnel.draining, { open: 1 })
  client.end()
  asked.end()
  t.strictSame(await closing, { ended: 1, closed: 0, cut: 0 })
})

for (const engine of ['auto', 'stream'] as const) {
  t.test(`${engine}: whoever is connected when accepting stops is answered, and not reset`, async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const { tunnel, address } = await startTunnel(t, origin.address, { options: { engine } })
    const [host = '', port = ''] = address.split(':')
    const outcomes: string[] = []
    let isOver = false
    async function comeAgain(): Promise<void> {
      while (!isOver) {
        const socket = connect(Number(port), host)
        const isConnected = await once(socket, 'connect').then(
          () => true,
          (error: NodeJS.ErrnoException) => {
            // Nobody listens any more: that is no reset.
            isOver ||= error.code === 'ECONNREFUSED'
            return false
          },
        )
        if (!isConnected) continue
        socket.write(upgradeRequest())
        const outcome = await once(socket, 'data').then(
          ([data]) => String(data).slice(0, 12),
          (error: NodeJS.ErrnoException) => String(error.code),
        )
        outcomes.push(outcome)
        socket.destroy()
      }
    }
    const coming = Promise.all(Array.from({ length: 20 }, comeAgain))
    while (outcomes.length < 100) await new Promise(setImmediate)
    await tunnel.close({ drain: '1h' })
    await coming
    t.strictSame([...new Set(outcomes)], ['HTTP/1.1 101'])
  })
}
