// Whole connections in a process of their own, for tests of what a process may do.

import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { closeSync, openSync, readFileSync } from 'node:fs'
import type { AddressInfo, Socket } from 'node:net'
import { connect, createServer } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { listen } from '../../src/accept/listener.ts'
import type { EngineName } from '../../src/engine/engine.ts'
import type { HeadraceError } from '../../src/errors.ts'
import { acceptOf } from '../../src/head/handshake.ts'
import type { TroubleEvent } from '../../src/index.ts'
import { createTunnel } from '../../src/index.ts'
import { loop } from '../../src/linux/loop.ts'
import { knock, openDoor } from '../../src/linux/unix-socket.ts'
import { optionsOf } from './accepting.ts'
import type { Pem } from './certificates.ts'
import { placeOf } from './peer.ts'

const KEY = 'dGhlIHNhbXBsZSBub25jZQ=='
const BULK_BYTES = 32 * 1024 * 1024

/** Answers with a 101 and then with all that it gets. */
async function echoOrigin(): Promise<string> {
  const server = createServer((socket) => {
    socket.once('data', () => {
      const accept = `Sec-WebSocket-Accept: ${acceptOf(KEY)}`
      socket.write(`HTTP/1.1 101 Ok\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n${accept}\r\n\r\n`)
      socket.pipe(socket)
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return `127.0.0.1:${(server.address() as AddressInfo).port}`
}

const FIELDS = `Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${KEY}`
const HANDSHAKE = `GET / HTTP/1.1\r\nHost: x\r\n${FIELDS}\r\n\r\n`

function open(address: string): Socket {
  const [host = '', port = ''] = address.split(':')
  const socket = connect(Number(port), host)
  socket.write(HANDSHAKE)
  return socket
}

/** One tunnel, bulk there and back, and what the process may do. */
export async function oneTunnel(engine: EngineName): Promise<void> {
  const backends = [{ name: 'origin', address: await echoOrigin() }]
  const services = [{ id: 'one', domains: ['*'], websockets: true, backends }]
  const tunnel = createTunnel({ services, engine, log: { level: 'silent' } })
  const accepted = once(tunnel, 'accepted')
  const { addresses } = await tunnel.listen([{ address: '127.0.0.1:0' }])
  const socket = open(addresses[0] ?? '')
  await once(socket, 'data')
  const [event] = await accepted
  const bulk = randomBytes(BULK_BYTES)
  socket.end(bulk)
  const received = createHash('sha256')
  for await (const chunk of socket) received.update(chunk as Buffer)
  const isWhole = received.digest('hex') === createHash('sha256').update(bulk).digest('hex')
  const [, capabilities] = /CapEff:\s*(\w+)/.exec(readFileSync('/proc/self/status', 'latin1')) ?? []
  const user = `uid ${process.getuid?.()}, capabilities ${capabilities}`
  console.log(`${user}, engine ${event.engine}, bulk ${isWhole ? 'whole' : 'broken'}`)
  process.exit(0)
}

/** A listener in a process that has too few descriptors for its clients. */
export async function exhausted(): Promise<void> {
  const troubles: HeadraceError[] = []
  let served = 0
  const held: (() => void)[] = []
  const listener = await listen(
    optionsOf({}),
    (arrival) => {
      served += 1
      if ('transport' in arrival) held.push(() => arrival.transport.destroy())
    },
    (trouble) => troubles.push(trouble),
    loop(),
  )
  const [host = '', port = ''] = listener.address.split(':')
  const far: Socket[] = []
  while (troubles.length === 0) {
    const socket = connect(Number(port), host)
    socket.on('error', () => {})
    far.push(socket)
    await Promise.race([once(socket, 'connect'), once(socket, 'close')])
    await new Promise(setImmediate)
  }
  for (const close of held.splice(0)) close()
  for (const socket of far) socket.destroy()
  // A RST or a FIN of those that waited in the backlog is no error of the listener's.
  const before = served
  const late = connect(Number(port), host)
  while (served === before) await new Promise(setImmediate)
  console.log(`troubles: ${troubles.length}, ${troubles[0]?.detail.split(': ').at(-1)}`)
  late.destroy()
  console.log('served after the pause')
  process.exit(0)
}

/** Somebody stands before a door for letters in a process that has no descriptor left. */
export async function shut(folder: string): Promise<void> {
  const { calls } = loop()
  const { accept4 } = calls
  let asked = 0
  calls.accept4 = (...args) => {
    asked += 1
    return accept4(...args)
  }
  let entered: (fd: number) => void = () => {}
  const entering = new Promise<number>((resolve) => {
    entered = resolve
  })
  let come = 0
  const door = openDoor(loop(), folder, 'door', (fd) => {
    come += 1
    entered(fd)
  })
  const hoard: number[] = []
  const { fd } = knock(loop(), folder, 'door')
  try {
    for (;;) hoard.push(openSync('/dev/null', 'r'))
  } catch {}
  const startedAt = performance.now()
  await new Promise((resolve) => setTimeout(resolve, 300))
  const most = (performance.now() - startedAt) / 50
  console.log(asked > 0 && asked <= most ? 'asked now and then' : `asked ${asked} times`)
  for (const descriptor of hoard) closeSync(descriptor)
  const inside = await entering
  console.log(`come in: ${come}`)
  for (const descriptor of [fd, inside]) calls.close(descriptor)
  door.close()
}

export type Door = 'plain' | 'tls' | 'proxy' | 'unix' | 'stream'

/** A tunnel in a process that runs out of descriptors, behind each kind of listener; says what it saw. */
export async function starved(door: Door, pem: Pem): Promise<void> {
  const path = `unix:/tmp/headrace-starved-${process.pid}.sock`
  const tunnel = createTunnel({
    engine: door === 'unix' || door === 'stream' ? 'stream' : 'epoll',
    services: [
      { id: 's', domains: ['*'], websockets: 'on', backends: [{ name: 'o', address: await echoOrigin() }] },
    ],
  })
  const { addresses } = await tunnel.listen([
    {
      address: door === 'unix' ? path : '127.0.0.1:0',
      ...(door === 'tls' ? { tls: pem } : {}),
      ...(door === 'proxy' ? { proxyProtocol: { from: ['127.0.0.1'] } } : {}),
    },
  ])
  const arrive = async () => {
    const place = placeOf(addresses[0] ?? '')
    const raw = connect(place)
    raw.on('error', () => {})
    if (door === 'proxy') raw.write('PROXY TCP4 192.0.2.1 127.0.0.1 1 80\r\n')
    const socket = door === 'tls' ? connectTls({ socket: raw, rejectUnauthorized: false }) : raw
    socket.on('error', () => {})
    socket.write(HANDSHAKE)
    const first = new Promise<string>((tell) => {
      socket.once('data', () => tell('served'))
      socket.once('close', () => tell('closed'))
    })
    return { socket, first }
  }
  const old = await arrive()
  await old.first
  const trouble = once(tunnel, 'trouble') as Promise<[TroubleEvent]>
  const hoard: number[] = []
  const fill = () => {
    try {
      for (;;) hoard.push(openSync('/dev/null', 'r'))
    } catch {}
  }
  fill()
  // One is left for a client's own end.
  closeSync(hoard.pop() ?? -1)
  const late = await arrive()
  // Its own end is a descriptor again, where it is turned away.
  void late.first.then((word) => word === 'closed' && fill())
  const [{ code, detail }] = await trouble
  console.log(`told: ${code}, ${detail.split(' ').at(-1)}`)
  const word = once(old.socket, 'data')
  old.socket.write('still here')
  console.log(`open tunnel: ${(await word)[0]}`)
  for (const descriptor of hoard) closeSync(descriptor)
  console.log(`who came meanwhile: ${await late.first}`)
  console.log(`who comes now: ${await (await arrive()).first}`)
  process.exit(0)
}
