// What an engine carries: every byte of both sides, in order, whatever its size and wherever it waited when the splice
// began. For each engine that can run here.

import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import type { Side, Stand, Who } from '../support/splices.ts'
import {
  all,
  eachStand,
  endOf,
  errorOfWriter,
  MIB,
  sendMixed,
  sha,
  sides,
  splice,
  spliced,
  sumOf,
  take,
  written,
} from '../support/splices.ts'

const POOL = randomBytes(MIB)
const BULK = 64 * MIB
const PROPERTY_RUNS = 40
const SMALL = 8 * 1024

eachStand(t, async (t, stand) => {
  await t.test('small messages both ways at once', (t) => smallMessages(t, stand))
  await t.test('64 MiB both ways at once, in pieces of mixed sizes', (t) => bulk(t, stand))
  await t.test('chunks of any size with any pauses, early, unread or later', (t) => anyChunks(t, stand))
  await t.test('bytes are counted while it is open', (t) => countsWhileOpen(t, stand))
  await t.test('early bytes of both sides are delivered first, and counted', (t) => early(t, stand))
  await t.test('a MiB of early bytes waits for a side that does not read yet', (t) => muchEarly(t, stand))
  await t.test('what was written to a side before and still waits comes first', (t) => pending(t, stand))
  for (const who of ['client', 'origin'] as const) {
    await t.test(`what the ${who} sent and nobody has read`, (t) => unread(t, stand, who, 'nothing'))
    await t.test(`the same with FIN behind it`, (t) => unread(t, stand, who, 'FIN'))
    await t.test(`the same with RST behind it`, (t) => unread(t, stand, who, 'RST'))
    await t.test(`a FIN of the ${who} that was heard before`, (t) => heardFin(t, stand, who))
    await t.test(`a RST of the ${who} that nobody has heard of`, (t) => unheardRst(t, stand, who))
    await t.test(`a RST of the ${who} that was heard before`, (t) => heardRst(t, stand, who))
  }
})

async function smallMessages(t: Test, stand: Stand): Promise<void> {
  const { client, origin, ended, splicing } = await spliced(t, stand)
  let [up, down] = ['', '']
  const received = Promise.all([all(origin), all(client)])
  for (let count = 0; count < 1_000; count += 1) {
    client.write(`up ${count};`)
    up += `up ${count};`
    if (count % 3 !== 0) {
      origin.write(`down ${count};`)
      down += `down ${count};`
    }
    if (count % 7 === 0) await new Promise(setImmediate)
  }
  client.end()
  origin.end()
  const [atOrigin, atClient] = await received
  t.equal(atOrigin.toString(), up)
  t.equal(atClient.toString(), down)
  const { how, error } = await ended
  t.same({ how, error }, { how: 'fin', error: '' })
  t.same([splicing.clientToOrigin, splicing.originToClient], [up.length, down.length])
}

async function bulk(t: Test, stand: Stand): Promise<void> {
  const { client, origin, ended, splicing } = await spliced(t, stand)
  const [up, down, atOrigin, atClient] = await Promise.all([
    sendMixed(client, BULK, POOL, 1),
    sendMixed(origin, BULK, POOL, 2),
    sumOf(origin),
    sumOf(client),
  ])
  t.equal(atOrigin, up)
  t.equal(atClient, down)
  t.equal((await ended).how, 'fin')
  t.same([splicing.clientToOrigin, splicing.originToClient], [BULK, BULK])
}

/** What one side does. */
interface Way {
  readonly early: readonly number[]
  readonly unread: readonly number[]
  readonly later: readonly { readonly size: number; readonly next: 'on' | 'turn' | 'drain' }[]
  /** For how many turns of the event loop it stops to read, chunk by chunk. */
  readonly stops: readonly number[]
}

const size = fc.oneof(
  fc.integer({ min: 1, max: 16 }),
  fc.integer({ min: 1, max: 100_000 }),
  fc.constantFrom(16_383, 16_384, 65_535, 65_536, 65_537, 131_072),
)
const way: fc.Arbitrary<Way> = fc.record({
  early: fc.array(size, { maxLength: 3 }),
  unread: fc.array(size, { maxLength: 2 }),
  later: fc.array(fc.record({ size, next: fc.constantFrom('on', 'turn', 'drain') }), { maxLength: 12 }),
  stops: fc.array(fc.integer({ min: 0, max: 6 }), { maxLength: 5 }),
})
const last = fc.constantFrom('client', 'origin', 'nobody')

