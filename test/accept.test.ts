// Listeners and the PROXY protocol on real sockets: what comes out is a client, or a refusal with a code. TLS is in
// accept-tls.test.ts, the way from there in way/.

import { execFileSync, spawn } from 'node:child_process'
import { getEventListeners, once } from 'node:events'
import { link, lstat, readFile, writeFile } from 'node:fs/promises'
import type { Socket } from 'node:net'
import { connect, createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { connect as connectTls } from 'node:tls'
import t from 'tap'
import type { ListenerOptions } from '../src/accept/listener.ts'
import { HeadraceError } from '../src/errors.ts'
import {
  accepting,
  failureOf,
  greet,
  Heard,
  nextClient,
  nextFailure,
  relayTo,
  socketPath,
} from './support/accepting.ts'
import { selfSigned } from './support/certificates.ts'
import { connectTo, Peer, placeOf } from './support/peer.ts'
import { v2Header, withChecksum } from './support/proxy-header.ts'

const tls = { pairs: [await selfSigned({ names: ['site.test'] })] }

// --- listeners

t.test('TCP, IPv6, TLS and Unix listeners accept side by side', async (t) => {
  const path = await socketPath(t)
  const wanted: readonly Partial<ListenerOptions>[] = [
    { address: '127.0.0.1:0' },
    { address: '[::1]:0' },
    { address: '127.0.0.1:0', tls },
    { address: `unix:${path}` },
    { address: `unix:${path}.tls`, tls },
  ]
  const all = await Promise.all(wanted.map((options) => accepting(t, options)))
  for (const [at, one] of all.entries()) {
    const { address, tls } = wanted[at] ?? {}
    const peer = await connectTo(t, one.address, tls && { servername: 'site.test' })
    const client = await nextClient(one)
    t.equal(client.listener, one.address)
    t.equal(client.address, { 1: '::1', 3: '', 4: '' }[at] ?? '127.0.0.1')
    t.equal(client.port, peer.socket.localPort ?? 0)
    t.equal(client.mayForward, false)
    if (tls === undefined) t.equal(client.tls, null)
    else t.match(client.tls, { servername: 'site.test', protocol: 'TLSv1.3', cipher: /^TLS_/ })
    t.match(one.address, address?.startsWith('unix:') ? address : /^(127\.0\.0\.1|\[::1\]):[1-9]\d*$/)
    await greet(t, client, peer)
  }
})

t.test('an IPv4 client of an IPv6 socket is shown, and trusted, by its IPv4 address', async (t) => {
  const one = await accepting(t, { address: '[::ffff:127.0.0.1]:0', forwarded: { from: ['127.0.0.0/8'] } })
  await connectTo(t, `127.0.0.1:${one.address.split(':').at(-1)}`)
  const { address, mayForward } = await nextClient(one)
  t.same({ address, mayForward }, { address: '127.0.0.1', mayForward: true })
})

t.test('only peers in forwarded.from may forward', async (t) => {
  for (const [from, mayForward] of [
    [['127.0.0.1'], true],
    [['10.0.0.0/8', '127.0.0.0/30'], true],
    [['127.0.0.2', '10.0.0.0/8', '::1'], false],
    [[], false],
  ] as const) {
    const one = await accepting(t, { forwarded: { from } })
    await connectTo(t, one.address)
    t.equal((await nextClient(one)).mayForward, mayForward, from.join())
  }
})

t.test('a closed listener accepts nothing more, and what it accepted lives on', async (t) => {
  const path = await socketPath(t)
  for (const options of [{}, { tls }, { address: `unix:${path}` }]) {
    const one = await accepting(t, options)
    const peer = await connectTo(t, one.address, options.tls && {})
    const client = await nextClient(one)
    await one.listener.close()
    const late = connect(placeOf(one.address))
    const [error] = await once(late, 'error')
    t.match(error, { code: /ECONNREFUSED|ENOENT/ })
    await greet(t, client, peer)
    await one.listener.close()
  }
  await t.rejects(lstat(path), { code: 'ENOENT' }, 'the file of the Unix socket is gone')
})

t.test('an address that is taken is refused, by its name', async (t) => {
  const one = await accepting(t)
  const error = await failureOf(accepting(t, { address: one.address }))
  t.match(error, { code: 'listen-failed', detail: `EADDRINUSE ${one.address}: something else listens there` })
})

t.test('an address that is none is refused before anything is opened', async (t) => {
  const long = `unix:/tmp/${'x'.repeat(103)}`
  for (const address of [
    '',
    '127.0.0.1',
    '127.0.0.1:',
    '127.0.0.1:65536',
    '::1:80',
    ':http',
    'unix:',
    long,
  ]) {
    const error = await failureOf(accepting(t, { address }))
    t.equal(error.code, 'config-invalid', address)
    t.ok(error.detail.startsWith(JSON.stringify(address)), error.detail)
  }
})

t.test('a list of addresses with a wrong entry is refused, by the entry', async (t) => {
  const wrong = [
    '10.0.0.0/33',
    '10.0.0/8',
    '::/129',
    '10.0.0.0/',
    '10.0.0.0/8/8',
    'localhost',
    '',
    'fe80::1%lo',
  ]
  for (const entry of wrong) {
    for (const name of ['forwarded', 'proxyProtocol']) {
      const error = await failureOf(accepting(t, { [name]: { from: ['127.0.0.1', entry] } }))
      t.match(error, { code: 'config-invalid', detail: `${JSON.stringify(entry)} is no address` })
    }
  }
})

t.test('the socket file that a killed process left behind is taken over', async (t) => {
  const path = await socketPath(t)
  // Closing removes the name that was listened on, and not its second one: there nobody listens any more.
  const dead = createServer().listen(`${path}.first`)
  await once(dead, 'listening')
  await link(`${path}.first`, path)
  dead.close()
  t.ok((await lstat(path)).isSocket())
  const one = await accepting(t, { address: `unix:${path}` })
  const peer = await connectTo(t, one.address)
  await greet(t, await nextClient(one), peer)
})

t.test('the socket file of a living process, and a file that is no socket, are left alone', async (t) => {
  const path = await socketPath(t)
  const one = await accepting(t, { address: `unix:${path}` })
  const taken = await failureOf(accepting(t, { address: one.address }))
  t.match(taken, { code: 'listen-failed', detail: `${one.address}: another process listens there` })
  // The one who asked whether somebody listens is a client, too.
  await one.next()
  const peer = await connectTo(t, one.address)
  await greet(t, await nextClient(one), peer)

  const file = `${path}.txt`
  await writeFile(file, 'precious')
  const error = await failureOf(accepting(t, { address: `unix:${file}` }))
  t.match(error, { code: 'listen-failed', detail: `unix:${file} exists and is no socket` })
  t.equal(await readFile(file, 'utf8'), 'precious')
})

// libuv refuses whom it has no descriptor for, with one that it keeps in reserve, and tells nobody.
t.test('a listener that runs out of descriptors accepts again when there are some', async (t) => {
  const module = new URL('../src/accept/listener.js', import.meta.url).href
  const source = `
    const { listen } = await import(${JSON.stringify(module)})
    const accept = (socket) => socket.on('close', () => console.log('closed')).pipe(socket)
    const { address } = await listen({ address: '127.0.0.1:0', keepaliveMs: 1000 }, accept, console.log)
    console.log(address)`
  const command = 'ulimit -n 48; exec "$0" --input-type=module --eval "$1"'
  const args = ['-c', command, process.execPath, source]
  const child = spawn('/bin/sh', args, { env: {}, stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  const lines = createInterface({ input: child.stdout })
  const [address] = (await once(lines, 'line')) as [string]
  const crowd = await Promise.all(Array.from({ length: 60 }, () => connectTo(t, address)))
  await Promise.any(crowd.map(({ ended }) => ended))
  const isFree = once(lines, 'line')
  for (const { socket } of crowd) socket.destroy()
  t.same(await isFree, ['closed'])
  const peer = await connectTo(t, address)
  peer.write('still there')
  t.equal(await peer.until('there'), 'still there')
})

// --- the PROXY protocol

const trusted = { proxyProtocol: { from: ['127.0.0.0/8'] } }
const V1 = Buffer.from('PROXY TCP4 192.0.2.7 198.51.100.1 40007 443\r\n')
const V1_IPV6 = Buffer.from('PROXY TCP6 2001:db8::7 2001:db8::1 40007 443\r\n')
const V2 = withChecksum(0x21, 0x11, Buffer.from('c0000207c63364019c4701bb', 'hex'), [
  { type: 0x02, value: Buffer.from('site.test') },
])
const V2_IPV6 = v2Header(
  0x21,
  0x21,
  Buffer.from('20010db800000000000000000000000720010db80000000000000000000000019c4701bb', 'hex'),
)

t.test('the sender is who the PROXY header says, and what follows the header is intact', async (t) => {
  const one = await accepting(t, { ...trusted, forwarded: { from: ['127.0.0.1'] } })
  for (const [header, address] of [
    [V1, '192.0.2.7'],
    [V1_IPV6, '2001:db8::7'],
    [V2, '192.0.2.7'],
    [V2_IPV6, '2001:db8::7'],
    [Buffer.from('PROXY TCP6 ::ffff:192.0.2.7 ::1 40007 443\r\n'), '192.0.2.7'],
  ] as const) {
    const peer = await connectTo(t, one.address)
    const rest = 'GET / HTTP/1.1\r\nHost: site.test\r\n\r\n'
    peer.write(Buffer.concat([header, Buffer.from(rest)]))
    const client = await nextClient(one)
    t.equal(client.address, address)
    t.match(client, { port: 40_007, mayForward: true, tls: null })
    const heard = new Heard(client.transport)
    peer.end('more')
    t.equal(await heard.all(), `${rest}more`)
  }
})

t.test('a PROXY header may come byte by byte, and then nothing', async (t) => {
  for (const header of [V1, V2]) {
    const one = await accepting(t, trusted)
    const accepted = once(one.events, 'socket')
    const peer = await connectTo(t, one.address)
    const [socket] = (await accepted) as [Socket]
    for (const byte of header) {
      const arrived = once(socket, 'data')
      peer.write(Buffer.of(byte))
      t.equal((await arrived)[0].length, 1)
    }
    const client = await nextClient(one)
    t.equal(client.address, '192.0.2.7')
    t.match(client, { port: 40_007 })
    await greet(t, client, peer)
  }
})

t.test('headers that name nobody leave the direct peer', async (t) => {
  const one = await accepting(t, trusted)
  for (const header of [
    Buffer.from('PROXY UNKNOWN\r\n'),
    Buffer.from('PROXY UNKNOWN 192.0.2.7 198.51.100.1 40007 443\r\n'),
    v2Header(0x20, 0x00, Buffer.alloc(0)),
    v2Header(0x20, 0x11, Buffer.from('c0000207c63364019c4701bb', 'hex')),
    v2Header(0x21, 0x31, Buffer.alloc(216)),
  ]) {
    const peer = await connectTo(t, one.address)
    peer.write(header)
    const client = await nextClient(one)
    t.equal(client.address, '127.0.0.1')
    t.match(client, { port: peer.socket.localPort })
    await greet(t, client, peer)
  }
})

t.test('a PROXY header in the same segment as the TLS hello', async (t) => {
  const one = await accepting(t, { ...trusted, tls })
  for (const header of [V1, V2]) {
    const front = (chunk: Buffer, at: number) => (at === 0 ? Buffer.concat([header, chunk]) : chunk)
    const peer = await connectTo(t, await relayTo(t, one.address, front), { servername: 'site.test' })
    const client = await nextClient(one)
    t.equal(client.address, '192.0.2.7')
    t.match(client, { port: 40_007, tls: { servername: 'site.test' } })
    await greet(t, client, peer)
  }
})

t.test('a PROXY header alone, and the TLS handshake afterwards', async (t) => {
  const one = await accepting(t, { ...trusted, tls })
  const raw = connect(placeOf(one.address))
  raw.write(V2)
  const peer = new Peer(connectTls({ socket: raw, rejectUnauthorized: false }))
  const client = await nextClient(one)
  t.equal(client.address, '192.0.2.7')
  t.match(client, { port: 40_007, tls: { servername: '' } })
  await greet(t, client, peer)
})

t.test('on a Unix socket every sender of a PROXY header is trusted', async (t) => {
  const address = `unix:${await socketPath(t)}`
  const one = await accepting(t, { address, proxyProtocol: { from: [] } })
  const peer = await connectTo(t, address)
  peer.write(V1)
  const client = await nextClient(one)
  t.equal(client.address, '192.0.2.7')
  t.match(client, { port: 40_007, mayForward: false, listener: address })
  await greet(t, client, peer)
})

t.test('a sender that is not trusted is refused, whatever it sends', async (t) => {
  const one = await accepting(t, { proxyProtocol: { from: ['127.0.0.2', '10.0.0.0/8', '::1'] } })
  for (const bytes of [V1, Buffer.from('GET / HTTP/1.1\r\n\r\n')]) {
    const peer = await connectTo(t, one.address)
    t.match(await nextFailure(t, one), { code: 'proxy-header-untrusted', detail: 'from 127.0.0.1' })
    peer.write(bytes)
    t.equal(await peer.all(), '')
  }
})

// The address of a peer that has reset can't be asked for any more: a client could pass for one of a Unix socket.
t.test('a client that resets before it is accepted is not trusted for having no address', async (t) => {
  for (const options of [{}, { proxyProtocol: { from: ['10.0.0.0/8'] } }]) {
    const one = await accepting(t, options)
    // While it runs, this process accepts nothing.
    const { port } = placeOf(one.address) as { port: number }
    const source = `const socket = require('net').connect(${port}, '127.0.0.1', () =>
      socket.write(${JSON.stringify(V1.toString())} + 'GET / HTTP/1.1', () => socket.resetAndDestroy()))`
    execFileSync(process.execPath, ['--eval', source])
    t.match(await nextFailure(t, one), { code: 'client-reset', detail: 'before it was accepted' })
  }
})

t.test('what is no PROXY header is refused, and so is an end or a reset inside one', async (t) => {
  const one = await accepting(t, trusted)
  for (const bytes of [
    'GET / HTTP/1.1\r\n\r\n',
    'PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n',
    '\r\n\r\n\0\r\nQUIT\r',
  ]) {
    const peer = await connectTo(t, one.address)
    peer.write(bytes)
    t.equal((await nextFailure(t, one)).code, 'proxy-header-invalid')
    t.equal(await peer.all(), '')
  }
  const leaver = await connectTo(t, one.address)
  leaver.end(V2.subarray(0, 14))
  t.equal((await nextFailure(t, one)).code, 'client-closed')
  for (const bytes of ['', V1.subarray(0, 14)]) {
    const accepted = once(one.events, 'socket')
    const peer = await connectTo(t, one.address)
    const [socket] = (await accepted) as [Socket]
    const arrived = bytes.length > 0 ? once(socket, 'data') : null
    peer.write(bytes)
    await arrived
    peer.reset()
    t.equal((await nextFailure(t, one)).code, 'client-reset')
  }
})

// --- giving up

t.test(
  'a signal ends the wait for a PROXY header and for a handshake, and destroys the socket',
  async (t) => {
    const hello = Buffer.from('16030100', 'hex')
    for (const [options, bytes] of [
      [trusted, Buffer.alloc(0)],
      [trusted, V2.subarray(0, 20)],
      [{ tls }, Buffer.alloc(0)],
      [{ tls }, hello],
      [{ ...trusted, tls }, Buffer.concat([V1, hello])],
    ] as const) {
      const controller = new AbortController()
      const one = await accepting(t, options, controller.signal)
      const accepted = once(one.events, 'socket')
      const peer = await connectTo(t, one.address)
      peer.write(bytes)
      await accepted
      const reason = new HeadraceError('head-timeout')
      controller.abort(reason)
      t.equal(await nextFailure(t, one), reason)
      t.same(getEventListeners(controller.signal, 'abort'), [])
      await peer.all()
    }
  },
)

t.test('with a signal that was aborted before, nothing is waited for', async (t) => {
  const reason = new HeadraceError('draining')
  for (const options of [trusted, { tls }]) {
    const one = await accepting(t, options, AbortSignal.abort(reason))
    const peer = await connectTo(t, one.address)
    t.equal(await nextFailure(t, one), reason)
    await peer.all()
  }
})
