// The contract of src/engine/engine.ts, row by row: what the end of one side does to the other, for each engine that can
// run here. What engines carry is in engines/bytes.test.ts, what they hold back in engines/stalls.test.ts, what they do to
// their process in engines/processes.test.ts.

import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import t, { type Test } from 'tap'
import type { Reader, Transport } from '../src/transport/transport.ts'
import type { Spliced, Stand, Who } from './support/splices.ts'
import {
  all,
  eachStand,
  endOf,
  errorOf,
  errorOfWriter,
  MIB,
  NOTHING,
  sendUntilStalled,
  sha,
  sides,
  splice,
  spliced,
  take,
  written,
} from './support/splices.ts'

const RESET = /^(?:ECONNRESET|EPIPE)$/
const MUCH = randomBytes(4 * MIB)
/** Blocks of a MiB that no system takes without a reader. */
const LIMIT = 256
/** Of a near end, in bytes; and what is less than any window. */
const SMALL_BUFFER = 32 * 1024
const PIECE = randomBytes(16 * 1024)

eachStand(t, async (t, stand) => {
  for (const who of ['client', 'origin'] as const) {
    const other = who === 'client' ? 'origin' : 'client'
    await t.test(`FIN of the ${who}: the ${other} hears it, still sends, and ends it`, (t) =>
      fin(t, stand, who),
    )
    await t.test(`FIN of the ${who} right behind bytes comes after all of them`, (t) =>
      finBehind(t, stand, who),
    )
    await t.test(`FIN of the ${who} before the splice`, (t) => finBefore(t, stand, who))
    await t.test(`RST of the ${who} while nothing moves`, (t) => resetIdle(t, stand, who))
    await t.test(`RST of the ${who} in the middle of traffic`, (t) => resetInTraffic(t, stand, who))
    await t.test(`RST of the ${who} after its FIN`, (t) => resetAfterFin(t, stand, who))
    await t.test(`RST of the ${who} after the FIN of the ${other}`, (t) => resetAfterOtherFin(t, stand, who))
    await t.test(`RST of the ${who} while it is stalled itself`, (t) => resetOfStalled(t, stand, who))
    await t.test(`RST of the ${who} while the ${other} does not read`, (t) => resetOfSender(t, stand, who))
    await t.test(`any other error of the ${who} is a RST at the ${other}`, (t) => otherErrors(t, stand, who))
    await t.test(`stop after the FIN of the ${who}`, (t) => stopAfterFin(t, stand, who))
    await t.test(`stop in order while the ${who} does not read`, (t) => stopInOrderStalled(t, stand, who))
    await t.test(`stop at once while the ${who} does not read`, (t) => stopAtOnceStalled(t, stand, who))
  }
  await t.test('FIN of both at once', (t) => finOfBoth(t, stand))
  await t.test('FIN of both before the splice', (t) => finOfBothBefore(t, stand))
  for (const isAtOnce of [false, true]) {
    const how = isAtOnce ? 'at once' : 'in order'
    await t.test(`stop ${how} while nothing moves`, (t) => stopIdle(t, stand, isAtOnce))
    await t.test(`stop ${how} in the middle of traffic`, (t) => stopInTraffic(t, stand, isAtOnce))
    await t.test(`stop ${how} right after the splice`, (t) => stopAtBirth(t, stand, isAtOnce))
  }
  await t.test('stop at once after stop in order', (t) => stopTwice(t, stand))
  await t.test('stop after the end changes nothing', (t) => stopAfterEnd(t, stand))
  await t.test('stop in order while bytes and a FIN wait: it is over when both have ended', (t) =>
    stopWithRest(t, stand),
  )
  await t.test('stop in order closes what does not close by itself', (t) => stopOfSilent(t, stand))
})

/** The one who does something, and the other. */
function roles(who: Who, { client, origin }: Spliced): { active: Socket; other: Socket } {
  return who === 'client' ? { active: client, other: origin } : { active: origin, other: client }
}

async function fin(t: Test, stand: Stand, who: Who): Promise<void> {
  const ends = await spliced(t, stand)
  const { active, other } = roles(who, ends)
  active.end('last words')
  t.equal((await all(other)).toString(), 'last words')
  await written(other, 'still here')
  t.equal((await take(active, 10)).toString(), 'still here')
  other.end(MUCH)
  t.equal(sha(await all(active)), sha(MUCH))
  t.same(await ends.ended, { who, how: 'fin', error: '' })
}

