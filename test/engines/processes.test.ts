// What an engine does to its process: thousands of tunnels at once, nothing left of those that are over, and no process
// that can't end. The engine is in a process of its own, the far ends are here.

import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import type { Engine } from '../../src/engine/engine.ts'
import { eachEngine, endOf, MIB, sendUntilStalled, take } from '../support/splices.ts'
import type { NearProcess, Tunnel } from './near-process.ts'
import { startNear } from './near-process.ts'

/** Two descriptors for each in this process, and two in the engine's. */
const MANY = 9_000
const SPARE_DESCRIPTORS = 500

const OPENED = process.env.HEADRACE_SOAK === '1' ? 50_000 : 5_000
const BATCH = 250

/** How soon a process has to be gone, in ms. */
const GONE_MS = 2_000

eachEngine(t, async (t, engine) => {
  await t.test(`${MANY} tunnels at once, each of which carries two messages there and back`, (t) =>
    many(t, engine),
  )
  await t.test(`${OPENED} tunnels opened and ended in every way leave nothing behind`, (t) =>
    leaks(t, engine),
  )
  await t.test('a process with open and stalled tunnels can exit', (t) => exits(t, engine))
  await t.test('a process whose tunnels have ended ends by itself, and no sooner', (t) =>
    endsByItself(t, engine),
  )
  await t.test('a process with open tunnels that throws is gone', (t) => throws(t, engine))
})

async function many(t: Test, engine: Engine): Promise<void> {
  const limit = Number(/Max open files +([0-9]+)/.exec(readFileSync('/proc/self/limits', 'latin1'))?.[1])
  const count = Math.min(MANY, Math.floor((limit - SPARE_DESCRIPTORS) / 2))
  if (count < MANY) t.comment(`only ${count} tunnels: a process may have ${limit} descriptors here`)
  const near = await startNear(t, engine)
  const tunnels = await near.open(count)
  for (const { origin } of tunnels) origin.on('data', (chunk: Buffer) => origin.write(chunk))
  let size = 0
  for (const round of ['first', 'second']) {
    const echoed = tunnels.map(async ({ client }, index) => {
      const message = `the ${round} message of tunnel ${index}`
      size += message.length
      client.write(message)
      return (await take(client, message.length)).toString() === message
    })
    t.equal((await Promise.all(echoed)).filter((isRight) => isRight).length, count, `the ${round} message`)
  }
  const { begun, ended, clientToOrigin, originToClient } = await near.ask({ kind: 'state' })
  t.same(
    { begun, ended, clientToOrigin, originToClient },
    { begun: count, ended: 0, clientToOrigin: size, originToClient: size },
  )
  for (const { origin } of tunnels) origin.on('end', () => origin.end())
  for (const { client } of tunnels) client.resume().end()
  const { ends } = await near.ask({ kind: 'ended', count })
  t.same(ends, { 'client-fin': count })
}

/** How a tunnel ends, by its number; the last one is ended from inside. */
const WAYS: readonly ((tunnel: Tunnel) => void)[] = [
  ({ client }) => client.end('x'),
  ({ origin }) => origin.end('x'),
  ({ client }) => client.resetAndDestroy(),
  ({ origin }) => origin.resetAndDestroy(),
  ({ client }) => {
    client.write('x')
    client.destroy()
  },
  ({ client, origin }) => {
    client.end()
    origin.end()
  },
  () => {},
]

async function leaks(t: Test, engine: Engine): Promise<void> {
  const near = await startNear(t, engine)
  let total = 0
  const batch = async () => {
    const tunnels = await near.open(BATCH)
    await Promise.all(tunnels.map((tunnel, index) => (index % 2 === 0 ? exchange(tunnel) : undefined)))
    let fromInside = 0
    for (const [index, tunnel] of tunnels.entries()) {
      for (const far of [tunnel.client, tunnel.origin]) far.on('end', () => far.end()).resume()
      WAYS[index % WAYS.length]?.(tunnel)
      if (index % WAYS.length === WAYS.length - 1) fromInside += 1
    }
    await near.ask({ kind: 'ended', count: total + BATCH - fromInside })
    await near.ask({ kind: 'stop', how: total % (2 * BATCH) === 0 ? 'fin' : 'reset' })
    total += BATCH
    return near.ask({ kind: 'ended', count: total })
  }
  // What a process opens once is no leak.
  const before = await batch()
  let after = before
  while (total < OPENED + BATCH) after = await batch()
  t.equal(after.ended, after.begun)
  t.equal(after.descriptors, before.descriptors, `${after.descriptors} descriptors after ${total} tunnels`)
  t.comment(`rss ${(before.rss / MIB).toFixed(1)} MiB, then ${(after.rss / MIB).toFixed(1)} MiB`)
}

async function exchange({ client, origin }: Tunnel): Promise<void> {
  client.write('there')
  await take(origin, 5)
  origin.write('back')
  await take(client, 4)
}

/** Two that are open, and a third whose origin is stalled by its client. */
async function openAndStalled(t: Test, engine: Engine): Promise<{ near: NearProcess; tunnels: Tunnel[] }> {
  const near = await startNear(t, engine)
  const tunnels = await near.open(3)
  const [first, second, third] = tunnels as [Tunnel, Tunnel, Tunnel]
  await exchange(first)
  await sendUntilStalled(third.origin, Buffer.alloc(MIB), 256, () => exchange(second))
  return { near, tunnels }
}

async function exits(t: Test, engine: Engine): Promise<void> {
  const { near } = await openAndStalled(t, engine)
  const startedAt = performance.now()
  near.tell({ kind: 'exit' })
  t.equal((await near.exited).how, 0)
  t.ok(performance.now() - startedAt < GONE_MS)
}

async function throws(t: Test, engine: Engine): Promise<void> {
  const { near } = await openAndStalled(t, engine)
  const startedAt = performance.now()
  near.tell({ kind: 'throw' })
  const { how, stderr } = await near.exited
  t.equal(how, 1)
  t.match(stderr, /nobody catches it/)
  t.ok(performance.now() - startedAt < GONE_MS)
}

async function endsByItself(t: Test, engine: Engine): Promise<void> {
  const { near, tunnels } = await openAndStalled(t, engine)
  let isGone = false
  void near.exited.then(() => {
    isGone = true
  })
  near.tell({ kind: 'close' })
  await once(near.child, 'disconnect')
  const [first, second] = tunnels as [Tunnel, Tunnel]
  for (let count = 0; count < 100; count += 1) await exchange(first)
  t.notOk(isGone, 'as long as tunnels are open it stays')
  second.client.resetAndDestroy()
  for (const { client, origin } of tunnels) {
    client.on('end', () => client.end()).resume()
    origin.on('end', () => origin.end()).resume()
    if (!client.destroyed) client.end()
  }
  await endOf(first.origin)
  const { how, stderr } = await near.exited
  t.equal(how, 0)
  t.equal(stderr, '')
}
