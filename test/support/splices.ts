// The engines that can run here, and pairs of TCP connections over loopback whose near ends they splice. Tests hold the far
// ends, which a real client and a real origin would hold; the near ends belong to the engine.

import { createHash } from 'node:crypto'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { connect, createServer } from 'node:net'
import type { Test } from 'tap'
import { chooseEngine } from '../../src/engine/choose.ts'
import type { EarlyBytes, Engine, EngineName, SpliceEnd, Splicing } from '../../src/engine/engine.ts'
import { libc, SO_SNDBUF, SOL_SOCKET } from '../../src/linux/libc.ts'
import { loop } from '../../src/linux/loop.ts'
import { descriptorTransport } from '../../src/transport/descriptor.ts'
import { nodeTransport } from '../../src/transport/node.ts'
import type { Transport } from '../../src/transport/transport.ts'

const ENGINES: readonly EngineName[] = ['stream', 'epoll', 'sockmap']

/** What an engine is given: transports on node sockets, or on bare descriptors. */
export type Near = 'node' | 'descriptor'

export interface Stand {
  readonly engine: Engine
  readonly near: Near
}

export type Who = 'client' | 'origin'

export const NOTHING: EarlyBytes = { fromClient: [], fromOrigin: [] }

export const MIB = 1024 * 1024

/**
 * A test for each engine. One that can't run here is skipped with its reason, but not if HEADRACE_ENGINES asks for it (its
 * names with commas; then the others are left out), and in CI only sockmap, which needs privileges.
 */
export function eachEngine(t: Test, run: (t: Test, engine: Engine) => Promise<void>): void {
  const asked = process.env.HEADRACE_ENGINES
  const isInCi = process.env.CI !== undefined && process.platform === 'linux'
  const names = asked === undefined ? ENGINES : asked.split(',')
  for (const name of names as readonly EngineName[]) {
    const engine = engineOrReason(name)
    if (typeof engine !== 'string') t.test(`engine ${name}`, (t) => run(t, engine))
    else if (asked !== undefined || (isInCi && name !== 'sockmap'))
      t.fail(`engine ${name} must run here: ${engine}`)
    else t.test(`engine ${name}`, { skip: `engine ${name} can't run here: ${engine}` }, async () => {})
  }
}

/** A test for each engine and each kind of near end. */
export function eachStand(t: Test, run: (t: Test, stand: Stand) => Promise<void>): void {
  eachEngine(t, async (t, engine) => {
    await t.test('on node sockets', (t) => run(t, { engine, near: 'node' }))
    const reason = reasonAgainstDescriptors()
    if (reason === null) await t.test('on descriptors', (t) => run(t, { engine, near: 'descriptor' }))
    else await t.test('on descriptors', { skip: reason }, async () => {})
  })
}

function engineOrReason(name: EngineName): Engine | string {
  try {
    return chooseEngine(name).engine
  } catch (error) {
    return (error as Error).message
  }
}

function reasonAgainstDescriptors(): string | null {
  try {
    libc()
    return null
  } catch (error) {
    return (error as Error).message
  }
}

/** One connection: its far end, and what the engine will be given. */
export interface Side {
  readonly far: Socket
  readonly near: Transport
  /** The node socket below `near`; null if there is none. Nobody touches it once it is spliced. */
  readonly socket: Socket | null
}

export interface Sides {
  readonly client: Side
  readonly origin: Side
}

export interface Spliced {
  readonly client: Socket
  readonly origin: Socket
  readonly splicing: Splicing
  readonly ended: Promise<SpliceEnd>
}

/** `sendBuffer`: of the near ends, in bytes; the system's own if it isn't given. */
export async function sides(t: Test, { near }: Stand, sendBuffer = 0): Promise<Sides> {
  return { client: await side(t, near, sendBuffer), origin: await side(t, near, sendBuffer) }
}

async function side(t: Test, near: Near, sendBuffer: number): Promise<Side> {
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const far = connect({ port, host: '127.0.0.1', allowHalfOpen: true, noDelay: true })
  far.on('error', () => {})
  t.teardown(() => far.destroy())
  const [[socket]] = (await Promise.all([once(server, 'connection'), once(far, 'connect')])) as [
    [Socket],
    unknown,
  ]
  server.close()
  if (sendBuffer > 0) {
    const { fd } = (socket as unknown as { _handle: { fd: number } })._handle
    libc().setsockopt(fd, SOL_SOCKET, SO_SNDBUF, new Int32Array([sendBuffer]), 4)
  }
  const transport = nodeTransport(socket)
  if (near === 'node') return { far, near: transport, socket }
  const detached = transport.detach()
  if (detached === null) throw new Error('the process has no descriptors left')
  return { far, near: descriptorTransport(loop(), detached.descriptor), socket: null }
}