async function anyChunks(t: Test, stand: Stand): Promise<void> {
  const property = fc.asyncProperty(way, way, last, async (up, down, last) => {
    const both = await sides(t, stand)
    const [ofClient, ofOrigin] = [piecesOf(up, 0), piecesOf(down, POOL.length / 3)]
    for (const chunk of ofClient.unread) both.client.far.write(chunk)
    for (const chunk of ofOrigin.unread) both.origin.far.write(chunk)
    const early = { fromClient: ofClient.early, fromOrigin: ofOrigin.early }
    const { client, origin, splicing, ended } = splice(t, stand, both, early)
    const [toOrigin, toClient] = [reading(origin, down.stops), reading(client, up.stops)]
    await Promise.all([
      sending(client, up, ofClient.later, last === 'client' ? toClient : null),
      sending(origin, down, ofOrigin.later, last === 'origin' ? toOrigin : null),
    ])
    const [atOrigin, atClient, end] = await Promise.all([toOrigin, toClient, ended])
    if (!atOrigin.equals(ofClient.all)) throw new Error('what the client sent is not what the origin got')
    if (!atClient.equals(ofOrigin.all)) throw new Error('what the origin sent is not what the client got')
    if (end.how !== 'fin' || end.error !== '') throw new Error(`ended by ${end.how} ${end.error}`)
    return splicing.clientToOrigin === ofClient.all.length && splicing.originToClient === ofOrigin.all.length
  })
  const result = await fc.check(property, { numRuns: PROPERTY_RUNS })
  t.notOk(result.failed, result.failed ? String(fc.defaultReportMessage(result)) : 'each run is whole')
}

/** Cuts what a way sends out of the pool, all of it in a row. */
function piecesOf({ early, unread, later }: Way, start: number) {
  let at = start
  const cut = (size: number) => {
    // At the end of the pool it begins again, at another place.
    if (at + size > POOL.length) at %= 9_973
    at += size
    return POOL.subarray(at - size, at)
  }
  const pieces = { early: early.map(cut), unread: unread.map(cut), later: later.map(({ size }) => cut(size)) }
  return { ...pieces, all: Buffer.concat([...pieces.early, ...pieces.unread, ...pieces.later]) }
}

async function sending(
  socket: Socket,
  { later }: Way,
  chunks: readonly Buffer[],
  before: Promise<unknown> | null,
): Promise<void> {
  for (const [index, chunk] of chunks.entries()) {
    const takesMore = socket.write(chunk)
    const next = later[index]?.next
    if (next === 'turn') await new Promise(setImmediate)
    if (next === 'drain' && !takesMore && socket.writableNeedDrain) await once(socket, 'drain')
  }
  await before
  socket.end()
}

/** All that comes until FIN, read with stops. */
async function reading(socket: Socket, stops: readonly number[]): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
    for (let turns = stops[chunks.length] ?? 0; turns > 0; turns -= 1) await new Promise(setImmediate)
    chunks.push(chunk as Buffer)
  }
  return Buffer.concat(chunks)
}

async function countsWhileOpen(t: Test, stand: Stand): Promise<void> {
  const { client, origin, splicing } = await spliced(t, stand, {
    fromClient: [Buffer.from('ab')],
    fromOrigin: [],
  })
  t.equal(splicing.engine, stand.engine.name)
  client.write('cde')
  await take(origin, 5)
  t.same([splicing.clientToOrigin, splicing.originToClient], [5, 0])
  origin.write('four')
  await take(client, 4)
  t.same([splicing.clientToOrigin, splicing.originToClient], [5, 4])
}

async function early(t: Test, stand: Stand): Promise<void> {
  const early = { fromClient: [Buffer.from('a'), Buffer.from('bc')], fromOrigin: [Buffer.from('xyz')] }
  const { client, origin, splicing, ended } = await spliced(t, stand, early)
  client.end('d')
  origin.end('!')
  t.equal((await all(origin)).toString(), 'abcd')
  t.equal((await all(client)).toString(), 'xyz!')
  await ended
  t.same([splicing.clientToOrigin, splicing.originToClient], [4, 4])
}

async function muchEarly(t: Test, stand: Stand): Promise<void> {
  const pieces = (way: Buffer) => [
    way.subarray(0, 1_000),
    way.subarray(1_000, 500_000),
    way.subarray(500_000),
  ]
  const [up, down] = [POOL, Buffer.from(POOL).reverse()]
  // More than the system takes, so that the engine is given the rest.
  const tunnel = await sides(t, stand, SMALL)
  const early = { fromClient: pieces(up), fromOrigin: pieces(down) }
  const { client, origin, splicing, ended } = splice(t, stand, tunnel, early)
  client.end('behind')
  origin.end('behind')
  // Both have said all they have to say, and only now anybody reads.
  await Promise.all([client, origin].map((socket) => socket.writableFinished || once(socket, 'finish')))
  const [atOrigin, atClient] = await Promise.all([all(origin), all(client)])
  t.ok(atOrigin.equals(Buffer.concat([up, Buffer.from('behind')])))
  t.ok(atClient.equals(Buffer.concat([down, Buffer.from('behind')])))
  t.equal((await ended).how, 'fin')
  t.same([splicing.clientToOrigin, splicing.originToClient], [MIB + 6, MIB + 6])
}

