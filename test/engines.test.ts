// The contract of src/engine/engine.ts, row by row, for each engine that can run here.

import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { connect, createServer, type Server, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import type { EarlyBytes, Engine, SpliceEnd, Splicing } from '../src/engine/engine.ts'
import { streamEngine } from '../src/engine/stream.ts'
import { nodeTransport } from '../src/transport/node.ts'

const engines: readonly Engine[] = [streamEngine]
const NOTHING: EarlyBytes = { fromClient: [], fromOrigin: [] }

interface Spliced {
  /** The far ends: what a real client and a real origin would hold. */
  readonly client: Socket
  readonly origin: Socket
  readonly splicing: Splicing
  readonly ended: Promise<SpliceEnd>
}

/** Two TCP connections over loopback whose near ends are spliced. */
async function spliced(t: Test, engine: Engine, early: EarlyBytes = NOTHING): Promise<Spliced> {
  const [client, nearClient] = await pair(t)
  const [origin, nearOrigin] = await pair(t)
  let tell: (end: SpliceEnd) => void = () => {}
  const ended = new Promise<SpliceEnd>((resolve) => {
    tell = resolve
  })
  let count = 0
  const owner = {
    spliceEnded(end: SpliceEnd) {
      count += 1
      t.equal(count, 1, 'the owner is told once')
      tell(end)
    },
  }
  const splicing = engine.splice(nodeTransport(nearClient), nodeTransport(nearOrigin), early, owner)
  return { client, origin, splicing, ended }
}

async function pair(t: Test): Promise<[far: Socket, near: Socket]> {
  const server: Server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const far = connect({ port, host: '127.0.0.1', allowHalfOpen: true, noDelay: true })
  far.on('error', () => {})
  const [near] = (await once(server, 'connection')) as [Socket]
  server.close()
  t.teardown(() => {
    far.destroy()
    near.destroy()
  })
  return [far, near]
}

/** All that comes until FIN. */
async function all(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

function sha(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

async function errorOf(socket: Socket): Promise<string | undefined> {
  socket.resume()
  const [error] = (await once(socket, 'error')) as [NodeJS.ErrnoException]
  return error.code
}

/** A node socket that has seen FIN notices a RST only when it writes. */
async function writeUntilError(socket: Socket): Promise<string> {
  for (;;) {
    const error = await new Promise<Error | null | undefined>((resolve) => socket.write('x', resolve))
    if (error) return (error as NodeJS.ErrnoException).code ?? ''
    // Writes that succeed at once would keep the event loop from everything else.
    await new Promise(setImmediate)
  }
}

for (const engine of engines) {
  t.test(`engine ${engine.name}`, async (t) => {
    t.test('bytes go both ways at once, in order, and are counted', async (t) => {
      const { client, origin, splicing, ended } = await spliced(t, engine)
      const up = randomBytes(8_000_000)
      const down = randomBytes(5_000_000)
      client.end(up)
      origin.end(down)
      const [atOrigin, atClient] = await Promise.all([all(origin), all(client)])
      t.equal(sha(atOrigin), sha(up))
      t.equal(sha(atClient), sha(down))
      const end = await ended
      t.equal(end.how, 'fin')
      t.equal(end.error, '')
      t.equal(splicing.clientToOrigin, up.length)
      t.equal(splicing.originToClient, down.length)
    })

    t.test('early bytes of both sides are delivered first, and counted', async (t) => {
      const early = { fromClient: [Buffer.from('a'), Buffer.from('bc')], fromOrigin: [Buffer.from('xyz')] }
      const { client, origin, splicing, ended } = await spliced(t, engine, early)
      client.end('d')
      origin.end('!')
      t.equal((await all(origin)).toString(), 'abcd')
      t.equal((await all(client)).toString(), 'xyz!')
      await ended
      t.equal(splicing.clientToOrigin, 4)
      t.equal(splicing.originToClient, 4)
    })

    for (const first of ['client', 'origin'] as const) {
      const second = first === 'client' ? 'origin' : 'client'

      t.test(`a FIN of the ${first} reaches the other, which can still send and ends it`, async (t) => {
        const ends = await spliced(t, engine)
        ends[first].end('last words')
        t.equal((await all(ends[second])).toString(), 'last words')
        const answer = randomBytes(300_000)
        ends[second].end(answer)
        t.equal(sha(await all(ends[first])), sha(answer))
        t.same(await ends.ended, { who: first, how: 'fin', error: '' })
      })

      t.test(`a RST of the ${first} is a RST at the other`, async (t) => {
        const ends = await spliced(t, engine)
        ends[first].write('x')
        await once(ends[second], 'data')
        const error = errorOf(ends[second])
        ends[first].resetAndDestroy()
        t.equal(await error, 'ECONNRESET')
        t.same(await ends.ended, { who: first, how: 'reset', error: 'ECONNRESET' })
      })

      t.test(`a RST of the ${first} after its FIN is a RST at the other`, async (t) => {
        const ends = await spliced(t, engine)
        ends[first].end('x')
        await all(ends[second])
        ends[first].resetAndDestroy()
        t.match(await writeUntilError(ends[second]), /ECONNRESET|EPIPE/)
        const end = await ends.ended
        t.equal(end.who, first)
        t.equal(end.how, 'reset')
      })
    }

    t.test('a reader that stops makes the other side stop, and loses nothing', async (t) => {
      const { client, origin, ended } = await spliced(t, engine)
      const block = randomBytes(1024 * 1024)
      const sent = createHash('sha256')
      let count = 0
      client.pause()
      // Write until nothing has been taken for as long as it takes another tunnel to pass 4 MiB.
      while (count < 256) {
        sent.update(block)
        count += 1
        if (!origin.write(block)) {
          const other = await spliced(t, engine)
          other.origin.end(Buffer.alloc(4 * 1024 * 1024))
          await all(other.client)
          other.client.end()
          await other.ended
          if (origin.writableNeedDrain) break
        }
      }
      t.ok(count < 256, `the sender was stopped after ${count} MiB`)
      origin.end()
      t.equal(sha(await all(client)), sent.digest('hex'))
      client.end()
      await ended
    })

    t.test('stop in order sends FIN to both after what was on the way', async (t) => {
      const { client, origin, splicing, ended } = await spliced(t, engine)
      client.write('up')
      t.equal(String((await once(origin, 'data'))[0]), 'up')
      origin.pause()
      splicing.stop('fin')
      const [atClient, atOrigin] = await Promise.all([all(client), all(origin)])
      t.equal(atClient.length + atOrigin.length, 0)
      client.end()
      origin.end()
      t.same(await ended, { who: 'operator', how: 'fin', error: '' })
    })

    t.test('stop at once resets both', async (t) => {
      const { client, origin, splicing, ended } = await spliced(t, engine)
      const errors = Promise.all([errorOf(client), errorOf(origin)])
      splicing.stop('reset')
      t.same(await errors, ['ECONNRESET', 'ECONNRESET'])
      t.same(await ended, { who: 'operator', how: 'reset', error: '' })
    })

    t.test('a side that was gone before the splice ends it, and not inside the call', async (t) => {
      const [client, nearClient] = await pair(t)
      const [origin, nearOrigin] = await pair(t)
      const transport = nodeTransport(nearClient)
      await new Promise<void>((closed) => {
        transport.attach({ data() {}, end() {}, drain() {}, closed: () => closed() })
        client.resetAndDestroy()
      })
      const atOrigin = errorOf(origin)
      let isInside = true
      const end = await new Promise<SpliceEnd>((resolve) => {
        const owner = {
          spliceEnded(end: SpliceEnd) {
            t.notOk(isInside)
            resolve(end)
          },
        }
        engine.splice(transport, nodeTransport(nearOrigin), NOTHING, owner)
        isInside = false
      })
      t.equal(end.who, 'client')
      t.equal(end.how, 'reset')
      t.equal(await atOrigin, 'ECONNRESET')
    })
  })
}