async function finBehind(t: Test, stand: Stand, who: Who): Promise<void> {
  const ends = await spliced(t, stand)
  const { active, other } = roles(who, ends)
  active.end(MUCH)
  t.equal(sha(await all(other)), sha(MUCH))
  other.end()
  t.equal((await all(active)).length, 0)
  t.same(await ends.ended, { who, how: 'fin', error: '' })
}

async function finBefore(t: Test, stand: Stand, who: Who): Promise<void> {
  const both = await sides(t, stand)
  both[who].far.end()
  await once(both[who].far, 'finish')
  const ends = splice(t, stand, both)
  const { active, other } = roles(who, ends)
  t.equal((await all(other)).length, 0)
  other.end(MUCH)
  t.equal(sha(await all(active)), sha(MUCH))
  t.same(await ends.ended, { who, how: 'fin', error: '' })
}

async function finOfBoth(t: Test, stand: Stand): Promise<void> {
  const { client, origin, ended } = await spliced(t, stand)
  client.end('from the client')
  origin.end('from the origin')
  t.equal((await all(client)).toString(), 'from the origin')
  t.equal((await all(origin)).toString(), 'from the client')
  const { how, error } = await ended
  t.same({ how, error }, { how: 'fin', error: '' })
}

async function finOfBothBefore(t: Test, stand: Stand): Promise<void> {
  const both = await sides(t, stand)
  both.client.far.end('from the client')
  both.origin.far.end('from the origin')
  await Promise.all([once(both.client.far, 'finish'), once(both.origin.far, 'finish')])
  const { client, origin, ended } = splice(t, stand, both)
  t.equal((await all(client)).toString(), 'from the origin')
  t.equal((await all(origin)).toString(), 'from the client')
  t.equal((await ended).how, 'fin')
}

async function resetIdle(t: Test, stand: Stand, who: Who): Promise<void> {
  const ends = await spliced(t, stand)
  const { active, other } = roles(who, ends)
  active.write('x')
  await take(other, 1)
  const error = errorOf(other)
  active.resetAndDestroy()
  t.equal(await error, 'ECONNRESET')
  t.same(await ends.ended, { who, how: 'reset', error: 'ECONNRESET' })
}

async function resetInTraffic(t: Test, stand: Stand, who: Who): Promise<void> {
  const ends = await spliced(t, stand)
  const { active, other } = roles(who, ends)
  for (const socket of [active, other]) {
    const more = () => socket.write(MUCH)
    socket.on('drain', more)
    socket.resume()
    more()
  }
  await Promise.all([once(active, 'data'), once(other, 'data')])
  active.resetAndDestroy()
  t.match(await errorOfWriter(other), RESET)
  const end = await ends.ended
  t.equal(end.who, who)
  t.equal(end.how, 'reset')
  t.match(end.error, RESET)
}

async function resetAfterFin(t: Test, stand: Stand, who: Who): Promise<void> {
  const ends = await spliced(t, stand)
  const { active, other } = roles(who, ends)
  active.end('x')
  await all(other)
  active.resetAndDestroy()
  t.match(await errorOfWriter(other), RESET)
  const end = await ends.ended
  t.equal(end.who, who)
  t.equal(end.how, 'reset')
  t.match(end.error, RESET)
}

async function resetAfterOtherFin(t: Test, stand: Stand, who: Who): Promise<void> {
  const ends = await spliced(t, stand)
  const { active, other } = roles(who, ends)
  other.end('x')
  await all(active)
  active.resetAndDestroy()
  t.match(await errorOf(other), RESET)
  const end = await ends.ended
  t.equal(end.who, who)
  t.equal(end.how, 'reset')
  t.match(end.error, RESET)
}

/** Sends until nothing more is taken; another tunnel through the same engine tells when nothing moves. */
async function stall(t: Test, stand: Stand, sender: Socket): Promise<void> {
  const elsewhere = await spliced(t, stand)
  await sendUntilStalled(sender, MUCH.subarray(0, MIB), LIMIT, async () => {
    elsewhere.client.write(MUCH)
    await take(elsewhere.origin, MUCH.length)
  })
}

