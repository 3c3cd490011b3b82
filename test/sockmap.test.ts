// The kernel's half of the engine sockmap, on real connections over loopback: the far ends are node's sockets, the near
// ones bare descriptors, and a few lines here do what the engine's relay does.

import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { closeSync, openSync, readdirSync, readFileSync } from 'node:fs'
import { connect, createServer, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { createBpf } from '../src/engine/linux/bpf.ts'
import { closeSockmap, openSockmap } from '../src/engine/linux/maps.ts'
import { probeSockmap } from '../src/engine/linux/probe.ts'
import { createSockets } from '../src/engine/linux/sockets.ts'
import { BOUND, JOINED, type Sockmap, useSockmap } from '../src/engine/linux/sockmap.ts'
import * as linux from '../src/linux/libc.ts'
import { sockaddrOf } from '../src/linux/sockaddr.ts'

const MIB = 1024 * 1024
/** <bits/socket_type.h>, and a flag of TCP. */
const SOCK_RAW = 3
const ACK = 0x10
const SLOTS = 64
/** What the sockets of one direction can hold in loopback besides: four buffers, as large as the system lets them grow. */
const BUFFERS = largestBuffers()
const ENDS = linux.EPOLLRDHUP | linux.EPOLLET

const reason = process.platform === 'linux' ? probeSockmap() : 'it needs Linux'
const options = reason === null ? {} : { skip: `the engine sockmap can't run here: ${reason}` }

/** A WARN of the kernel leaves a mark (Documentation/admin-guide/tainted-kernels.rst). */
const tainted = reason === null ? readFileSync('/proc/sys/kernel/tainted', 'latin1') : ''

interface Tunnel {
  readonly client: Socket
  readonly origin: Socket
  readonly near: readonly [client: number, origin: number]
  readonly slot: number
  /** The sides' numbers. */
  readonly sides: readonly [client: number, origin: number]
}

interface Bench {
  readonly calls: linux.Libc
  readonly map: Sockmap
  /** How often a side was told to be looked at. */
  looks: number
  /** If not, nobody listens to the kernel. */
  isAttentive: boolean
  attend(): void
  tunnel(change?: (near: readonly [number, number]) => void): Promise<Tunnel>
  join(tunnel: Tunnel): number
  close(tunnel: Tunnel): void
  /** How many elements are in the maps of sockets and of sides. */
  counts(): number[]
  /** What has happened to descriptors that are watched for ends. */
  events(): [fd: number, mask: number][]
}

function bench(t: Test): Bench {
  const calls = linux.libc()
  const handle = openSockmap(SLOTS)
  const map = useSockmap(handle)
  const bpf = createBpf(calls)
  const epoll = calls.epoll_create1(0)
  const event = new Int32Array(linux.EVENT_WORDS)
  const open = new Set<Tunnel>()
  const free = Array.from({ length: SLOTS }, (_, index) => index)

  const self: Bench = {
    calls,
    map,
    looks: 0,
    isAttentive: true,
    attend() {
      map.events((side) => {
        self.looks += 1
        map.attend(side)
      })
    },
    async tunnel(change) {
      const [client, nearClient] = await connection(calls)
      const [origin, nearOrigin] = await connection(calls)
      const near = [nearClient, nearOrigin] as const
      change?.(near)
      for (const fd of near) {
        event[0] = ENDS
        event[linux.EVENT_DATA] = fd
        calls.epoll_ctl(epoll, linux.EPOLL_CTL_ADD, fd, event)
      }
      const slot = free.pop() as number
      const tunnel: Tunnel = { client, origin, near, slot, sides: [slot * 2, slot * 2 + 1] }
      open.add(tunnel)
      return tunnel
    },
    join: ({ slot, near }) => map.join(slot, ...near),
    close(tunnel) {
      open.delete(tunnel)
      for (const fd of tunnel.near) calls.close(fd)
      map.leave(tunnel.slot)
      free.push(tunnel.slot)
    },
    counts: () => [handle.peers, handle.verdicts, handle.sides].map((each) => bpf.count(each, 8)),
    events() {
      const all: [number, number][] = []
      while (calls.epoll_wait(epoll, event, 1, 0) === 1) {
        all.push([event[linux.EVENT_DATA] as number, event[0] as number])
      }
      return all
    },
  }
  const timer = setInterval(() => self.isAttentive && self.attend())
  t.teardown(() => {
    clearInterval(timer)
    for (const tunnel of [...open]) {
      tunnel.client.destroy()
      tunnel.origin.destroy()
      self.close(tunnel)
    }
    if (self.counts().some((count) => count > 0)) throw new Error(`left in the maps: ${self.counts()}`)
    calls.close(epoll)
    map.close()
    closeSockmap(handle)
  })
  return self
}

async function connection(calls: linux.Libc): Promise<[far: Socket, near: number]> {
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const far = connect({ port, host: '127.0.0.1', allowHalfOpen: true, noDelay: true })
  far.on('error', () => {})
  const [near] = (await once(server, 'connection')) as [Socket & { _handle: { fd: number } }]
  const fd = calls.fcntl(near._handle.fd, linux.F_DUPFD_CLOEXEC, 0)
  near.destroy()
  server.close()
  if (far.connecting) await once(far, 'connect')
  far.pause()
  return [far, fd]
}

/** Relays a direction that was taken back until `isOver`. */
async function relay({ calls, map }: Bench, { near, sides }: Tunnel, of: 0 | 1, isOver: () => boolean) {
  const side = sides[of]
  const source = near[of]
  const sink = near[of ^ 1] as number
  while (!map.drained(side)) await sleep(1)
  map.settle(side)
  const scratch = Buffer.alloc(64 * 1024)
  while (!isOver()) {
    const size = calls.recv(source, scratch, scratch.length, linux.MSG_DONTWAIT)
    if (size <= 0) {
      await sleep(1)
      continue
    }
    if (map.attend(side) === 'passed') map.took(side, size)
    await sendAll(calls, sink, scratch.subarray(0, size))
  }
}

async function sendAll(calls: linux.Libc, fd: number, bytes: Buffer): Promise<void> {
  for (let place = 0; place < bytes.length; ) {
    const flags = linux.MSG_DONTWAIT | linux.MSG_NOSIGNAL
    const size = calls.send(fd, bytes.subarray(place), bytes.length - place, flags)
    if (size === -1) await sleep(1)
    else place += size
  }
}

/** Reads on; `hash` is of all that came. */
function reader(socket: Socket) {
  const hash = createHash('sha1')
  const self = { bytes: 0, hasEnded: false, hash: () => hash.copy().digest('hex') }
  socket.on('data', (chunk) => {
    self.bytes += chunk.length
    hash.update(chunk)
  })
  socket.on('end', () => {
    self.hasEnded = true
  })
  socket.resume()
  return self
}

/** Writes until the system takes no more for a while: the bytes it took. What it didn't take stays with the socket. */
async function flood(socket: Socket, size: number, hash = createHash('sha1')): Promise<number> {
  let written = 0
  while (written < size) {
    const chunk = randomBytes(256 * 1024)
    hash.update(chunk)
    written += chunk.length
    const isFull = !socket.write(chunk)
    // In small steps, so that whoever attends can do so in time.
    if (isFull && (await Promise.race([once(socket, 'drain'), sleep(300, 'stopped')])) === 'stopped') break
    await sleep(1)
  }
  return written - socket.writableLength
}

async function until(condition: () => boolean): Promise<void> {
  for (let round = 0; round < 5_000 && !condition(); round += 1) await sleep(1)
}

async function firstEvents({ events }: Bench): Promise<[fd: number, mask: number][]> {
  let seen = events()
  for (let round = 0; round < 5_000 && seen.length === 0; round += 1) {
    await sleep(1)
    seen = events()
  }
  return seen
}

/** What a sender does that has not heard of `old` bytes and puts new ones behind them: a packet of its connection, by a raw socket. */
function sendAgain(calls: linux.Libc, far: Socket, near: number, payload: Buffer, old: number): void {
  const sockets = createSockets(calls)
  const header = Buffer.alloc(20)
  header.writeUInt16BE(far.localPort as number, 0)
  header.writeUInt16BE(far.remotePort as number, 2)
  const next = (fd: number) => (sockets.firstNumber(fd) + sockets.received(fd)) % 2 ** 32
  header.writeUInt32BE((next(near) - old) >>> 0, 4)
  header.writeUInt32BE(next(fdOf(far)), 8)
  header.writeUInt16BE((5 << 12) | ACK, 12)
  header.writeUInt16BE(512, 14)
  sockets.close()
  const segment = Buffer.concat([header, payload])
  const pseudo = Buffer.from([127, 0, 0, 1, 127, 0, 0, 1, 0, linux.IPPROTO_TCP, 0, 0])
  pseudo.writeUInt16BE(segment.length, 10)
  segment.writeUInt16BE(checksum(Buffer.concat([pseudo, segment])), 16)
  const raw = calls.socket(linux.AF_INET, SOCK_RAW, linux.IPPROTO_TCP)
  const address = sockaddrOf(calls, { address: '127.0.0.1', port: 0 })
  calls.connect(raw, address, address.length)
  if (calls.send(raw, segment, segment.length, 0) !== segment.length) throw new Error('nothing was sent')
  calls.close(raw)
}

/** RFC 1071. */
function checksum(bytes: Buffer): number {
  let sum = 0
  for (const [at, byte] of bytes.entries()) sum += at % 2 === 0 ? byte << 8 : byte
  while (sum > 0xffff) sum = (sum >>> 16) + (sum & 0xffff)
  return ~sum & 0xffff
}

function fdOf(socket: Socket): number {
  return (socket as unknown as { _handle: { fd: number } })._handle.fd
}

/** The kernel's number for a map. */
function idOf(map: number): number {
  return Number(/map_id:\s*(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${map}`, 'latin1'))?.[1])
}

/** Whether the kernel has it still (BPF_MAP_GET_FD_BY_ID). */
function isMap(calls: linux.Libc, id: number): boolean {
  const attributes = Buffer.alloc(16)
  attributes.writeUInt32LE(id, 0)
  const fd = calls.syscall(linux.SYS_BPF, 14, attributes, attributes.length)
  if (fd !== -1) calls.close(fd)
  return fd !== -1
}

function largestBuffers(): number {
  const most = (name: string) => Number(readFileSync(`/proc/sys/net/ipv4/${name}`, 'latin1').split('\t')[2])
  return process.platform === 'linux' ? 2 * (most('tcp_rmem') + most('tcp_wmem')) : 0
}

t.test('what each side sends is redirected, and wakes nobody', options, async (t) => {
  const relayed = bench(t)
  const tunnel = await relayed.tunnel()
  const { client, origin, sides, near } = tunnel
  t.equal(relayed.join(tunnel), JOINED | 3)
  const atOrigin = reader(origin)
  const atClient = reader(client)
  const bytes = randomBytes(300_000)
  client.write(bytes)
  for (let count = 0; count < 50; count += 1) {
    origin.write('message')
    await sleep(1)
  }
  await until(() => atOrigin.bytes === 300_000 && atClient.bytes === 350)
  t.equal(atOrigin.hash(), createHash('sha1').update(bytes).digest('hex'))
  t.equal(atClient.bytes, 350)
  t.same(sides.map(relayed.map.bytes), [300_000, 350])
  t.same(sides.map(relayed.map.drained), [true, true])
  t.same(relayed.events(), [], 'no event of any kind')
  t.equal(
    relayed.calls.recv(near[0], Buffer.alloc(1), 1, linux.MSG_DONTWAIT),
    -1,
    'nothing is left on the socket',
  )
})

t.test('bytes that are there already are for the relay, once', options, async (t) => {
  const relayed = bench(t)
  const tunnel = await relayed.tunnel()
  const { client, origin, sides, near } = tunnel
  client.write('head, early')
  await sleep(20)
  // The rest of a packet that was read in part: the program would get all of it.
  t.equal(relayed.calls.recv(near[0], Buffer.alloc(6), 6, linux.MSG_DONTWAIT), 6)
  t.equal(relayed.join(tunnel), JOINED | 2, 'only the direction that is empty')
  t.notOk(relayed.map.give(sides[0]), 'nor later')
  const atOrigin = reader(origin)
  await relay(relayed, tunnel, 0, () => atOrigin.bytes === 5)
  t.ok(relayed.map.give(sides[0]))
  client.write(' and late')
  await until(() => atOrigin.bytes === 14)
  t.equal(atOrigin.hash(), createHash('sha1').update('early and late').digest('hex'))
  t.equal(relayed.map.bytes(sides[0]), 9)
})

t.test('a busy tunnel joined: what comes in that moment is not lost', options, async (t) => {
  const relayed = bench(t)
  const tunnel = await relayed.tunnel()
  const { client, origin, sides, near } = tunnel
  const fd = fdOf(client)
  const { epoll_ctl } = relayed.calls
  let count = 0
  // A packet after each look for bytes that are there, and before the socket is put into the map.
  relayed.calls.epoll_ctl = (...args) => {
    if (args[1] === linux.EPOLL_CTL_DEL)
      count += relayed.calls.send(fd, Buffer.from('moment'), 6, linux.MSG_DONTWAIT)
    return epoll_ctl(...args)
  }
  const joined = relayed.map.join(tunnel.slot, ...near)
  relayed.calls.epoll_ctl = epoll_ctl
  t.equal(joined, JOINED | 3)
  const atOrigin = reader(origin)
  await until(() => atOrigin.bytes === count)
  t.equal(count, 12)
  t.equal(relayed.map.bytes(sides[0]), 12)
})

t.test(
  '1 GiB, both ways at once, to readers that keep up: the kernel has it all the way',
  options,
  async (t) => {
    const relayed = bench(t)
    const tunnel = await relayed.tunnel()
    const { client, origin, sides } = tunnel
    t.equal(relayed.join(tunnel), JOINED | 3)
    const size = 512 * MIB
    const piece = BOUND / 16
    const pool = randomBytes(4 * MIB)
    const pass = async (
      side: number,
      from: Socket,
      to: Socket,
    ): Promise<[sent: string, received: string]> => {
      const sent = createHash('sha1')
      const received = reader(to)
      for (let place = 0; place < size; place += piece) {
        // Another piece of the pool each time, at places that are no multiple of its size.
        const at = (place * 7 + place / piece) % (pool.length - piece)
        const chunk = pool.subarray(at, at + piece)
        sent.update(chunk)
        from.write(chunk)
        while (received.bytes < place) await new Promise(setImmediate)
        relayed.attend()
        if (relayed.map.attend(side) !== 'kernel') throw new Error(`taken back at ${place}`)
      }
      await until(() => received.bytes === size)
      return [sent.digest('hex'), received.hash()]
    }
    const hashes = await Promise.all([pass(sides[0], client, origin), pass(sides[1], origin, client)])
    for (const [sent, received] of hashes) t.equal(sent, received)
    t.same(sides.map(relayed.map.bytes), [size, size])
    t.same(sides.map(relayed.map.attend), ['kernel', 'kernel'])
    t.ok(relayed.looks >= (2 * size) / BOUND, `the bound was moved ${relayed.looks} times`)
    t.ok(relayed.looks < (2 * size) / (BOUND / 8), 'but not for each message')
  },
)

for (const isAttentive of [true, false]) {
  const who = isAttentive ? 'somebody attends' : 'nobody attends'
  t.test(`a reader that stands still, and ${who}: what is over the bound is passed`, options, async (t) => {
    const relayed = bench(t)
    const tunnel = await relayed.tunnel()
    const { client, origin, sides } = tunnel
    relayed.isAttentive = isAttentive
    t.equal(relayed.join(tunnel), JOINED | 3)
    const [side, other] = sides
    const sent = createHash('sha1')
    const size = BOUND + BUFFERS + 16 * MIB
    const taken = await flood(client, size, sent)
    t.ok(taken < size, `${taken} bytes were taken from the sender`)
    const redirected = relayed.map.bytes(side)
    // What the other end's system has acknowledged does not count, and was little, since nobody reads there.
    t.ok(redirected <= BOUND + 2 * MIB, `${redirected} bytes were redirected`)
    t.equal(relayed.map.attend(side), 'passed')

    const atClient = reader(client)
    origin.write('meanwhile')
    await until(() => atClient.bytes === 9)
    t.equal(relayed.map.bytes(other), 9, 'the other direction is redirected as before')

    const atOrigin = reader(origin)
    const written = () => client.bytesWritten
    await relay(relayed, tunnel, 0, () => client.writableLength === 0 && atOrigin.bytes === written())
    t.equal(atOrigin.hash(), sent.digest('hex'), 'all of it, in order')
    t.ok(relayed.map.isRead(side))
    t.equal(relayed.map.bytes(side), redirected, 'and from then on nothing is redirected')
  })
}

t.test(
  'nobody listens to the kernel: it tells once of the notice and once of the bound',
  options,
  async (t) => {
    const relayed = bench(t)
    const tunnel = await relayed.tunnel()
    relayed.isAttentive = false
    t.equal(relayed.join(tunnel), JOINED | 3)
    await flood(tunnel.client, BOUND + BUFFERS)
    const heard: number[] = []
    relayed.map.events((each) => heard.push(each))
    t.same(heard, [tunnel.sides[0], tunnel.sides[0]])
  },
)

t.test('a direction that is taken back stays so, whatever was told of it before', options, async (t) => {
  const relayed = bench(t)
  const tunnel = await relayed.tunnel()
  const { client, origin, near, sides } = tunnel
  relayed.isAttentive = false
  t.equal(relayed.join(tunnel), JOINED | 3)
  const atOrigin = reader(origin)
  client.write(randomBytes(BOUND / 2))
  await until(() => atOrigin.bytes === BOUND / 2)
  relayed.map.takeBack(sides[0])
  // It is looked at for the notice, which came before.
  relayed.attend()
  t.ok(relayed.looks > 0)
  client.write('behind')
  const { calls } = relayed
  const taken = Buffer.alloc(10)
  let size = -1
  for (let round = 0; round < 5_000 && size === -1; round += 1) {
    await sleep(1)
    size = calls.recv(near[0], taken, taken.length, linux.MSG_DONTWAIT)
  }
  t.equal(taken.toString('latin1', 0, size), 'behind')
  t.equal(relayed.map.bytes(sides[0]), BOUND / 2)
})

t.test('both stand still at once, behind small buffers: nothing is lost', options, async (t) => {
  const relayed = bench(t)
  const tunnel = await relayed.tunnel(narrow(relayed))
  const { client, origin, sides } = tunnel
  t.equal(relayed.join(tunnel), JOINED | 3)
  const sent = [createHash('sha1'), createHash('sha1')] as const
  await flood(origin, BOUND + BUFFERS, sent[1])
  await flood(client, BOUND + BUFFERS * 2, sent[0])
  t.same(sides.map(relayed.map.attend), ['passed', 'passed'])
  const [atOrigin, atClient] = [reader(origin), reader(client)]
  await Promise.all([
    relay(relayed, tunnel, 0, () => client.writableLength === 0 && atOrigin.bytes === client.bytesWritten),
    relay(relayed, tunnel, 1, () => origin.writableLength === 0 && atClient.bytes === origin.bytesWritten),
  ])
  t.same(
    [atOrigin.hash(), atClient.hash()],
    sent.map((each) => each.digest('hex')),
  )
})

t.test(
  'the system has no room for what is redirected: the bound holds, and loss is known',
  options,
  async (t) => {
    const relayed = bench(t)
    relayed.isAttentive = false
    const tunnel = await relayed.tunnel()
    const { client, origin, sides } = tunnel
    t.equal(relayed.join(tunnel), JOINED | 3)
    // As if memory were short (tcp_mem): the psock's queue stands still, and passed bytes behind it.
    narrow(relayed)(tunnel.near)
    await flood(origin, BOUND + BUFFERS)
    await flood(client, BOUND + BUFFERS * 2)
    t.equal(relayed.map.attend(sides[0]), 'lost')
    relayed.map.took(sides[0], 1024 * MIB)
    t.equal(relayed.map.attend(sides[0]), 'lost', 'for good')
    t.equal(relayed.map.attend(sides[1]), 'passed')
  },
)

function narrow({ calls }: Bench) {
  const size = new Int32Array([32 * 1024])
  return (near: readonly [number, number]) => {
    for (const fd of near) calls.setsockopt(fd, linux.SOL_SOCKET, linux.SO_SNDBUF, size, 4)
  }
}

t.test('a FIN goes after all bytes, and the other direction lives on', options, async (t) => {
  const relayed = bench(t)
  const tunnel = await relayed.tunnel()
  const { client, origin, near, sides } = tunnel
  t.equal(relayed.join(tunnel), JOINED | 3)
  const bytes = randomBytes(BOUND / 2)
  client.end(bytes)
  t.same(await firstEvents(relayed), [[near[0], linux.EPOLLRDHUP]])
  t.equal(relayed.map.bytes(sides[0]), bytes.length)
  t.equal(relayed.calls.recv(near[0], Buffer.alloc(1), 1, linux.MSG_DONTWAIT), 0, 'recv sees the FIN')
  relayed.map.takeBack(sides[0])
  t.ok(relayed.map.isRead(sides[0]), 'nothing was passed')
  const atOrigin = reader(origin)
  await until(() => relayed.map.drained(sides[0]))
  relayed.calls.shutdown(near[1], linux.SHUT_WR)
  await until(() => atOrigin.hasEnded)
  t.equal(atOrigin.hash(), createHash('sha1').update(bytes).digest('hex'))

  const atClient = reader(client)
  origin.write('still here')
  await until(() => atClient.bytes === 10)
  t.equal(relayed.map.bytes(sides[1]), 10)
  origin.end('bye')
  await until(() => relayed.map.bytes(sides[1]) === 13 && relayed.map.drained(sides[1]))
  relayed.calls.shutdown(near[0], linux.SHUT_WR)
  await until(() => atClient.hasEnded)
  t.equal(atClient.bytes, 13)
})

t.test('the bound holds for a half-closed side as well', options, async (t) => {
  const relayed = bench(t)
  const tunnel = await relayed.tunnel()
  const { client, origin, near, sides } = tunnel
  t.equal(relayed.join(tunnel), JOINED | 3)
  origin.resume()
  client.end('request')
  await until(() => relayed.map.bytes(sides[0]) === 7 && relayed.map.drained(sides[0]))
  relayed.calls.shutdown(near[1], linux.SHUT_WR)
  await once(origin, 'end')
  const sent = createHash('sha1')
  await flood(origin, BOUND + BUFFERS + 16 * MIB, sent)
  t.equal(relayed.map.attend(sides[1]), 'passed')
  const atClient = reader(client)
  const written = () => origin.bytesWritten
  await relay(relayed, tunnel, 1, () => origin.writableLength === 0 && atClient.bytes === written())
  t.equal(atClient.hash(), sent.digest('hex'))
  origin.end()
  await until(() => relayed.calls.recv(near[1], Buffer.alloc(1), 1, linux.MSG_DONTWAIT) === 0)
  relayed.calls.shutdown(near[0], linux.SHUT_WR)
  await until(() => atClient.hasEnded)
})

t.test('bytes and a FIN in the moment of being taken back', options, async (t) => {
  const relayed = bench(t)
  const tunnel = await relayed.tunnel()
  const { client, origin, near, sides } = tunnel
  t.equal(relayed.join(tunnel), JOINED | 3)
  client.write('redirected ')
  await until(() => relayed.map.drained(sides[0]) && relayed.map.bytes(sides[0]) === 11)
  // Synchronously: what the far end sends is there when send(2) is back.
  const fd = fdOf(client)
  const last = Buffer.from('last words')
  relayed.map.takeBack(sides[0])
  relayed.calls.send(fd, last, last.length, linux.MSG_DONTWAIT)
  relayed.calls.shutdown(fd, linux.SHUT_WR)
  t.ok(relayed.map.drained(sides[0]))
  t.notOk(relayed.map.isRead(sides[0]))
  const bytes = Buffer.alloc(32)
  await until(() => relayed.calls.recv(near[0], bytes, 32, linux.MSG_DONTWAIT) === last.length)
  t.equal(bytes.toString('latin1', 0, last.length), 'last words')
  relayed.map.took(sides[0], last.length)
  t.ok(relayed.map.isRead(sides[0]))
  t.equal(relayed.calls.recv(near[0], bytes, 32, linux.MSG_DONTWAIT), 0)
  const atClient = reader(client)
  origin.write('answer')
  await until(() => atClient.bytes === 6)
  t.equal(atClient.bytes, 6, 'the other direction is as it was')
})

t.test(
  'taken back and released, its maps gone with their process: all that comes is there to be read',
  options,
  async (t) => {
    const relayed = bench(t)
    const { calls } = relayed
    const handle = openSockmap(SLOTS)
    const map = useSockmap(handle)
    const id = idOf(handle.verdicts)
    const tunnel = await relayed.tunnel()
    const { client, near } = tunnel
    const sides = [0, 1] as const
    t.equal(map.join(0, ...near), JOINED | 3)
    const atOrigin = reader(tunnel.origin)
    client.write('redirected ')
    await until(() => atOrigin.bytes === 11)
    for (const side of sides) map.takeBack(side)
    t.same(sides.map(map.drained), [true, true])
    client.write('passed, read, ')
    const bytes = Buffer.alloc(64 * 1024)
    await until(() => calls.recv(near[0], bytes, 14, linux.MSG_DONTWAIT) === 14)
    map.took(0, 14)
    client.write('passed, not read, ')
    await until(() => !map.isRead(0))
    t.same(map.release(0), [25, 0], 'what was redirected, and what was received')
    map.close()
    closeSockmap(handle)
    // As after the process's end: nobody has a descriptor of them.
    client.write('and passed for ever')
    const size = 4 * MIB
    const sent = createHash('sha1').update('passed, not read, and passed for ever')
    const received = createHash('sha1')
    const flooded = flood(client, size, sent)
    let count = 0
    const sockets = createSockets(calls)
    const read = () => {
      const size = calls.recv(near[0], bytes, bytes.length, linux.MSG_DONTWAIT)
      if (size <= 0) return
      count += size
      received.update(bytes.subarray(0, size))
    }
    const whole = 25 + 37 + size
    await until(() => {
      read()
      return 25 + count === whole
    })
    await flooded
    t.equal(received.digest('hex'), sent.digest('hex'), 'all of it, in order')
    t.equal(sockets.received(near[0]), whole)
    client.end()
    await until(() => calls.recv(near[0], bytes, 1, linux.MSG_DONTWAIT) === 0)
    t.equal(sockets.received(near[0]), whole, 'a FIN is no byte')
    sockets.close()
    t.ok(isMap(calls, id), 'the maps live as long as their sockets')
    relayed.close(tunnel)
    await until(() => !isMap(calls, id))
    t.notOk(isMap(calls, id), 'and no longer')
  },
)

for (const old of [1, 4_095, 4_096, 30_000]) {
  t.test(`a packet whose first ${old} bytes have come before, redirected and passed`, options, async (t) => {
    const relayed = bench(t)
    const { calls, map } = relayed
    const head = randomBytes(30_000)
    const fresh = randomBytes(1_000)
    for (const isPassed of [false, true]) {
      const tunnel = await relayed.tunnel()
      const { client, origin, near, sides } = tunnel
      t.equal(relayed.join(tunnel), JOINED | 3)
      const atOrigin = reader(origin)
      const isOver = () => atOrigin.bytes >= head.length + fresh.length
      if (isPassed) map.takeBack(sides[0])
      const relaying = isPassed ? relay(relayed, tunnel, 0, isOver) : null
      client.write(head)
      await until(() => atOrigin.bytes === head.length)
      sendAgain(calls, client, near[0], Buffer.concat([head.subarray(head.length - old), fresh]), old)
      await until(isOver)
      await relaying
      t.equal(atOrigin.bytes, head.length + fresh.length)
      t.equal(atOrigin.hash(), createHash('sha1').update(head).update(fresh).digest('hex'))
      t.equal(map.bytes(sides[0]), isPassed ? 0 : atOrigin.bytes)
    }
  })
}

t.test(
  'no memory for one of its sides: the tunnel is not taken, and nothing of it is left',
  options,
  async (t) => {
    const relayed = bench(t)
    const { calls } = relayed
    const bpf = createBpf(calls)
    const handle = openSockmap(1)
    const map = useSockmap(handle)
    t.teardown(() => {
      map.close()
      closeSockmap(handle)
    })
    const { client, near } = await relayed.tunnel()
    // A map that is full refuses as one without memory does. The numbers are of no socket.
    const others = [2n ** 62n, 2n ** 62n + 1n]
    for (const [at, other] of others.entries()) {
      t.equal(bpf.update(handle.sides, new BigUint64Array([other]), new Int32Array(1)), 0)
      t.equal(map.join(0, ...near), 0)
      const counts = [handle.peers, handle.verdicts, handle.sides].map((each) => bpf.count(each, 8))
      t.same(counts, [0, 0, at + 1])
    }
    client.write('for the relay')
    const bytes = Buffer.alloc(16)
    await until(() => calls.recv(near[0], bytes, 16, linux.MSG_DONTWAIT) === 13)
    t.equal(bytes.toString('latin1', 0, 13), 'for the relay')
    for (const other of others) bpf.remove(handle.sides, new BigUint64Array([other]))
    t.equal(map.join(0, ...near), JOINED | 3, 'when there is room again, the next one is')
  },
)

t.test('what the system does not tell of is not taken for empty', options, async (t) => {
  const sockets = createSockets(linux.libc())
  t.teardown(() => sockets.close())
  // Nobody can watch a file (epoll_ctl(2), EPERM).
  const file = openSync(new URL(import.meta.url), 'r')
  t.notOk(sockets.isEmpty(file))
  closeSync(file)
})

t.test('a side whose FIN has come is not taken, and all its bytes are still there', options, async (t) => {
  const relayed = bench(t)
  const tunnel = await relayed.tunnel()
  const { client, origin, near, slot } = tunnel
  client.end('early and over')
  origin.write('waiting')
  await firstEvents(relayed)
  t.equal(relayed.map.join(slot, ...near), 0)
  t.same(relayed.counts(), [0, 0, 0])
  const bytes = Buffer.alloc(32)
  const received = (fd: number) =>
    bytes.toString('latin1', 0, relayed.calls.recv(fd, bytes, 32, linux.MSG_DONTWAIT))
  t.equal(received(near[0]), 'early and over')
  t.equal(received(near[0]), '')
  t.equal(received(near[1]), 'waiting')
})

t.test('a RST is an event on its socket alone, also while bytes wait for it', options, async (t) => {
  const relayed = bench(t)
  const tunnel = await relayed.tunnel()
  const { client, origin, near } = tunnel
  t.equal(relayed.join(tunnel), JOINED | 3)
  await flood(client, 2 * MIB)
  origin.resetAndDestroy()
  const mask = linux.EPOLLERR | linux.EPOLLHUP | linux.EPOLLRDHUP
  t.same(await firstEvents(relayed), [[near[1], mask]])
  client.write('into the void')
  await sleep(20)
  const told = relayed.events().map(([fd]) => fd)
  t.notOk(told.includes(near[0]), 'the other side is not told, whatever it sends')
  for (const fd of near) relayed.calls.setsockopt(fd, linux.SOL_SOCKET, linux.SO_LINGER, linux.LINGER_RST, 8)
  relayed.close(tunnel)
  const [error] = await once(client, 'error')
  t.equal(error.code, 'ECONNRESET')
})

t.test('1,000 tunnels leave nothing behind', options, async (t) => {
  const relayed = bench(t)
  const descriptors = () => readdirSync('/proc/self/fd').length
  const before = descriptors()
  for (let batch = 0; batch < 1_000 / 50; batch += 1) {
    const tunnels = await Promise.all(Array.from({ length: 50 }, () => relayed.tunnel()))
    for (const tunnel of tunnels) relayed.join(tunnel)
    await Promise.all(tunnels.map((tunnel, index) => live(relayed, tunnel, index)))
    await Promise.all(tunnels.map(({ client, origin }) => Promise.all([closed(client), closed(origin)])))
  }
  t.same(relayed.counts(), [0, 0, 0])
  await until(() => descriptors() <= before)
  t.ok(descriptors() <= before, `${descriptors()} descriptors, ${before} before`)
})

/** A word each way, then one of the ways in which a tunnel ends. */
async function live(relayed: Bench, tunnel: Tunnel, index: number): Promise<void> {
  const { client, origin, near } = tunnel
  const atClient = reader(client)
  const atOrigin = reader(origin)
  client.write('ping')
  origin.write('pong')
  await until(() => atClient.bytes === 4 && atOrigin.bytes === 4)
  if (atClient.bytes !== 4 || atOrigin.bytes !== 4) throw new Error('not relayed')
  if (index % 3 === 0) client.resetAndDestroy()
  if (index % 3 === 1) client.end()
  if (index % 2 === 0)
    relayed.calls.setsockopt(near[1], linux.SOL_SOCKET, linux.SO_LINGER, linux.LINGER_RST, 8)
  relayed.close(tunnel)
  client.destroy()
  origin.destroy()
}

async function closed(socket: Socket): Promise<void> {
  if (!socket.closed) await once(socket, 'close')
}

t.test('the kernel had nothing to complain about', options, async (t) => {
  t.equal(readFileSync('/proc/sys/kernel/tainted', 'latin1'), tainted)
})
