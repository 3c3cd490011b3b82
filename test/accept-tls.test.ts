// TLS on real sockets: handshakes, SNI, certificates that change, ends and resets below TLS.

import { execFileSync } from 'node:child_process'
import { X509Certificate } from 'node:crypto'
import { getEventListeners, once } from 'node:events'
import { unwatchFile, watchFile } from 'node:fs'
import { rename, symlink, unlink, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import type { ConnectionOptions, TLSSocket } from 'node:tls'
import { connect as connectTls } from 'node:tls'
import t, { type Test } from 'tap'
import { loadCertificates } from '../src/accept/certificates.ts'
import type { HeadraceError } from '../src/errors.ts'
import type { Accepting } from './support/accepting.ts'
import { accepting, failureOf, greet, Heard, nextClient, nextFailure, relayTo } from './support/accepting.ts'
import type { Pem } from './support/certificates.ts'
import { createAuthority } from './support/certificates.ts'
import { connectTo, placeOf } from './support/peer.ts'

const authority = await createAuthority()
const site = await authority.issue({ names: ['site.test'] })
const tls = { pairs: [site] }

/** The names of the certificate that a client gets that asks for `servername`; '' asks for none. */
async function namesFor(t: Test, one: Accepting, servername: string): Promise<string | undefined> {
  const { socket } = await connectTo(t, one.address, { servername })
  const client = await nextClient(one)
  t.equal(client.tls?.servername, servername)
  client.transport.destroy()
  return (socket as TLSSocket).getPeerX509Certificate()?.subjectAltName
}

t.test('the certificate is chosen by SNI: exact names, then wildcards, then the first pair', async (t) => {
  const pairs = await Promise.all(
    [
      ['first.test'],
      ['*.example.test'],
      ['www.example.test', 'example.test'],
      ['www.example.test', 'fourth.test'],
    ].map((names) => authority.issue({ names })),
  )
  const one = await accepting(t, { tls: { pairs } })
  const cases = {
    'first.test': 'DNS:first.test',
    'a.example.test': 'DNS:*.example.test',
    'A.Example.TEST': 'DNS:*.example.test',
    'www.example.test': 'DNS:www.example.test, DNS:example.test',
    'WWW.example.test': 'DNS:www.example.test, DNS:example.test',
    'example.test': 'DNS:www.example.test, DNS:example.test',
    'fourth.test': 'DNS:www.example.test, DNS:fourth.test',
    'a.b.example.test': 'DNS:first.test',
    'unknown.test': 'DNS:first.test',
    test: 'DNS:first.test',
    '': 'DNS:first.test',
  }
  for (const [servername, names] of Object.entries(cases)) {
    t.equal(await namesFor(t, one, servername), names, `asked for ${JSON.stringify(servername)}`)
  }
})

t.test('TLS 1.1 is refused, TLS 1.2 and 1.3 are accepted', async (t) => {
  const one = await accepting(t, { tls })
  const old = await connectTo(t, one.address)
  old.write(clientHelloOfTls11())
  const failure = await nextFailure(t, one)
  t.match(failure, { code: 'tls-handshake-failed', detail: 'unsupported protocol' })
  // Alert 70, protocol_version (RFC 8446 section 6.2).
  t.match((await old.all()).slice(-7), /^\x15\x03.\x00\x02\x02\x46$/)
  for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
    const peer = await connectTo(t, one.address, { minVersion: version, maxVersion: version })
    const client = await nextClient(one)
    t.equal(client.tls?.protocol, version)
    await greet(t, client, peer)
  }
})

t.test('a listener with minVersion TLSv1.3 refuses TLS 1.2', async (t) => {
  const one = await accepting(t, { tls: { ...tls, minVersion: 'TLSv1.3' } })
  await t.rejects(connectTo(t, one.address, { maxVersion: 'TLSv1.2' }), { code: /PROTOCOL_VERSION/ })
  t.match(await nextFailure(t, one), { code: 'tls-handshake-failed', detail: 'unsupported protocol' })
})

t.test('ALPN: http/1.1 or nothing, and never h2', async (t) => {
  const one = await accepting(t, { tls })
  for (const [offered, chosen] of [
    [['h2', 'http/1.1'], 'http/1.1'],
    [['http/1.1'], 'http/1.1'],
    [undefined, false],
  ] as const) {
    const options: ConnectionOptions = offered === undefined ? {} : { ALPNProtocols: [...offered] }
    const peer = await connectTo(t, one.address, options)
    t.equal((peer.socket as TLSSocket).alpnProtocol, chosen)
    await greet(t, await nextClient(one), peer)
  }
  const h2 = connectTo(t, one.address, { ALPNProtocols: ['h2'] })
  await t.rejects(h2, { code: /NO_APPLICATION_PROTOCOL/ })
  t.match(await nextFailure(t, one), { code: 'tls-handshake-failed', detail: 'no application protocol' })
})