async function resetOfStalled(t: Test, stand: Stand, who: Who): Promise<void> {
  const ends = await spliced(t, stand)
  const { active, other } = roles(who, ends)
  await stall(t, stand, other)
  active.resetAndDestroy()
  t.match(await errorOfWriter(other), RESET)
  const end = await ends.ended
  t.equal(end.who, who)
  t.equal(end.how, 'reset')
  t.match(end.error, RESET)
}

async function resetOfSender(t: Test, stand: Stand, who: Who): Promise<void> {
  const ends = await spliced(t, stand)
  const { active, other } = roles(who, ends)
  await stall(t, stand, active)
  active.resetAndDestroy()
  // It is over although nobody reads. Only `stream` does not look at a side that it has paused until the other one reads.
  if (ends.splicing.engine === 'stream') other.resume()
  const end = await ends.ended
  t.equal(end.who, who)
  t.equal(end.how, 'reset')
  t.match(end.error, RESET)
  t.match(await errorOfWriter(other), RESET)
}

/** A side as the system rarely makes one: it fails with `code`. */
class Failing implements Transport {
  readonly code: string
  isClosed = false
  readonly isDetachable = false

  constructor(code: string) {
    this.code = code
  }

  attach(reader: Reader): void {
    const error = Object.assign(new Error(this.code), { code: this.code })
    setImmediate(() => {
      this.isClosed = true
      reader.closed(error)
    })
  }

  write(): boolean {
    return true
  }

  pause(): void {}
  resume(): void {}
  end(): void {}
  reset(): void {}
  destroy(): void {}

  release(): never {
    throw new Error('nobody asks for it')
  }

  detach(): null {
    return null
  }
}

async function otherErrors(t: Test, stand: Stand, who: Who): Promise<void> {
  for (const [error, how] of [
    ['EHOSTUNREACH', 'error'],
    ['ETIMEDOUT', 'timeout'],
  ] as const) {
    const both = await sides(t, stand)
    both[who].near.destroy()
    const side = { ...both[who], near: new Failing(error) }
    const ends = splice(t, stand, { ...both, [who]: side }, NOTHING)
    t.equal(await errorOf(roles(who, ends).other), 'ECONNRESET')
    t.same(await ends.ended, { who, how, error })
  }
}

const STOPPED = { who: 'operator', how: 'fin', error: '' }
const CUT = { who: 'operator', how: 'reset', error: '' }

async function stopIdle(t: Test, stand: Stand, isAtOnce: boolean): Promise<void> {
  const { client, origin, splicing, ended } = await spliced(t, stand)
  client.write('up')
  await take(origin, 2)
  splicing.stop(isAtOnce ? 'reset' : 'fin')
  if (isAtOnce) {
    t.same(await Promise.all([errorOf(client), errorOf(origin)]), ['ECONNRESET', 'ECONNRESET'])
    t.same(await ended, CUT)
    return
  }
  await Promise.all([endOf(client), endOf(origin)])
  client.end()
  origin.end()
  t.same(await ended, STOPPED)
  t.same(await Promise.all([errorOf(client), errorOf(origin)]), ['', ''])
}

async function stopInTraffic(t: Test, stand: Stand, isAtOnce: boolean): Promise<void> {
  const { client, origin, splicing, ended } = await spliced(t, stand)
  let isStopped = false
  const received = [client, origin].map((socket) => {
    const more = () => isStopped || socket.write(MUCH)
    socket.on('drain', more)
    more()
    return socket
  })
  await Promise.all(received.map((socket) => once(socket, 'data')))
  splicing.stop(isAtOnce ? 'reset' : 'fin')
  isStopped = true
  if (isAtOnce) {
    for (const error of await Promise.all([errorOfWriter(client), errorOfWriter(origin)]))
      t.match(error, RESET)
    t.same(await ended, CUT)
    return
  }
  await Promise.all([endOf(client), endOf(origin)])
  // What they had still to say is nobody's any more: whoever writes on is closed in the end.
  client.end()
  origin.end()
  t.same(await ended, STOPPED)
}

async function stopAtBirth(t: Test, stand: Stand, isAtOnce: boolean): Promise<void> {
  const early = { fromClient: [Buffer.from('early')], fromOrigin: [MUCH] }
  const { client, origin, splicing, ended } = await spliced(t, stand, early)
  splicing.stop(isAtOnce ? 'reset' : 'fin')
  if (isAtOnce) {
    await Promise.all([errorOfWriter(client), errorOfWriter(origin)])
    t.same(await ended, CUT)
    return
  }
  t.equal((await all(origin)).toString(), 'early')
  t.equal(sha(await all(client)), sha(MUCH))
  client.end()
  origin.end()
  t.same(await ended, STOPPED)
}

