// What the benchmark relies on: that its load notices a wrong byte, that disturbed time doesn't count, that a slower function
// is told from noise.

import { once } from 'node:events'
import type { AddressInfo, Server, Socket } from 'node:net'
import { connect, createServer } from 'node:net'
import type { Test } from 'tap'
import t from 'tap'
import type { Snapshot } from '../bench/accounting/windows.ts'
import { spendingOf } from '../bench/accounting/windows.ts'
import { compare } from '../bench/baseline.ts'
import { boundOf } from '../bench/bound.ts'
import { figure } from '../bench/figures.ts'
import type { ClientCalls } from '../bench/load/client.ts'
import type { OriginCalls } from '../bench/load/origin.ts'
import type { TrafficKind } from '../bench/load/traffic.ts'
import { startProcess } from '../bench/process.ts'

/** A proxy that changes one bit of the byte at `wrongAt`, counted from the client's or the origin's first. */
async function proxyTo(t: Test, origin: string, wrongAt: number | null): Promise<string> {
  const sockets = new Set<Socket>()
  const pipe = (from: Socket, to: Socket) => {
    let seen = 0
    from.on('data', (chunk: Buffer) => {
      if (wrongAt !== null && wrongAt >= seen && wrongAt < seen + chunk.length) {
        const at = wrongAt - seen
        chunk[at] = (chunk[at] ?? 0) ^ 1
      }
      seen += chunk.length
      to.write(chunk)
    })
    from.on('end', () => to.end())
    from.on('error', () => to.destroy())
  }
  const server: Server = createServer({ allowHalfOpen: true }, (client) => {
    const [host = '', port] = origin.split(':')
    const to = connect({ host, port: Number(port), allowHalfOpen: true })
    pipe(client, to)
    pipe(to, client)
    for (const socket of [client, to]) sockets.add(socket)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return `127.0.0.1:${(server.address() as AddressInfo).port}`
}

async function loadThrough(t: Test, kind: TrafficKind, size: number, wrongAt: number | null) {
  const at = (name: string) => new URL(`../bench/load/${name}.js`, import.meta.url)
  const origin = await startProcess<OriginCalls>('origin', at('origin'))
  const client = await startProcess<ClientCalls>('client', at('client'))
  t.teardown(async () => {
    await client.stop()
    await origin.stop()
  })
  const address = await proxyTo(t, await origin.call('listen'), wrongAt)
  const order = { source: '127.0.0.1', tls: false, traffic: { kind, size }, lanes: 2 }
  await client.call('open', { ...order, targets: [{ address, count: 3 }] })
  return { origin, client }
}

/** Behind both heads, in the messages. */
const BEHIND_HEADS = 5_000

t.test('bytes that come back as they went are counted, whatever their number', async (t) => {
  for (const kind of ['echo', 'up', 'down'] as const) {
    const { origin, client } = await loadThrough(t, kind, 700_000, null)
    const { answers } = await client.call('play', 50, 700_000)
    t.ok(answers >= 3, `${kind}: ${answers} answers`)
    t.equal(await origin.call('open'), 3, kind)
  }
})

t.test('a wrong byte on its way back fails at the client', async (t) => {
  const { client } = await loadThrough(t, 'echo', 64, BEHIND_HEADS)
  await t.rejects(client.call('play', 2_000, 64), /a wrong byte came back/)
})

t.test('a wrong byte of an answer fails at the client', async (t) => {
  const { client } = await loadThrough(t, 'down', 100_000, BEHIND_HEADS)
  await t.rejects(client.call('play', 2_000, 100_000), /a wrong byte came back/)
})

t.test(
  'a wrong byte of a question fails at the origin, and at the client, which loses its tunnel',
  async (t) => {
    const { client, origin } = await loadThrough(t, 'up', 100_000, BEHIND_HEADS)
    await t.rejects(client.call('play', 2_000, 100_000), /transfer 1/)
    await t.rejects(origin.call('open'), /a wrong byte came/)
  },
)

t.test('questions at a fixed rate: as many as are due, each with its time', async (t) => {
  const { client } = await loadThrough(t, 'echo', 64, null)
  const { askedAt, tookMs } = await client.call('pace', { share: 1, perSecond: 400, ms: 250, tls: false })
  t.equal(tookMs.length, 100)
  t.ok(tookMs.every((ms) => ms > 0 && ms < 2_000))
  t.ok((askedAt.at(-1) ?? 0) - (askedAt[0] ?? 0) > 200e6, 'spread over the time')
})

function snapshot(ms: number): Snapshot {
  const ns = ms * 1e6
  return { at: ns, proxy: ns / 2, load: 0, origin: 0, kernel: 0, sampler: 0, segments: ms, octets: ms * 100 }
}

t.test('windows that a stall touches, and too long ones, do not count', (t) => {
  // The third takes 12 ms; a CPU is away within the fifth.
  const snapshots = [0, 4, 8, 20, 24, 28, 32].map(snapshot)
  const spent = spendingOf(snapshots, [{ from: 25e6, to: 26e6 }], 6e6)
  t.match(spent, { windows: 6, clean: 4, wall: 16e6, proxy: 8e6, segments: 16, octets: 1_600 })
  t.end()
})

t.test('a rate is the proxy’s only if the proxy was busy', (t) => {
  const busy = { proxy: 0.9, load: 0.9, origin: 0.5, loadCpus: 0.95 }
  t.equal(boundOf(busy), 'proxy')
  t.equal(boundOf({ ...busy, proxy: 0.6 }), 'load')
  t.equal(boundOf({ proxy: 0.6, load: 0.4, origin: 0.9, loadCpus: 0.7 }), 'origin')
  t.equal(boundOf({ proxy: 0.6, load: 0.4, origin: 0.4, loadCpus: 0.8 }), 'none')
  t.end()
})

t.test('slower than the baseline is what is slower than the noise', (t) => {
  const baseline = { machine: '', node: '', date: '', micros: { parse: { us: 10, noise: 0.02 } } }
  t.match(compare('parse', { us: 10.5, noise: 0.01 }, baseline), { isSlower: false })
  t.match(compare('parse', { us: 13, noise: 0.01 }, baseline), { isSlower: true, ratio: 1.3 })
  t.match(compare('parse', { us: 13, noise: 0.5 }, baseline), { isSlower: false })
  t.equal(compare('another', { us: 13, noise: 0.5 }, baseline), null)
  t.end()
})

t.test('medians and quartiles', (t) => {
  t.match(figure('x', [4, 1, 3, 2, 5]), { median: 3, low: 2, high: 4, count: 5 })
  t.match(figure('x', [1, 2]), { median: 1.5 })
  t.end()
})