t.test('plain HTTP, garbage, an end and a reset in place of a handshake', async (t) => {
  const one = await accepting(t, { tls })
  const http = await connectTo(t, one.address)
  http.write('GET / HTTP/1.1\r\nHost: site.test\r\n\r\n')
  t.match(await nextFailure(t, one), { code: 'tls-handshake-failed', detail: 'http request' })
  await http.all()

  const garbage = await connectTo(t, one.address)
  garbage.write('\0'.repeat(100))
  t.match(await nextFailure(t, one), { code: 'tls-handshake-failed', detail: /version|packet|record/ })
  await garbage.all()

  for (const bytes of ['', clientHelloOfTls11().subarray(0, 20)]) {
    const leaver = await connectTo(t, one.address)
    leaver.end(bytes)
    t.equal((await nextFailure(t, one)).code, 'client-closed')
    await leaver.all()

    const accepted = once(one.events, 'socket')
    const resetter = await connectTo(t, one.address)
    resetter.write(bytes)
    await accepted
    resetter.reset()
    t.match((await nextFailure(t, one)).code, codeOfReset(bytes.length > 0))
  }
  const peer = await connectTo(t, one.address, {})
  await greet(t, await nextClient(one), peer)
  t.same(one.troubles, [])
})

t.test('a record that is wrong right behind the handshake disturbs nobody else', async (t) => {
  const one = await accepting(t, { tls })
  const bystander = await connectTo(t, one.address, {})
  const witness = await nextClient(one)
  for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
    for (const wrong of ['\x17\x03\x03\x00\x05wrong', 'no record at all', '\x15\x03\x03\x00\x02\x02\x28']) {
      // In the same segment as Finished, which is in the client's second flight.
      const more = Buffer.from(wrong, 'latin1')
      const behind = (chunk: Buffer, at: number) => (at === 1 ? Buffer.concat([chunk, more]) : chunk)
      const place = placeOf(await relayTo(t, one.address, behind))
      const secured = connectTls({ ...place, rejectUnauthorized: false, maxVersion })
      t.teardown(() => secured.destroy())
      const told = new Promise<NodeJS.ErrnoException>((resolve) => secured.on('error', resolve))
      const { client } = await one.next()
      t.ok(client, 'the handshake itself was right')
      t.match(await told, { code: /^ERR_SSL_/ }, `the client is told: ${JSON.stringify(wrong)}`)
      client?.transport.destroy()
    }
  }
  await greet(t, witness, bystander)
})

t.test('half-close over TLS works both ways', async (t) => {
  const one = await accepting(t, { tls })
  for (const first of ['client', 'edge'] as const) {
    const peer = await connectTo(t, one.address, {})
    const { transport } = await nextClient(one)
    const heard = new Heard(transport)
    if (first === 'client') {
      peer.end('question')
      t.equal(await heard.all(), 'question')
      transport.write('answer')
      transport.end()
      t.equal(await peer.all(), 'answer')
    } else {
      transport.write('answer')
      transport.end()
      t.equal(await peer.all(), 'answer')
      peer.end('question')
      t.equal(await heard.all(), 'question')
    }
    t.equal(await heard.closes, '')
    t.equal(await peer.closed, '')
  }
})

t.test('a reset goes through TLS in both directions', async (t) => {
  for (const options of [{}, { tls }]) {
    const one = await accepting(t, options)
    const victim = await connectTo(t, one.address, options.tls && {})
    const { transport } = await nextClient(one)
    const heard = new Heard(transport)
    victim.write('first')
    await heard.until(5)
    transport.reset()
    t.equal(await victim.closed, 'ECONNRESET', 'the client sees a reset')
    await heard.closes

    const raw = connect({ ...placeOf(one.address), allowHalfOpen: true })
    await once(raw, 'connect')
    const secured = options.tls && connectTls({ socket: raw, rejectUnauthorized: false })
    secured?.on('error', () => {})
    const client = await nextClient(one)
    const hearing = new Heard(client.transport)
    ;(secured ?? raw).write('first')
    await hearing.until(5)
    raw.resetAndDestroy()
    t.equal(await hearing.closes, 'ECONNRESET', 'the edge sees a reset')
  }
})

t.test('a reset in the moment when the handshake is done crashes nothing', async (t) => {
  const one = await accepting(t, { tls })
  for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
    const secured = connectTls({ ...placeOf(one.address), rejectUnauthorized: false, maxVersion })
    const closed = new Promise((resolve) => secured.on('close', resolve))
    secured.on('error', () => {})
    const { transport } = await nextClient(one)
    transport.attach({ data() {}, end() {}, drain() {}, closed() {} })
    transport.reset()
    await closed
    t.ok(transport.isClosed)
  }
})

