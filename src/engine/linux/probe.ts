// Whether this kernel relays as the engine sockmap needs it: tried on loopback connections at the start, since no version
// number says it. Synchronous, and with bare descriptors; some ten ms.

import type { Libc } from '../../linux/libc.ts'
import {
  AF_INET,
  ECONNRESET,
  EPOLL_CLOEXEC,
  EPOLL_CTL_ADD,
  EPOLLERR,
  EPOLLET,
  EPOLLRDHUP,
  EVENT_DATA,
  EVENT_WORDS,
  errorName,
  LINGER_RST,
  libc,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  SHUT_WR,
  SO_LINGER,
  SO_RCVBUF,
  SO_SNDBUF,
  SOCK_CLOEXEC,
  SOCK_STREAM,
  SOL_SOCKET,
  systemError,
} from '../../linux/libc.ts'
import { SOCKADDR_SIZE, sockaddrOf } from '../../linux/sockaddr.ts'
import { closeSockmap, openSockmap, type SockmapHandle } from './maps.ts'
import { BOUND, JOINED, type Sockmap, useSockmap } from './sockmap.ts'

/** How long each wait may take, in rounds of a ms: on a busy machine the kernel's threads have had their turn after 9 s. */
const ROUNDS = 20_000
/** A sender that can send nothing for so long is stopped. */
const IDLE_ROUNDS = 10
const CHUNK_BYTES = 64 * 1024
/** The kernel makes less of it where it must (net.core.wmem_max). */
const BUFFER_BYTES = 512 * 1024
/** More than the bound and the buffers of four sockets hold. */
const FLOOD_BYTES = BOUND + 16 * BUFFER_BYTES

/** Null, or in words why the kernel can't do it. */
export function probeSockmap(): string | null {
  let handle: SockmapHandle | undefined
  try {
    handle = openSockmap(2)
    tryAll(handle)
    return null
  } catch (error) {
    return (error as Error).message
  } finally {
    if (handle !== undefined) closeSockmap(handle)
  }
}

interface Tunnel {
  readonly slot: number
  /** Far ends, then near ones, which are joined: of the client and of the origin. */
  readonly far: readonly [number, number]
  readonly near: readonly [number, number]
}

/** Bytes go in at `from`, and come out at `to`. */
interface Direction {
  readonly side: number
  readonly from: number
  readonly near: number
  readonly other: number
  readonly to: number
  /** How many have gone in. */
  sent: number
}

function tryAll(handle: SockmapHandle): void {
  const calls = libc()
  const map = useSockmap(handle)
  const opened: number[] = []
  try {
    const bench = createBench(calls, map, opened)
    bench.relays(bench.tunnel(0))
    bench.resets(bench.tunnel(1))
  } finally {
    for (const fd of opened) calls.close(fd)
    map.leave(0)
    map.leave(1)
    map.close()
  }
}

