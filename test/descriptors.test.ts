// Connections without node's sockets above them: accepted, dialled, read, written and closed as bare descriptors.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fstatSync, openSync } from 'node:fs'
import type { AddressInfo, Socket } from 'node:net'
import { connect, createServer } from 'node:net'
import t, { type Test } from 'tap'
import type { Client } from '../src/accept/client.ts'
import type { Arrival, ListenerOptions } from '../src/accept/listener.ts'
import { listen } from '../src/accept/listener.ts'
import { createBackend } from '../src/dial/backend.ts'
import { dial } from '../src/dial/connect.ts'
import { probeSockmap } from '../src/engine/linux/probe.ts'
import type { HeadraceError } from '../src/errors.ts'
import { Passage } from '../src/linux/descriptor-passing.ts'
import {
  IP_BIND_ADDRESS_NO_PORT,
  IPPROTO_IP,
  IPPROTO_TCP,
  libc,
  SO_KEEPALIVE,
  SOL_SOCKET,
  TCP_KEEPCNT,
  TCP_KEEPIDLE,
  TCP_KEEPINTVL,
  TCP_NODELAY,
  TCP_USER_TIMEOUT,
} from '../src/linux/libc.ts'
import { loop } from '../src/linux/loop.ts'
import { descriptorTransport } from '../src/transport/descriptor.ts'
import type { Reader, Transport } from '../src/transport/transport.ts'
import { optionsOf } from './support/accepting.ts'
import { backendOptions } from './support/backend.ts'
import { selfSigned } from './support/certificates.ts'
import { newFolder } from './support/control.ts'
import { Peer } from './support/peer.ts'

function reasonToSkip(): string | false {
  try {
    libc()
    return false
  } catch (error) {
    return `bare descriptors can't be had here: ${(error as Error).message}`
  }
}

const skip = process.env.CI === undefined ? reasonToSkip() : false

/** A descriptor that node has accepted and given away, and the far end of its connection. */
async function pair(t: Test): Promise<[far: Socket, near: Transport]> {
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const far = connect({
    port: (server.address() as AddressInfo).port,
    host: '127.0.0.1',
    allowHalfOpen: true,
  })
  far.on('error', () => {})
  const [accepted] = (await once(server, 'connection')) as [Socket]
  server.close()
  const calls = libc()
  const { fd } = (accepted as Socket & { readonly _handle: { readonly fd: number } })._handle
  const near = descriptorTransport(loop(), calls.fcntl(fd, 1030, 0))
  accepted.destroy()
  t.teardown(() => {
    far.destroy()
    near.destroy()
  })
  return [far, near]
}

/** Remembers what it is told, and lets a test wait for it. */
class Recorder implements Reader {
  readonly told: string[] = []
  readonly #waiting = new Map<string, () => void>()

  data(chunk: Buffer): void {
    this.#tell(`data ${chunk.toString('latin1')}`)
  }

  end(): void {
    this.#tell('end')
  }

  drain(): void {
    this.#tell('drain')
  }

  closed(error: NodeJS.ErrnoException | undefined): void {
    this.#tell(`closed ${error?.code ?? ''}`)
  }

  until(what: string): Promise<void> {
    if (this.told.includes(what)) return Promise.resolve()
    return new Promise((resolve) => this.#waiting.set(what, resolve))
  }

  #tell(what: string): void {
    this.told.push(what)
    this.#waiting.get(what)?.()
  }
}