t.test('after the handshake nothing of ours stays on the connection but its transport', async (t) => {
  const { signal } = new AbortController()
  const header = Buffer.from('PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n')
  const one = await accepting(t, { tls, proxyProtocol: { from: ['127.0.0.1'] } }, signal)
  const front = (chunk: Buffer, at: number) => (at === 0 ? Buffer.concat([header, chunk]) : chunk)
  const peer = await connectTo(t, await relayTo(t, one.address, front), {})
  const { client, socket } = await one.next()
  t.same(getEventListeners(signal, 'abort'), [])
  t.equal(socket.listenerCount('data'), 0)
  t.equal(socket.listenerCount('end'), 1, "net's own")
  const released = client?.transport.release()
  for (const event of ['data', 'readable', 'drain']) t.equal(released?.socket.listenerCount(event), 0, event)
  released?.retake()
  if (client !== null) await greet(t, client, peer)
})

// --- certificates

t.test('a certificate that is replaced is served to new clients, and open connections live on', async (t) => {
  const folder = t.testdir({ '1': {}, '2': {}, '3': {} })
  const paths = { certificate: join(folder, 'now/cert.pem'), key: join(folder, 'now/key.pem') }
  const put = async (version: string, pem: Pem) => {
    await writeFile(join(folder, version, 'cert.pem'), pem.certificate)
    await writeFile(join(folder, version, 'key.pem'), pem.key)
  }
  await put('1', await authority.issue({ names: ['one.test'] }))
  await symlink('1', join(folder, 'now'))
  const one = await accepting(t, { tls: { pairs: [site, paths], watchIntervalMs: 20 } })
  t.equal(await namesFor(t, one, 'one.test'), 'DNS:one.test')
  const peer = await connectTo(t, one.address, { servername: 'one.test' })
  const client = await nextClient(one)

  // Kubernetes' way: a new folder, and a symbolic link that is renamed over the old one.
  await put('2', await authority.issue({ names: ['two.test'] }))
  // Each file has its own watcher: both must have seen the swap, or one would still owe the event of it.
  const swapped = Promise.all([changeOf(t, paths.certificate), changeOf(t, paths.key)])
  await symlink('2', join(folder, 'next'))
  await rename(join(folder, 'next'), join(folder, 'now'))
  await swapped
  t.equal(await namesFor(t, one, 'two.test'), 'DNS:two.test')
  t.equal(await namesFor(t, one, 'one.test'), 'DNS:site.test', 'its old name is not known any more')
  await greet(t, client, peer)
  t.same(one.troubles, [])

  // A new certificate without its key is told, and changes nothing, until the key comes, too.
  const three = await authority.issue({ names: ['three.test'] })
  const halfWritten = changeOf(t, paths.certificate)
  await writeFile(join(folder, '3/cert.pem'), three.certificate)
  await rename(join(folder, '3/cert.pem'), paths.certificate)
  await halfWritten
  t.match(one.troubles.splice(0), [
    { code: 'config-invalid', detail: `${paths.key} is not the key of ${paths.certificate}` },
  ])
  t.equal(await namesFor(t, one, 'two.test'), 'DNS:two.test')
  const written = changeOf(t, paths.key)
  await writeFile(join(folder, '3/key.pem'), three.key)
  await rename(join(folder, '3/key.pem'), paths.key)
  await written
  t.equal(await namesFor(t, one, 'three.test'), 'DNS:three.test')

  const removed = changeOf(t, paths.certificate)
  await unlink(paths.certificate)
  await removed
  t.match(one.troubles.splice(0), [
    { code: 'config-invalid', detail: `${paths.certificate} can't be read: ENOENT` },
  ])
  t.equal(await namesFor(t, one, 'three.test'), 'DNS:three.test')

  const unwatched = changeOf(t, paths.certificate)
  await one.listener.close()
  await writeFile(paths.certificate, 'not a certificate')
  await unwatched
  t.same(one.troubles, [], 'a closed listener watches no files')
})

t.test('the default certificate is replaced for clients without SNI, too', async (t) => {
  const folder = t.testdir({})
  const paths = { certificate: join(folder, 'both.pem'), key: join(folder, 'both.pem') }
  const put = async (names: string[]) => {
    const { certificate, key } = await authority.issue({ names })
    await writeFile(join(folder, 'new.pem'), `${key}\n${certificate}\n${authority.certificate}`)
    await rename(join(folder, 'new.pem'), paths.key)
  }
  await put(['one.test'])
  const one = await accepting(t, { tls: { pairs: [paths], watchIntervalMs: 20 } })
  t.equal(await namesFor(t, one, ''), 'DNS:one.test')
  const replaced = changeOf(t, paths.key)
  await put(['two.test'])
  await replaced
  t.equal(await namesFor(t, one, ''), 'DNS:two.test')
  t.equal(await namesFor(t, one, 'unknown.test'), 'DNS:two.test')
})

