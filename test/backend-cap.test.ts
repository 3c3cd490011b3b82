// The connections that a backend may have: of all workers of the program together.

import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { t } from 'tap'
import { readConfig } from '../src/config/load.ts'
import type { Edge } from '../src/edge.ts'
import { createEdge } from '../src/edge.ts'
import { createLedger } from '../src/gate/ledger.ts'
import type { BackendStatus } from '../src/service/status.ts'
import type { Fleet } from './support/control.ts'
import { chatConfig, echoes, startFleet, workersOf } from './support/control.ts'
import { echo, startOrigin, upgradeRequest } from './support/origin.ts'
import type { Peer } from './support/peer.ts'
import { connectTo } from './support/peer.ts'

interface Place {
  readonly name: string
  readonly address: string
  readonly maxConnections: number
}

/** Two workers; upgrades go to the director or backend `target`, everything else to the backend that is named first. */
function cappedConfig(backends: readonly Place[], target: string, more = ''): string {
  const list = backends.map(
    ({ name, address, maxConnections }) =>
      `{ name: ${name}, address: "${address}", maxConnections: ${maxConnections} }`,
  )
  return `listeners: [{ address: "127.0.0.1:0" }]
services:
  - id: chat
    domains: ["*"]
    websockets: on
    backends: [${list.join(', ')}]
    routes: [{ match: { upgrade: websocket }, handoff: ${target} }, { send: ${backends[0]?.name} }]
${more}workers: 2
`
}

type Where = Pick<Fleet, 'address'>

/** An upgrade, and the status that it gets. */
async function ask(t: Parameters<typeof connectTo>[0], { address }: Where): Promise<[Peer, number]> {
  const client = await connectTo(t, address)
  client.write(upgradeRequest())
  const head = await client.until('\r\n\r\n')
  return [client, Number(head.split(' ')[1])]
}

async function askMany(t: Parameters<typeof connectTo>[0], where: Where, count: number) {
  const all = await Promise.all(Array.from({ length: count }, () => ask(t, where)))
  const withStatus = (wanted: number) =>
    all.flatMap(([client, status]) => (status === wanted ? [client] : []))
  return { served: withStatus(101), refused: withStatus(503), all }
}

async function connectionsOf(fleet: Fleet): Promise<Record<string, number>> {
  const { json } = await fleet.control('/backends')
  const { backends } = json as { backends: readonly BackendStatus[] }
  return Object.fromEntries(backends.map(({ name, connections }) => [name, connections]))
}

/** Until it is let in: what has ended is given back by another process. */
async function untilServed(t: Parameters<typeof connectTo>[0], fleet: Fleet): Promise<Peer> {
  for (;;) {
    const [client, status] = await ask(t, fleet)
    if (status === 101) return client
    await sleep(5)
  }
}

t.test(
  'thirty at once over two workers: as many as the cap are served, and one more for each that leaves',
  async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const places = [{ name: 'origin', address: origin.address, maxConnections: 10 }]
    const fleet = await startFleet(t, cappedConfig(places, 'origin'))
    const { served, refused } = await askMany(t, fleet, 30)
    t.same([served.length, refused.length], [10, 20])
    t.equal(origin.count, 10, 'the origin has seen no other')
    const lines = await fleet.says('request refused', 20)
    t.ok(lines.every(({ code, end }) => code === 'backend-full' && end === 'edge-refused-dial'))
    // Both workers refuse; but the kernel may have given all that came to one of them.
    const refusing = () => new Set(fleet.said('request refused').map(({ worker }) => worker)).size
    while (refusing() < 2) t.equal((await ask(t, fleet))[1], 503)
    for (const one of refused) t.match(one.text, /^Retry-After: ([5-9]|1[0-5])\r$/m)
    t.same(await connectionsOf(fleet), { origin: 10 })

    served[0]?.end()
    const next = await untilServed(t, fleet)
    t.ok(await echoes(next, 'hello'))
    t.equal((await askMany(t, fleet, 10)).served.length, 0, 'it was the only one')
    for (const one of served.slice(1)) t.ok(await echoes(one, 'still here'))
  },
)

t.test('what a killed worker held is free again, and no more than that', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const places = [{ name: 'origin', address: origin.address, maxConnections: 10 }]
  const fleet = await startFleet(t, cappedConfig(places, 'origin'))
  const { served } = await askMany(t, fleet, 30)
  t.equal(served.length, 10)
  await fleet.says('tunnel accepted', 10)
  const held = fleet.said('tunnel accepted').filter(({ worker }) => worker === 'worker-0').length
  const [first] = await workersOf(fleet)
  process.kill(first?.pid ?? Number.NaN, 'SIGKILL')
  await fleet.says('a process has died')
  await fleet.says('a process was replaced')
  const again = await askMany(t, fleet, 30)
  t.equal(again.served.length, held)
  t.same(await connectionsOf(fleet), { origin: 10 })
})

t.test('a director goes on to its next backend when one is full, before anybody is refused', async (t) => {
  const [one, two] = [await startOrigin(t, { answer: echo }), await startOrigin(t, { answer: echo })]
  const places = [
    { name: 'one', address: one.address, maxConnections: 7 },
    { name: 'two', address: two.address, maxConnections: 5 },
  ]
  const pool = '    directors: [{ name: pool, backends: [one, two], policy: fallback }]\n'
  const fleet = await startFleet(t, cappedConfig(places, 'pool', pool))
  const { served, refused } = await askMany(t, fleet, 20)
  t.same([served.length, refused.length, one.count, two.count], [12, 8, 7, 5])
  t.same(await connectionsOf(fleet), { one: 7, two: 5 })
  const { json } = await fleet.control('/backends')
  const { backends } = json as { backends: readonly BackendStatus[] }
  t.ok(
    backends.every(({ health }) => health === 'healthy'),
    'a full house is no illness',
  )
})