t.test('a transport on a descriptor', { skip }, async (t) => {
  t.test('tells what comes, in order, and is over when both have ended', async (t) => {
    const [far, near] = await pair(t)
    const reader = new Recorder()
    const peer = new Peer(far)
    far.end('last words')
    near.attach(reader)
    t.same(reader.told, [], 'nothing inside the call')
    await reader.until('end')
    near.write('answer')
    near.end()
    await reader.until('closed ')
    await peer.closed
    t.same(reader.told, ['data last words', 'end', 'closed '])
    t.equal(peer.text, 'answer')
    t.ok(near.isClosed)
    t.ok(near.write('more'), 'writing after the end does nothing')
  })

  t.test('says when it takes no more, and when it does again; nothing is lost', async (t) => {
    const [far, near] = await pair(t)
    far.pause()
    const reader = new Recorder()
    near.attach(reader)
    const block = Buffer.alloc(256 * 1024, 7)
    let sent = 0
    let takesMore = true
    while (takesMore && sent < 1_000) {
      takesMore = near.write(block)
      sent += 1
    }
    t.notOk(takesMore, `full after ${sent} blocks`)
    near.write(block)
    near.end()
    let received = 0
    far.on('data', (chunk: Buffer) => {
      received += chunk.length
    })
    far.resume()
    await once(far, 'end')
    t.equal(received, (sent + 1) * block.length)
    t.ok(reader.told.includes('drain'))
  })

  t.test('a reset is a RST, and one that comes is told by its name', async (t) => {
    const [far, near] = await pair(t)
    const peer = new Peer(far)
    const reader = new Recorder()
    near.attach(reader)
    near.reset()
    await reader.until('closed ')
    t.equal(await peer.closed, 'ECONNRESET')
    const [rude, other] = await pair(t)
    const hurt = new Recorder()
    other.attach(hurt)
    rude.write('x')
    await hurt.until('data x')
    rude.resetAndDestroy()
    await hurt.until('closed ECONNRESET')
    t.same(hurt.told, ['data x', 'closed ECONNRESET'])
  })

  t.test('a RST behind a FIN is noticed without a write', async (t) => {
    const [far, near] = await pair(t)
    const reader = new Recorder()
    near.attach(reader)
    far.end()
    await reader.until('end')
    far.resetAndDestroy()
    await new Promise<void>((resolve) => {
      const ask = () => (near.isClosed ? resolve() : setImmediate(ask))
      ask()
    })
    t.match(reader.told.at(-1), /^closed (EPIPE|ECONNRESET)$/)
  })

  t.test('while it is paused nothing is told, and nothing is lost', async (t) => {
    const [far, near] = await pair(t)
    const reader = new Recorder()
    near.attach(reader)
    near.pause()
    far.end('held')
    await once(far, 'finish')
    await new Promise(setImmediate)
    t.same(reader.told, [])
    near.resume()
    await reader.until('end')
    t.same(reader.told, ['data held', 'end'])
  })

  t.test('becomes a node socket, and a transport on it again', async (t) => {
    const [far, near] = await pair(t)
    const peer = new Peer(far)
    far.write('before')
    const { socket, retake } = near.release()
    t.equal(socket.remotePort, far.localPort)
    socket.unshift(Buffer.from('head '))
    const again = retake()
    const reader = new Recorder()
    again.attach(reader)
    await reader.until('data before')
    t.same(reader.told, ['data head ', 'data before'])
    again.write('still there')
    again.end()
    await peer.ended
    t.equal(peer.text, 'still there')
  })

  t.test('is given up without a trace on the wire', async (t) => {
    const [far, near] = await pair(t)
    far.write('unread')
    t.ok(near.isDetachable)
    const given = near.detach()
    t.ok(near.isClosed)
    t.same(given?.unread, [])
    const reader = new Recorder()
    const taken = descriptorTransport(loop(), given?.descriptor ?? -1)
    t.teardown(() => taken.destroy())
    taken.attach(reader)
    await reader.until('data unread')
    far.end()
    await reader.until('end')
  })
})

/** The next client of a listener that accepts descriptors. */
async function listening(t: Test, options: Partial<ListenerOptions> = {}) {
  const troubles: HeadraceError[] = []
  const waiting: ((client: Client) => void)[] = []
  const arrived = (arrival: Arrival) => {
    if (!('transport' in arrival)) throw new Error('node has accepted it')
    t.teardown(() => arrival.transport.destroy())
    waiting.shift()?.(arrival)
  }
  const listener = await listen(optionsOf(options), arrived, (trouble) => troubles.push(trouble), loop())
  t.teardown(() => listener.close())
  return { listener, troubles, next: () => new Promise<Client>((resolve) => waiting.push(resolve)) }
}

function optionOf(transport: Transport, level: number, option: number): number {
  const value = new Int32Array(1)
  const { descriptor } = transport as Transport & { readonly descriptor: number }
  libc().getsockopt(descriptor, level, option, value, new Uint32Array([4]))
  return value[0] as number
}