async function pending(t: Test, stand: Stand): Promise<void> {
  const both = await sides(t, stand)
  const answer = randomBytes(16 * MIB)
  both.client.near.write(answer)
  const { client, origin, ended, splicing } = splice(t, stand, both, {
    fromClient: [],
    fromOrigin: [Buffer.from('early')],
  })
  t.equal(splicing.engine, 'stream', 'the system alone does not have it all')
  origin.end('later')
  const atClient = await all(client)
  t.ok(atClient.equals(Buffer.concat([answer, Buffer.from('earlylater')])))
  client.end('up')
  t.equal((await all(origin)).toString(), 'up')
  await ended
  t.same([splicing.clientToOrigin, splicing.originToClient], [2, 10])
}

/** Reads the first bytes as a head's reader does, and stops: what comes then waits below, in node or in the system. */
async function readFirst({ near, far, socket }: Side, first: string, behind: Buffer): Promise<Buffer[]> {
  const early: Buffer[] = []
  await new Promise<void>((resolve) => {
    near.attach({
      data(chunk) {
        early.push(chunk)
        near.pause()
        resolve()
      },
      end() {},
      drain() {},
      closed() {},
    })
    far.write(first)
  })
  far.write(behind)
  // Node reads a few chunks even when it is paused.
  while (socket !== null && socket.readableLength === 0) await new Promise(setImmediate)
  return early
}

/** More than node takes by itself, less than the system's buffers. */
const BEHIND = randomBytes(300_000)

async function unread(t: Test, stand: Stand, who: Who, then: 'nothing' | 'FIN' | 'RST'): Promise<void> {
  const both = await sides(t, stand)
  const near = both[who]
  const early = await readFirst(near, 'first', BEHIND)
  if (then === 'FIN') {
    near.far.end()
    await once(near.far, 'finish')
  }
  if (then === 'RST') {
    near.far.resetAndDestroy()
    await once(near.far, 'close')
  }
  const ends = splice(t, stand, both, earlyOf(who, early))
  const other = otherOf(who, ends)
  if (then === 'RST') {
    // What it left behind may arrive or not: the RST must.
    t.match(await errorOfWriter(other), /^(?:ECONNRESET|EPIPE)$/)
    const { how, error } = await ends.ended
    t.equal(how, 'reset')
    t.match(error, /^(?:ECONNRESET|EPIPE)$/)
    return
  }
  if (then === 'nothing') ends[who].end('later')
  const expected = Buffer.concat([Buffer.from('first'), BEHIND, Buffer.from(then === 'FIN' ? '' : 'later')])
  t.equal(sha(await all(other)), sha(expected))
  other.end('answer')
  t.equal((await all(ends[who])).toString(), 'answer')
  t.same(await ends.ended, { who, how: 'fin', error: '' })
  const counts = [ends.splicing.clientToOrigin, ends.splicing.originToClient]
  t.same(counts, who === 'client' ? [expected.length, 6] : [6, expected.length])
}

async function heardFin(t: Test, stand: Stand, who: Who): Promise<void> {
  const both = await sides(t, stand)
  const { near, far } = both[who]
  const early: Buffer[] = []
  await new Promise<void>((resolve) => {
    near.attach({ data: (chunk) => void early.push(chunk), end: resolve, drain() {}, closed() {} })
    far.end('all of it')
  })
  near.pause()
  const ends = splice(t, stand, both, earlyOf(who, early))
  const other = otherOf(who, ends)
  t.equal((await all(other)).toString(), 'all of it')
  await written(other, 'answer')
  t.equal((await take(far, 6)).toString(), 'answer')
  other.end()
  await endOf(far)
  t.same(await ends.ended, { who, how: 'fin', error: '' })
}

async function unheardRst(t: Test, stand: Stand, who: Who): Promise<void> {
  const both = await sides(t, stand)
  const { far } = both[who]
  far.resetAndDestroy()
  await once(far, 'close')
  const ends = splice(t, stand, both)
  t.match(await errorOfWriter(otherOf(who, ends)), /^(?:ECONNRESET|EPIPE)$/)
  t.same(await ends.ended, { who, how: 'reset', error: 'ECONNRESET' })
}

async function heardRst(t: Test, stand: Stand, who: Who): Promise<void> {
  const both = await sides(t, stand)
  const { near, far } = both[who]
  await new Promise<void>((resolve) => {
    near.attach({ data() {}, end() {}, drain() {}, closed: () => resolve() })
    far.resetAndDestroy()
  })
  const ends = splice(t, stand, both)
  t.equal(await errorOfWriter(otherOf(who, ends)), 'ECONNRESET')
  t.same(await ends.ended, { who, how: 'reset', error: 'ECONNRESET' })
}

function otherOf(who: Who, ends: Readonly<Record<Who, Socket>>): Socket {
  return who === 'client' ? ends.origin : ends.client
}

function earlyOf(who: Who, early: readonly Buffer[]) {
  return who === 'client' ? { fromClient: early, fromOrigin: [] } : { fromClient: [], fromOrigin: early }
}
