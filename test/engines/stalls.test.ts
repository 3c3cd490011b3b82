// What an engine holds back: a reader that stops makes its sender stop, costs little memory, and is nobody else's trouble.
// For each engine that can run here.

import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import t, { type Test } from 'tap'
import type { Engine } from '../../src/engine/engine.ts'
import type { Stand, Who } from '../support/splices.ts'
import {
  eachEngine,
  eachStand,
  MIB,
  sendMixed,
  sendUntilStalled,
  spliced,
  sumOf,
  take,
} from '../support/splices.ts'
import type { Tunnel } from './near-process.ts'
import { startNear } from './near-process.ts'

const BLOCK = randomBytes(MIB)
/** More than any system's buffers take without a reader. */
const LIMIT_MIB = 256
const OTHER_WAY = 64 * MIB

/** What may be taken from a sender whose bytes nobody reads, in MiB: what the system keeps for a slow receiver, and some. */
const TAKEN_MIB = 8

const STALLED = 50
/** What the process grows by: of what V8 and malloc give back, some stays theirs; the engine `stream` took 584 on Node 26 once. */
const BOUND_KIB = 1024

const PING_PONGS = 100
const ROUNDS = 100

eachStand(t, async (t, stand) => {
  for (const who of ['client', 'origin'] as const) {
    await t.test(
      `${who === 'client' ? 'a client' : 'an origin'} that does not read stops the other side, and can still send`,
      (t) => stalledOneWay(t, stand, who),
    )
  }
  await t.test('neither side reads, and then both do', (t) => stalledBothWays(t, stand))
})

eachEngine(t, async (t, engine) => {
  await t.test(`${STALLED} stalled tunnels cost at most ${BOUND_KIB} KiB each`, (t) => memory(t, engine))
  await t.test(`a bulk tunnel lets ${PING_PONGS} others have their turn`, (t) => fairness(t, engine))
})

async function stalledOneWay(t: Test, stand: Stand, who: Who): Promise<void> {
  const ends = await spliced(t, stand)
  const [reader, sender] = who === 'client' ? [ends.client, ends.origin] : [ends.origin, ends.client]
  const sent = createHash('sha256')
  // The same tunnel's other direction goes on meanwhile.
  const count = await sendUntilStalled(sender, BLOCK, LIMIT_MIB, async () => {
    reader.write(BLOCK)
    await take(sender, BLOCK.length)
  })
  for (let block = 0; block < count; block += 1) sent.update(BLOCK)
  const takenMib = (who === 'client' ? ends.splicing.originToClient : ends.splicing.clientToOrigin) / MIB
  t.ok(takenMib < TAKEN_MIB, `${takenMib.toFixed(1)} MiB were taken`)
  const [otherWay, received] = await Promise.all([sendMixed(reader, OTHER_WAY, BLOCK, 3), sumOf(sender)])
  t.equal(received, otherWay, 'the other direction is whole')
  sender.end()
  t.equal(await sumOf(reader), sent.digest('hex'), 'nothing is lost when it reads again')
  t.same(await ends.ended, { who, how: 'fin', error: '' })
}

async function stalledBothWays(t: Test, stand: Stand): Promise<void> {
  const { client, origin, ended } = await spliced(t, stand)
  const counts: number[] = []
  for (const sender of [client, origin]) {
    counts.push(
      await sendUntilStalled(sender, BLOCK, LIMIT_MIB, async () => {
        const other = await spliced(t, stand)
        other.client.write(BLOCK)
        await take(other.origin, BLOCK.length)
      }),
    )
    sender.end()
  }
  const sums = counts.map((count) => {
    const hash = createHash('sha256')
    for (let block = 0; block < count; block += 1) hash.update(BLOCK)
    return hash.digest('hex')
  })
  t.same(await Promise.all([sumOf(origin), sumOf(client)]), sums)
  t.equal((await ended).how, 'fin')
}

async function memory(t: Test, engine: Engine): Promise<void> {
  const near = await startNear(t, engine)
  const [elsewhere] = (await near.open(1)) as [Tunnel]
  const stall = ({ origin }: Tunnel) =>
    sendUntilStalled(origin, BLOCK, LIMIT_MIB, async () => {
      elsewhere.client.write(BLOCK)
      await take(elsewhere.origin, BLOCK.length)
    })
  // As many first that are read and end: what a process grows by once is not what a stalled tunnel costs.
  const warm = await near.open(STALLED)
  for (const tunnel of warm) await stall(tunnel)
  for (const { client, origin } of warm) {
    client.on('end', () => client.end()).resume()
    origin.end()
  }
  await near.ask({ kind: 'ended', count: STALLED })
  const before = await near.ask({ kind: 'state' })
  for (const tunnel of await near.open(STALLED)) await stall(tunnel)
  let after = await near.ask({ kind: 'state' })
  const grownBy = () => (after.rss - before.rss) / STALLED / 1024
  // What is let go is given back by a thread of V8 in its own time.
  for (let count = 0; count < 50 && grownBy() >= BOUND_KIB; count += 1) {
    await pause(20)
    after = await near.ask({ kind: 'state' })
  }
  const grownKib = grownBy()
  t.ok(grownKib < BOUND_KIB, `${grownKib.toFixed(0)} KiB for each`)
  const takenMib = (after.originToClient - before.originToClient) / STALLED / MIB
  t.ok(takenMib < TAKEN_MIB, `${takenMib.toFixed(1)} MiB were taken from each`)
}

async function fairness(t: Test, engine: Engine): Promise<void> {
  const near = await startNear(t, engine)
  const [bulk, ...others] = (await near.open(PING_PONGS + 1)) as [Tunnel, ...Tunnel[]]
  let isOver = false
  let arrived = 0
  bulk.client.on('data', (chunk: Buffer) => {
    arrived += chunk.length
  })
  const flowing = flow(bulk.origin, () => isOver)
  await once(bulk.client, 'data')
  const before = arrived
  await Promise.all(others.map(pingPong))
  isOver = true
  t.ok(arrived > before, `${((arrived - before) / MIB).toFixed(0)} MiB went beside them`)
  await flowing
}

/** As much as the socket takes, until told. */
async function flow(socket: Socket, isOver: () => boolean): Promise<void> {
  while (!isOver()) if (!socket.write(BLOCK)) await once(socket, 'drain')
}

async function pingPong({ client, origin }: Tunnel): Promise<void> {
  for (let round = 0; round < ROUNDS; round += 1) {
    client.write('ping')
    await take(origin, 4)
    origin.write('pong')
    await take(client, 4)
  }
}