const TCP_OPTIONS = {
  keepaliveMs: 20_000,
  keepaliveIntervalMs: 5_000,
  keepaliveProbes: 3,
  userTimeoutMs: 12_345,
} as const

function checkOptions(t: Test, transport: Transport): void {
  t.equal(optionOf(transport, IPPROTO_TCP, TCP_NODELAY), 1)
  t.equal(optionOf(transport, SOL_SOCKET, SO_KEEPALIVE), 1)
  t.equal(optionOf(transport, IPPROTO_TCP, TCP_KEEPIDLE), 20)
  t.equal(optionOf(transport, IPPROTO_TCP, TCP_KEEPINTVL), 5)
  t.equal(optionOf(transport, IPPROTO_TCP, TCP_KEEPCNT), 3)
  t.equal(optionOf(transport, IPPROTO_TCP, TCP_USER_TIMEOUT), 12_345)
}

t.test('a listener that accepts descriptors', { skip }, async (t) => {
  for (const [address, from, shown] of [
    ['127.0.0.1:0', '127.0.0.1', '127.0.0.1'],
    ['[::1]:0', '::1', '::1'],
    ['[::]:0', '127.0.0.1', '127.0.0.1'],
    ['localhost:0', 'localhost', /^(127\.0\.0\.1|::1)$/],
  ] as const) {
    t.test(`knows who comes to ${address}`, async (t) => {
      const { listener, next } = await listening(t, { address })
      const port = Number(listener.address.split(':').at(-1))
      const coming = next()
      const far = connect({ port, host: from })
      t.teardown(() => far.destroy())
      const client = await coming
      t.match(client.address, shown)
      t.equal(client.port, far.localPort)
      t.equal(client.listener, listener.address)
      t.equal(client.tls, null)
    })
  }

  t.test('its options are those of each connection', async (t) => {
    const { listener, next } = await listening(t, TCP_OPTIONS)
    const coming = next()
    const far = connect(Number(listener.address.split(':').at(-1)), '127.0.0.1')
    t.teardown(() => far.destroy())
    checkOptions(t, (await coming).transport)
  })

  t.test('frees its address when it is closed', async (t) => {
    const { listener } = await listening(t)
    await listener.close()
    const again = await listening(t, { address: listener.address })
    await listener.close()
    const coming = again.next()
    const far = connect(Number(listener.address.split(':').at(-1)), '127.0.0.1')
    t.teardown(() => far.destroy())
    await coming
    t.equal(again.listener.address, listener.address, 'closing twice closes nobody else')
  })
})

t.test('a dialled descriptor has the options of its backend', { skip }, async (t) => {
  const server = createServer((socket) => socket.on('error', () => {})).listen(0, '127.0.0.1')
  t.teardown(() => server.close())
  await once(server, 'listening')
  const options = backendOptions({
    address: { host: '127.0.0.1', port: (server.address() as AddressInfo).port },
    ...TCP_OPTIONS,
    localAddress: ['127.0.0.7'],
  })
  const accepted = once(server, 'connection') as Promise<[Socket]>
  const { transport } = await dial(createBackend(options), new AbortController().signal, { loop: loop() })
  t.teardown(() => transport.destroy())
  checkOptions(t, transport)
  t.equal(optionOf(transport, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT), 1)
  t.equal((await accepted)[0].remoteAddress, '127.0.0.7')
})

/** Runs a script in a process of its own, and resolves with what it prints and its exit code. */
async function run(t: Test, command: string, args: readonly string[], options = {}) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], ...options })
  t.teardown(() => child.kill('SIGKILL'))
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', (chunk) => (output += String(chunk)))
  const [code] = (await once(child, 'close')) as [number | null]
  return { code, output }
}

const WAY = JSON.stringify(new URL('./support/one-tunnel.js', import.meta.url).href)

t.test('out of descriptors it pauses, says so once, and goes on when there are some', { skip }, async (t) => {
  const script = `import { exhausted } from ${WAY}; await exhausted()`
  const command = `ulimit -n 512 && exec "$0" --input-type=module -e "$1"`
  const { code, output } = await run(t, 'sh', ['-c', command, process.execPath, script])
  t.equal(code, 0, output)
  t.match(output, /troubles: 1, EMFILE/)
  t.match(output, /served after the pause/)
})