t.test('a plain request has a connection as a tunnel has, until it is answered and let go', async (t) => {
  const origin = await startOrigin(t)
  const places = [{ name: 'origin', address: origin.address, maxConnections: 1 }]
  const fleet = await startFleet(t, cappedConfig(places, 'origin'))
  const reader = await connectTo(t, fleet.address)
  reader.write('GET / HTTP/1.1\r\nHost: chat.test\r\n\r\n')
  const atOrigin = await origin.next()
  await atOrigin.until('\r\n\r\n')
  const { refused } = await askMany(t, fleet, 20)
  t.equal(refused.length, 20)
  t.equal(new Set((await fleet.says('request refused', 20)).map(({ worker }) => worker)).size, 2)
  atOrigin.end('HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok')
  t.match(await reader.until('\r\n\r\nok'), /^HTTP\/1\.1 200 /)
  const trying = untilServed(t, fleet)
  await echo(await origin.next())
  t.ok(await echoes(await trying, 'hello'))
})

t.test('a dial that fails, and an answer that is no 101, give back what they took', async (t) => {
  const origin = await startOrigin(t, {
    answer: (peer) =>
      void peer.until('\r\n\r\n').then(
        () => peer.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n'),
        () => {},
      ),
  })
  const places = [{ name: 'origin', address: origin.address, maxConnections: 1 }]
  const fleet = await startFleet(t, cappedConfig(places, 'origin'))
  for (let count = 0; count < 10; count += 1) {
    let status = 503
    while (status === 503) [, status] = await ask(t, fleet)
    t.equal(status, 403)
  }
  await origin.stop()
  for (let count = 0; count < 10; count += 1) {
    let status = 503
    while (status === 503) [, status] = await ask(t, fleet)
    t.equal(status, 502)
  }
})

/** All tunnels go over, as between two processes. */
async function move({ handover: from }: Edge, { handover: to }: Edge): Promise<void> {
  from.share(true)
  const offered = new Map(from.movable().map((tunnel) => [tunnel, from.duplicate(tunnel)]))
  const { frozen } = await from.freeze([...offered.keys()])
  const arriving = frozen.map(({ tunnel, carried: { toClient, toOrigin }, progress }) => {
    const [client, origin] = offered.get(tunnel) as readonly [number, number]
    const identity = { facts: tunnel.facts, backend: tunnel.backend.options.name }
    return { identity, progress, client, origin, toClient, toOrigin }
  })
  await to.adopt(arriving)
  from.leave(frozen, () => {})
  from.forget(frozen)
  from.share(false)
}

t.test('a cap that comes or goes with a release is as one that comes or goes by a reload', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const onTrouble = ({ message }: Error) => t.fail(message)
  const ledger = createLedger({ redis: undefined, onCrossing() {}, onTrouble })
  const configOf = (cap: string) => {
    const text = chatConfig(origin.address, 'engine: epoll\nlog: { level: silent }\n')
    const { edge, listeners } = readConfig(text.replace('name: origin', `name: origin${cap}`), 'any', {})
    return { edge: { ...edge, stateDirectory: undefined }, listeners }
  }
  const [free, capped] = [configOf(''), configOf(', maxConnections: 2')]
  const start = async ({ edge: options, listeners }: typeof free) => {
    const edge = createEdge(options, ledger)
    t.teardown(() => edge.close({ drainMs: 0, spreadMs: 0 }))
    const { addresses } = await edge.listen(listeners)
    const count = () => edge.backends()[0]?.connections
    return { edge, address: addresses[0] ?? '', count }
  }
  const end = async ({ edge }: { readonly edge: Edge }, peers: readonly (Peer | undefined)[]) => {
    for (const peer of peers) {
      const closed = once(edge, 'closed')
      peer?.end()
      await closed
    }
  }

  const first = await start(free)
  const { served: uncounted } = await askMany(t, first, 3)
  const second = await start(capped)
  await move(first.edge, second.edge)
  const { served: counted, refused } = await askMany(t, second, 3)
  t.same([counted.length, refused.length, second.count()], [2, 1, 5])
  await end(second, uncounted)
  t.equal((await ask(t, second))[1], 503, 'those that have no permit give none back')
  t.equal(second.count(), 2)

  const third = await start(free)
  await move(second.edge, third.edge)
  const reload = await third.edge.prepare(capped.edge)
  reload.commit()
  t.equal((await ask(t, third))[1], 503, 'those that have one keep it')
  await end(third, counted.slice(1))
  const [last, status] = await ask(t, third)
  t.same([status, (await ask(t, third))[1], third.count()], [101, 503, 2], 'and give it back')

  const fourth = await start(capped)
  await move(third.edge, fourth.edge)
  t.same([third.count(), fourth.count()], [0, 2])
  for (const peer of [counted[0], last]) t.ok(await echoes(peer as Peer, 'still here'))
  await end(fourth, [counted[0], last])
  t.equal(ledger.size, 0)
})