async function stopAfterFin(t: Test, stand: Stand, who: Who): Promise<void> {
  const inOrder = await spliced(t, stand)
  const ends = roles(who, inOrder)
  ends.active.end('x')
  await all(ends.other)
  inOrder.splicing.stop('fin')
  await endOf(ends.active)
  ends.other.end()
  t.same(await inOrder.ended, STOPPED)
  const atOnce = await spliced(t, stand)
  const others = roles(who, atOnce)
  others.active.end('x')
  await all(others.other)
  atOnce.splicing.stop('reset')
  t.match(await errorOf(others.active), RESET)
  t.match(await errorOfWriter(others.other), RESET)
  t.same(await atOnce.ended, CUT)
}

async function stopInOrderStalled(t: Test, stand: Stand, who: Who): Promise<void> {
  const ends = await spliced(t, stand)
  const { active, other } = roles(who, ends)
  await stall(t, stand, other)
  const taken = who === 'client' ? ends.splicing.originToClient : ends.splicing.clientToOrigin
  ends.splicing.stop('fin')
  // All that was taken is still sent, and FIN comes behind it.
  const bytes = await all(active)
  t.ok(bytes.length >= taken, `${bytes.length} bytes came, ${taken} had been taken`)
  active.end()
  other.destroy()
  t.same(await ends.ended, STOPPED)
}

async function stopWithRest(t: Test, stand: Stand): Promise<void> {
  const ends = splice(t, stand, await sides(t, stand, SMALL_BUFFER))
  const elsewhere = await spliced(t, stand)
  // One piece more than is taken: it stays with the system, and FIN behind it.
  let sent = 0
  while (ends.splicing.originToClient === sent) {
    await written(ends.origin, PIECE)
    sent += PIECE.length
    elsewhere.client.write('through')
    await take(elsewhere.origin, 7)
  }
  ends.origin.end()
  await once(ends.origin, 'finish')
  ends.splicing.stop('fin')
  await endOf(ends.client)
  ends.client.end()
  t.same(await ends.ended, STOPPED)
  t.equal(ends.splicing.originToClient, sent, 'it is read, and sent to nobody')
}

async function stopAtOnceStalled(t: Test, stand: Stand, who: Who): Promise<void> {
  const ends = await spliced(t, stand)
  const { active, other } = roles(who, ends)
  await stall(t, stand, other)
  ends.splicing.stop('reset')
  t.match(await errorOfWriter(other), RESET)
  t.match(await errorOfWriter(active), RESET)
  t.same(await ends.ended, CUT)
}

async function stopTwice(t: Test, stand: Stand): Promise<void> {
  const { client, origin, splicing, ended } = await spliced(t, stand)
  splicing.stop('fin')
  await Promise.all([endOf(client), endOf(origin)])
  splicing.stop('reset')
  t.match(await errorOfWriter(client), RESET)
  t.match(await errorOfWriter(origin), RESET)
  t.same(await ended, CUT)
}

async function stopAfterEnd(t: Test, stand: Stand): Promise<void> {
  const { client, origin, splicing, ended } = await spliced(t, stand)
  client.end('abc')
  await all(origin)
  origin.end()
  await ended
  // A slot, or a descriptor, may belong to somebody else by now.
  const next = await spliced(t, stand)
  splicing.stop('reset')
  splicing.stop('fin')
  next.client.write('untouched')
  t.equal((await take(next.origin, 9)).toString(), 'untouched')
  t.same([splicing.clientToOrigin, splicing.originToClient], [3, 0])
}

async function stopOfSilent(t: Test, stand: Stand): Promise<void> {
  const { client, origin, splicing, ended } = await spliced(t, stand)
  const stalled = await spliced(t, stand)
  stalled.origin.write(Buffer.alloc(16 * MIB))
  client.write(MUCH)
  await take(origin, MUCH.length)
  for (const each of [splicing, stalled.splicing]) each.stop('fin')
  await Promise.all([endOf(client), endOf(origin)])
  t.same(await ended, STOPPED)
  t.same(await stalled.ended, STOPPED)
  t.match(await errorOfWriter(stalled.origin), RESET, 'whoever still sends is not left waiting')
}