t.test('a pair that can not be used is refused, by the name of the file', async (t) => {
  const other = await authority.issue({ names: ['other.test'] })
  const folder = t.testdir({
    'cert.pem': site.certificate,
    'key.pem': site.key,
    'other.pem': other.key,
    'garbage.pem': '-----BEGIN GARBAGE-----\n',
  })
  const path = (name: string) => join(folder, name)
  const cases: readonly (readonly [string, string, string])[] = [
    [path('missing.pem'), path('key.pem'), `${path('missing.pem')} can't be read: ENOENT`],
    [path('cert.pem'), path('missing.pem'), `${path('missing.pem')} can't be read: ENOENT`],
    [folder, path('key.pem'), `${folder} can't be read: EISDIR`],
    [path('garbage.pem'), path('key.pem'), `${path('garbage.pem')} can't be used`],
    [path('cert.pem'), path('garbage.pem'), `${path('garbage.pem')} can't be used`],
    [path('cert.pem'), path('other.pem'), `${path('other.pem')} is not the key of ${path('cert.pem')}`],
    [site.certificate, other.key, 'the key given as text is not the key of the certificate given as text'],
  ]
  for (const [certificate, key, detail] of cases) {
    const error = await failureOf(accepting(t, { tls: { pairs: [site, { certificate, key }] } }))
    t.match(error, { code: 'config-invalid', detail })
    t.notMatch(error.message, /PRIVATE/)
  }
  t.equal((await failureOf(accepting(t, { tls: { pairs: [] } }))).code, 'config-invalid')
})

t.test('an expired certificate is told, and served', async (t) => {
  const hour = 3_600_000
  const [notBefore, notAfter] = [new Date(Date.now() - 2 * hour), new Date(Date.now() - hour)]
  const expired = await authority.issue({ names: ['late.test'], notBefore, notAfter })
  const one = await accepting(t, { tls: { pairs: [expired] } })
  t.match(one.troubles, [
    { code: 'config-invalid', detail: /^the certificate given as text has expired on / },
  ])
  t.equal(await namesFor(t, one, 'late.test'), 'DNS:late.test')
})

t.test('a certificate without alternative names is found by its common name', async (t) => {
  const key = execFileSync(
    'openssl',
    ['genpkey', '-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256'],
    {
      encoding: 'utf8',
    },
  )
  const file = join(t.testdir({ 'key.pem': key }), 'key.pem')
  const request = ['req', '-x509', '-new', '-key', file, '-subj', '/O=Old/CN=Old.test', '-days', '2']
  const certificate = execFileSync('openssl', request, { encoding: 'utf8' })
  t.equal(new X509Certificate(certificate).subjectAltName, undefined)
  const troubles: HeadraceError[] = []
  const certificates = loadCertificates({ pairs: [site, { certificate, key }] }, (one) => troubles.push(one))
  t.not(certificates.contextFor('old.test'), certificates.contextFor('site.test'))
  t.equal(certificates.contextFor('unknown.test'), certificates.contextFor('site.test'))
  t.same(troubles, [])
})

// --- bytes and files

/** RFC 4346 section 7.4.1.2, by hand: today's clients don't offer TLS 1.1 any more. */
function clientHelloOfTls11(): Buffer {
  const version = Buffer.from([3, 2])
  const suites = Buffer.from([0, 4, 0xc0, 0x13, 0xc0, 0x14])
  const body = Buffer.concat([version, Buffer.alloc(32, 7), Buffer.of(0), suites, Buffer.from([1, 0])])
  const handshake = Buffer.concat([Buffer.from([1, 0, 0, body.length]), body])
  return Buffer.concat([Buffer.of(22), version, Buffer.from([0, handshake.length]), handshake])
}

/** Up to Node 22, libuv may take a RST right behind bytes for an end. */
function codeOfReset(isBehindBytes: boolean): RegExp {
  return isBehindBytes && Number.parseInt(process.versions.node, 10) < 24
    ? /^client-(reset|closed)$/
    : /^client-reset$/
}

/**
 * Resolves when a change of the file was seen. All who watch a file in one process share one watcher, which calls them in
 * their order: whoever watched before has been told by then.
 */
function changeOf(t: Test, file: string): Promise<void> {
  return new Promise((resolve) => {
    const seen = () => {
      unwatchFile(file, seen)
      resolve()
    }
    watchFile(file, { interval: 20, persistent: true }, seen)
    t.teardown(() => unwatchFile(file, seen))
  })
}