t.test('out of descriptors a door for letters rests, and opens again', { skip }, async (t) => {
  const folder = JSON.stringify(newFolder(t))
  const script = `import { shut } from ${WAY}; await shut(${folder})`
  const command = `ulimit -n 128 && exec "$0" --input-type=module -e "$1"`
  const { code, output } = await run(t, 'sh', ['-c', command, process.execPath, script])
  t.equal(code, 0, output)
  t.match(output, /asked now and then\n/)
  t.match(output, /come in: 1\n/)
})

t.test('a passage that the system does not watch is closed, and says so', { skip }, async (t) => {
  // Nobody can watch a file (epoll_ctl(2), EPERM).
  const file = openSync(new URL(import.meta.url), 'r')
  let passage: Passage | undefined
  await new Promise<void>((closed) => {
    passage = new Passage(loop(), file, { letter() {}, closed })
  })
  t.throws(() => fstatSync(file), { code: 'EBADF' })
  passage?.send(Buffer.from('to nobody'))
})

for (const [door, meanwhile] of [
  ['plain', 'served'],
  ['tls', 'served'],
  ['proxy', 'served'],
  // Accepted by node: libuv closes what it has no descriptor for.
  ['unix', 'closed'],
  ['stream', 'closed'],
] as const) {
  const title = `out of descriptors, ${door}: the operator is told, an open tunnel goes on, who came meanwhile is ${meanwhile}`
  t.test(title, { skip: meanwhile === 'closed' ? false : skip }, async (t) => {
    const pem = JSON.stringify(await selfSigned({ names: ['site.test'] }))
    const script = `import { starved } from ${WAY}; await starved('${door}', ${pem})`
    const command = `ulimit -n 512 && exec "$0" --input-type=module -e "$1"`
    const { code, output } = await run(t, 'sh', ['-c', command, process.execPath, script])
    t.equal(code, 0, output)
    t.match(output, /told: descriptors-exhausted, EMFILE\n/)
    t.match(output, /open tunnel: still here\n/)
    t.match(output, new RegExp(`who came meanwhile: ${meanwhile}\\n`))
    t.match(output, /who comes now: served\n/)
  })
}

const NOBODY = 65_534
const isRoot = process.getuid?.() === 0
t.test(
  'the engine epoll runs as an ordinary user without capabilities',
  { skip: skip || (!isRoot && 'only root can become an ordinary user: run the tests as root') },
  async (t) => {
    const script = `import { oneTunnel } from ${WAY}; await oneTunnel('epoll')`
    const { code, output } = await run(t, process.execPath, ['--input-type=module', '-e', script], {
      uid: NOBODY,
      gid: NOBODY,
    })
    t.equal(code, 0, output)
    t.match(output, /uid 65534, capabilities 0+, engine epoll, bulk whole/)
  },
)

t.test(
  'the engine sockmap needs CAP_BPF and CAP_NET_ADMIN, and nothing else of what root may',
  { skip: skip || (!isRoot && 'only root can give a capability away') || (probeSockmap() ?? false) },
  async (t) => {
    const script = `import { oneTunnel } from ${WAY}; await oneTunnel('sockmap')`
    const asNobodyWith = async (...capabilities: readonly string[]) => {
      const all = ['-all', ...capabilities.map((one) => `+${one}`)].join(',')
      const sets = ['inh-caps', 'ambient-caps', 'bounding-set'].map((set) => `--${set}=${all}`)
      const words = [`--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups', ...sets]
      return await run(t, 'setpriv', [...words, process.execPath, '--input-type=module', '-e', script])
    }
    const both = await asNobodyWith('bpf', 'net_admin')
    t.equal(both.code, 0, both.output)
    t.match(both.output, /uid 65534, capabilities 0+8000001000, engine sockmap, bulk whole/)
    for (const one of ['bpf', 'net_admin']) {
      const { code, output } = await asNobodyWith(one)
      t.not(code, 0)
      t.match(output, /it needs the capabilities CAP_BPF and CAP_NET_ADMIN/)
    }
  },
)