function createBench(calls: Libc, map: Sockmap, opened: number[]) {
  const epoll = orThrow(calls.epoll_create1(EPOLL_CLOEXEC), 'epoll_create1')
  opened.push(epoll)
  const events = new Int32Array(EVENT_WORDS)
  const chunk = Buffer.alloc(CHUNK_BYTES)
  const places = new Int32Array(FLOOD_BYTES / 4)
  for (let place = 0; place < places.length; place += 1) places[place] = place
  const flooded = Buffer.from(places.buffer)

  function orThrow(result: number, call: string): number {
    if (result === -1) throw systemError(calls.errno(), call)
    return result
  }

  function open(fd: number, call: string): number {
    opened.push(orThrow(fd, call))
    return fd
  }

  /** A connection over loopback: its far end and its near one. */
  function connection(): [far: number, near: number] {
    const address = Buffer.alloc(SOCKADDR_SIZE)
    sockaddrOf(calls, { address: '127.0.0.1', port: 0 }).copy(address)
    const size = new Uint32Array([16])
    const listener = open(calls.socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), 'socket')
    orThrow(calls.bind(listener, address, 16), 'bind')
    orThrow(calls.listen(listener, 1), 'listen')
    orThrow(calls.getsockname(listener, address, size), 'getsockname')
    const far = open(calls.socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), 'socket')
    // Before they are connected, since a window that was offered is never taken back.
    for (const fd of [listener, far]) setBuffers(fd)
    orThrow(calls.connect(far, address, 16), 'connect')
    return [far, open(calls.accept4(listener, null, null, SOCK_CLOEXEC), 'accept4')]
  }

  function setBuffers(fd: number): void {
    const size = new Int32Array([BUFFER_BYTES])
    for (const option of [SO_SNDBUF, SO_RCVBUF]) calls.setsockopt(fd, SOL_SOCKET, option, size, 4)
  }

  function tunnel(slot: number): Tunnel {
    const [farClient, client] = connection()
    const [farOrigin, origin] = connection()
    for (const fd of [client, origin]) {
      events[0] = EPOLLRDHUP | EPOLLET
      events[EVENT_DATA] = fd
      orThrow(calls.epoll_ctl(epoll, EPOLL_CTL_ADD, fd, events), 'epoll_ctl')
    }
    if (map.join(slot, client, origin) !== (JOINED | 3))
      throw new Error('the kernel takes no sockets into its maps')
    return { slot, far: [farClient, farOrigin], near: [client, origin] }
  }

  /** The descriptor that something happened to, or -1 after `ms`. */
  function waitFor(ms: number): number {
    return calls.epoll_wait(epoll, events, 1, ms) === 1 ? (events[EVENT_DATA] as number) : -1
  }

  function say(fd: number, text: string): void {
    const bytes = Buffer.from(text)
    orThrow(calls.send(fd, bytes, bytes.length, MSG_DONTWAIT | MSG_NOSIGNAL), 'send')
  }

  /** What comes within the time, as far as `size`; null after a FIN. */
  function receive(fd: number, size: number): Buffer | null {
    const bytes = Buffer.alloc(size)
    let place = 0
    for (let idle = 0; idle < ROUNDS && place < size; ) {
      const count = calls.recv(fd, bytes.subarray(place), size - place, MSG_DONTWAIT)
      if (count === 0) return null
      if (count === -1) waitFor(1)
      idle = count === -1 ? idle + 1 : 0
      place += Math.max(count, 0)
    }
    return bytes.subarray(0, place)
  }

  function hear(fd: number, text: string, otherwise: string): void {
    if (receive(fd, text.length)?.toString() !== text) throw new Error(otherwise)
  }

  function relays({ slot, far, near }: Tunnel): void {
    const [farClient, farOrigin] = far
    const [client, origin] = near
    say(farClient, 'to the origin')
    hear(farOrigin, 'to the origin', 'what a client sends is not redirected')
    say(farOrigin, 'to the client')
    hear(farClient, 'to the client', 'what an origin sends is not redirected')
    if (map.bytes(slot * 2) !== 13) throw new Error('the program counts wrong')
    stalls(
      { side: slot * 2, from: farClient, near: client, other: origin, to: farOrigin, sent: 0 },
      { side: slot * 2 + 1, from: farOrigin, near: origin, other: client, to: farClient, sent: 0 },
    )
    calls.shutdown(farClient, SHUT_WR)
    if (waitFor(ROUNDS) !== client) throw new Error('nobody is told of a FIN')
    untilDrained(slot * 2)
    calls.shutdown(origin, SHUT_WR)
    if (receive(farOrigin, 1) !== null) throw new Error('a FIN is not relayed')
  }

  /** Floods two readers that don't read, one another's, then relays what was left to user space. */
  function stalls(...directions: readonly Direction[]): void {
    const before = directions.map(({ side }) => map.bytes(side))
    for (const direction of directions) {
      flood(direction)
      // What waits there still would let more be passed to the other socket than its window allows (sockmap.ts).
      untilDrained(direction.side)
      if (direction.sent === FLOOD_BYTES) throw new Error('nothing bounds what waits to be sent')
    }
    for (const [index, direction] of directions.entries()) {
      const { side, to } = direction
      const way = map.attend(side)
      if (way !== 'passed') throw new Error(`a direction at its bound is ${way}`)
      const redirected = map.bytes(side) - (before[index] as number)
      untilDrained(side)
      check(to, 0, redirected)
      relayRest(direction, redirected)
    }
  }

  function relayRest({ side, near, other, to, sent }: Direction, from: number): void {
    for (let place = from; place < sent; ) {
      const bytes = receive(near, Math.min(CHUNK_BYTES, sent - place))
      if (bytes === null || bytes.length === 0)
        throw new Error(`bytes are lost at the bound, ${sent - place}`)
      map.took(side, bytes.length)
      orThrow(calls.send(other, bytes, bytes.length, MSG_NOSIGNAL), 'send')
      check(to, place, place + bytes.length)
      place += bytes.length
    }
    if (!map.isRead(side)) throw new Error('the program counts wrong what it leaves')
  }

  /** Sends until nothing more is taken: 32-bit words that say their place. */
  function flood(direction: Direction): void {
    const { side, from } = direction
    let isPassed = false
    for (let idle = 0; direction.sent < FLOOD_BYTES && idle < (isPassed ? IDLE_ROUNDS : ROUNDS); ) {
      const size = calls.send(from, flooded.subarray(direction.sent), CHUNK_BYTES, MSG_DONTWAIT)
      map.events((each) => void map.attend(each))
      isPassed ||= map.attend(side) === 'passed'
      // Slowly from there on: what is passed is to find its place before the next.
      if (size === -1 || isPassed) waitFor(1)
      idle = size === -1 ? idle + 1 : 0
      direction.sent += Math.max(size, 0)
    }
  }

  /** Reads what `flood` has sent from one place to another. */
  function check(fd: number, from: number, to: number): void {
    const bytes = receive(fd, to - from)
    if (bytes?.length !== to - from) throw new Error('redirected bytes are lost')
    if (!bytes.equals(flooded.subarray(from, to))) throw new Error('bytes are out of order')
  }

  function untilDrained(side: number): void {
    for (let round = 0; round < ROUNDS; round += 1) {
      if (map.drained(side)) return
      waitFor(1)
    }
    throw new Error('it cannot be known when all is redirected')
  }

  function resets({ far: [farClient, farOrigin], near: [client, origin] }: Tunnel): void {
    calls.setsockopt(farClient, SOL_SOCKET, SO_LINGER, LINGER_RST, LINGER_RST.byteLength)
    calls.close(farClient)
    opened.splice(opened.indexOf(farClient), 1)
    if (waitFor(ROUNDS) !== client || ((events[0] as number) & EPOLLERR) === 0)
      throw new Error('nobody is told of a RST')
    calls.setsockopt(origin, SOL_SOCKET, SO_LINGER, LINGER_RST, LINGER_RST.byteLength)
    calls.close(origin)
    opened.splice(opened.indexOf(origin), 1)
    if (calls.recv(farOrigin, chunk, 1, MSG_DONTWAIT) !== -1 || calls.errno() !== ECONNRESET) {
      throw new Error(`a RST is relayed as ${errorName(calls.errno())}`)
    }
  }

  return { tunnel, relays, resets }
}