/** Its owner must be told once, and never inside the call. */
export function splice(t: Test, { engine }: Stand, { client, origin }: Sides, early = NOTHING): Spliced {
  let tell: (end: SpliceEnd) => void = () => {}
  const ended = new Promise<SpliceEnd>((resolve) => {
    tell = resolve
  })
  let isInside = true
  let count = 0
  const owner = {
    spliceEnded(end: SpliceEnd) {
      count += 1
      if (isInside) t.fail('the owner was told inside its own call of splice')
      if (count > 1) t.fail(`the owner was told ${count} times`)
      tell(end)
    },
  }
  const splicing = engine.splice(client.near, origin.near, early, owner)
  isInside = false
  return { client: client.far, origin: origin.far, splicing, ended }
}

export async function spliced(t: Test, stand: Stand, early = NOTHING): Promise<Spliced> {
  return splice(t, stand, await sides(t, stand), early)
}

// Far ends: what arrives there, and how it ends.

/** All that comes until FIN. */
export async function all(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

/** The checksum of all that comes until FIN, which is not kept. */
export async function sumOf(socket: Socket): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) hash.update(chunk as Buffer)
  return hash.digest('hex')
}

export function sha(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

/** The next `size` bytes. What comes behind them stays unread. */
export async function take(socket: Socket, size: number): Promise<Buffer> {
  const chunks: Buffer[] = []
  let count = 0
  await new Promise<void>((resolve, reject) => {
    const stop = () => {
      socket.pause()
      socket.off('data', take)
      socket.off('end', fail)
      socket.off('close', fail)
    }
    const take = (chunk: Buffer) => {
      chunks.push(chunk)
      count += chunk.length
      if (count < size) return
      stop()
      resolve()
    }
    const fail = () => {
      stop()
      reject(new Error(`the connection ended after ${count} of ${size} bytes`))
    }
    socket.on('data', take)
    socket.on('end', fail)
    socket.on('close', fail)
    socket.resume()
  })
  const bytes = Buffer.concat(chunks)
  if (count > size) socket.unshift(bytes.subarray(size))
  return bytes.subarray(0, size)
}

/** Reads whatever still comes; resolves with the name of the error that closed the connection, or ''. */
export async function errorOf(socket: Socket): Promise<string> {
  socket.resume()
  if (!socket.closed) await new Promise((resolve) => socket.once('close', resolve))
  return (socket.errored as NodeJS.ErrnoException | null)?.code ?? ''
}

/**
 * The same where a RST may stand right behind bytes or a FIN: up to Node 22 a node socket may take it for FIN, or notices
 * it only when it writes.
 */
export async function errorOfWriter(socket: Socket): Promise<string> {
  const closed = errorOf(socket)
  if (!socket.readableEnded && !socket.closed) {
    await Promise.race([closed, new Promise((resolve) => socket.once('end', resolve))])
  }
  while (!socket.destroyed) {
    await new Promise((resolve) => socket.write('x', resolve))
    // Writes that succeed at once would keep the event loop from everything else.
    await new Promise(setImmediate)
  }
  return closed
}

/** Resolves when FIN has come, which whoever waits must have read up to. */
export async function endOf(socket: Socket): Promise<void> {
  socket.resume()
  if (!socket.readableEnded) await once(socket, 'end')
}

// Far ends: what they send.

/** Pseudo-random numbers that a seed repeats (mulberry32). */
export function generator(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below
  }
}

/** Sends `total` bytes in pieces of mixed sizes at the pace of the socket, and FIN; resolves with their checksum. */
export async function sendMixed(socket: Socket, total: number, pool: Buffer, seed: number): Promise<string> {
  const random = generator(seed)
  const hash = createHash('sha256')
  let left = total
  while (left > 0) {
    const at = random(pool.length / 2)
    const wanted = random(3) === 0 ? 1 + random(100) : 1 + random(pool.length / 2)
    const bytes = pool.subarray(at, at + Math.min(left, wanted))
    left -= bytes.length
    hash.update(bytes)
    if (!socket.write(bytes)) await once(socket, 'drain')
  }
  socket.end()
  return hash.digest('hex')
}

/**
 * Sends one block after the other until nothing more is taken, even while something else went through the same engine
 * (`elsewhere`). Resolves with how many blocks were given to the socket.
 */
export async function sendUntilStalled(
  socket: Socket,
  block: Buffer,
  limit: number,
  elsewhere: () => Promise<unknown>,
): Promise<number> {
  for (let count = 1; count <= limit; count += 1) {
    if (socket.write(block)) continue
    await elsewhere()
    if (socket.writableNeedDrain) return count
  }
  throw new Error(`the sender was never stopped: ${limit * block.length} bytes were taken`)
}

export async function written(socket: Socket, bytes: Uint8Array | string): Promise<void> {
  await new Promise((resolve) => socket.write(bytes, resolve))
}
