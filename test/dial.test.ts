// The dial on real sockets: which address, how long, and whether the other side is who it should be.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { createServer as createTlsServer } from 'node:tls'
import t, { type Test } from 'tap'
import type { Backend, BackendOptions } from '../src/dial/backend.ts'
import { createBackend, hangUp } from '../src/dial/backend.ts'
import type { Dialled } from '../src/dial/connect.ts'
import { dial as dialBy } from '../src/dial/connect.ts'
import type { Lookup } from '../src/dial/resolve.ts'
import { HeadraceError } from '../src/errors.ts'
import { createLedger } from '../src/gate/ledger.ts'
import { loop as descriptorLoop } from '../src/linux/loop.ts'
import { permitsFor } from '../src/service/permits.ts'
import { backendOptions } from './support/backend.ts'
import { blackHole } from './support/black-hole.ts'
import { createAuthority, type Pem, selfSigned, testAuthority } from './support/certificates.ts'
import { startOrigin } from './support/origin.ts'

const NEVER = new AbortController().signal
const DAY_MS = 86_400_000

const ledger = createLedger({ redis: undefined, onCrossing() {}, onTrouble() {} })
let ids = 0
const newId = () => {
  ids += 1
  return `id-${ids}`
}

function backendTo(address: string, options: Partial<BackendOptions> = {}): Backend {
  // `HOST:PORT`; a host with colons is taken as it is.
  const at = address.lastIndexOf(':')
  const place = { host: address.slice(0, at), port: Number(address.slice(at + 1)) }
  const all = backendOptions({ address: place, ...options })
  return createBackend(all, permitsFor(newId(), all, { ledger, newId }))
}

/** A resolver that gives these addresses for every name. */
function names(...addresses: string[]): Lookup {
  return async () => addresses.map((address) => ({ address, family: address.includes(':') ? 6 : 4 }))
}

async function failureOf(promise: Promise<Dialled>): Promise<{ code: string; detail: string }> {
  try {
    const { transport } = await promise
    transport.destroy()
    return { code: 'connected', detail: '' }
  } catch (error) {
    if (!(error instanceof HeadraceError)) throw error
    return { code: error.code, detail: error.detail }
  }
}

for (const loop of [null, descriptorLoop()]) {
  const dial = (backend: Backend, signal: AbortSignal, lookup?: Lookup) =>
    dialBy(backend, signal, { loop, ...(lookup && { lookup }) })
  t.test(loop === null ? 'dialled by node' : 'dialled by descriptors', async (t) => {
    t.test('all addresses of a name are tried: a refused one leads to the next at once', async (t) => {
      const origin = await startOrigin(t, { host: '127.0.0.3' })
      const port = origin.address.split(':')[1]
      const { transport, address } = await dial(
        backendTo(`name.test:${port}`),
        NEVER,
        names('127.0.0.1', '127.0.0.2', '127.0.0.3'),
      )
      t.equal(address, `127.0.0.3:${port}`)
      transport.destroy()
    })

    t.test('an address that does not answer leads to the next after a moment, and loses', async (t) => {
      const port = await blackHole(t, '127.0.0.1')
      const server = createServer()
      server.listen(port, '127.0.0.2')
      await once(server, 'listening')
      t.teardown(() => server.close())
      const startedAt = performance.now()
      const { transport, address } = await dial(
        backendTo(`name.test:${port}`),
        NEVER,
        names('127.0.0.1', '127.0.0.2'),
      )
      t.equal(address, `127.0.0.2:${port}`)
      t.ok(performance.now() - startedAt < 900, 'well before the time was over')
      transport.destroy()
      const late = await failureOf(
        dial(backendTo(`name.test:${port}`, { connectTimeoutMs: 200 }), NEVER, names('127.0.0.1')),
      )
      t.equal(late.code, 'dial-timeout')
    })

    t.test('what went wrong is said precisely', async (t) => {
      t.same(await failureOf(dial(backendTo('127.0.0.1:1'), NEVER)), {
        code: 'dial-refused',
        detail: 'ECONNREFUSED 127.0.0.1:1',
      })
      const several = await failureOf(dial(backendTo('name.test:1'), NEVER, names('127.0.0.1', '127.0.0.2')))
      t.same(several, { code: 'dial-refused', detail: 'ECONNREFUSED 127.0.0.1:1, ECONNREFUSED 127.0.0.2:1' })
      const unknown: Lookup = () => Promise.reject(Object.assign(new Error('no'), { code: 'ENOTFOUND' }))
      t.same(await failureOf(dial(backendTo('name.test:1'), NEVER, unknown)), {
        code: 'name-unresolved',
        detail: 'ENOTFOUND name.test',
      })
      t.equal((await failureOf(dial(backendTo('name.test:1'), NEVER, names()))).code, 'name-unresolved')
      const gone = await failureOf(dial(backendTo('x:1', { address: { path: '/nowhere/at.sock' } }), NEVER))
      t.same(gone, { code: 'dial-refused', detail: 'ENOENT /nowhere/at.sock' })
      const foreign = await failureOf(dial(backendTo('127.0.0.1:1', { localAddress: ['192.0.2.1'] }), NEVER))
      t.same(foreign, { code: 'ports-exhausted', detail: 'EADDRNOTAVAIL 127.0.0.1:1' })
    })

    t.test(
      'link-local and metadata addresses are refused, by literal and by name, unless they are allowed',
      async (t) => {
        for (const address of ['169.254.169.254', 'fe80::1', '::ffff:169.254.1.1', 'fd00:ec2::254']) {
          t.equal(
            (await failureOf(dial(backendTo('name.test:80'), NEVER, names(address)))).code,
            'address-forbidden',
            address,
          )
          t.equal(
            (await failureOf(dial(backendTo(`${address}:80`), NEVER))).code,
            'address-forbidden',
            address,
          )
        }
        const origin = await startOrigin(t)
        const mixed = await dial(
          backendTo(`name.test:${origin.address.split(':')[1]}`),
          NEVER,
          names('169.254.169.254', '127.0.0.1'),
        )
        t.equal(mixed.address, origin.address, 'the other addresses of the name are good')
        mixed.transport.destroy()
      },
    )

    t.test('source addresses are used in turn', async (t) => {
      const origin = await startOrigin(t)
      const backend = backendTo(origin.address, { localAddress: ['127.0.0.5', '::1', '127.0.0.6'] })
      const seen: (string | undefined)[] = []
      for (let count = 0; count < 4; count += 1) {
        const { transport } = await dial(backend, NEVER)
        seen.push((await origin.next()).socket.remoteAddress)
        transport.destroy()
      }
      t.same(seen, ['127.0.0.5', '127.0.0.6', '127.0.0.5', '127.0.0.6'])
    })

    t.test('permits: given back when a dial fails, and when a connection is over', async (t) => {
      const origin = await startOrigin(t)
      const backend = backendTo(origin.address, { maxConnections: 1 })
      const { transport } = await dial(backend, NEVER)
      t.equal((await failureOf(dial(backend, NEVER))).code, 'backend-full')
      t.equal(backend.connections, 1)
      transport.destroy()
      hangUp(backend)
      const again = await dial(backend, NEVER)
      again.transport.destroy()
      hangUp(backend)
      const failing = backendTo('127.0.0.1:1', { maxConnections: 1 })
      t.equal((await failureOf(dial(failing, NEVER))).code, 'dial-refused')
      t.equal(failing.connections, 0)
      t.equal(ledger.size, 0)
    })

    t.test('an abort ends a dial at once, in each of its steps', async (t) => {
      const abort = (ms: number) => {
        const controller = new AbortController()
        setTimeout(() => controller.abort(new HeadraceError('client-closed')), ms)
        return controller.signal
      }
      t.equal(
        (await failureOf(dial(backendTo('name.test:1'), abort(10), () => new Promise(() => {})))).code,
        'client-closed',
      )
      const port = await blackHole(t, '127.0.0.1')
      t.equal((await failureOf(dial(backendTo(`127.0.0.1:${port}`), abort(10)))).code, 'client-closed')
      const silent = await startOrigin(t)
      const shaking = failureOf(dial(backendTo(silent.address, { tls: true }), abort(50)))
      const peer = await silent.next()
      t.equal((await shaking).code, 'client-closed')
      await Promise.race([peer.closed, peer.ended])
      t.equal(
        (await failureOf(dial(backendTo(silent.address), AbortSignal.abort(new HeadraceError('draining')))))
          .code,
        'draining',
      )
    })

    async function startSecure(t: Test, pair: Pem, options: { ca?: string } = {}) {
      const seen: { servername: string | false; subject: string | undefined }[] = []
      const server = createTlsServer(
        {
          cert: pair.certificate,
          key: pair.key,
          ...(options.ca ? { ca: options.ca, requestCert: true, rejectUnauthorized: false } : {}),
        },
        (socket) => {
          socket.on('error', () => {})
          const subject = socket.getPeerCertificate().subject?.CN
          seen.push({
            servername: (socket as typeof socket & { servername: string | false }).servername,
            subject: subject?.toString(),
          })
        },
      )
      server.on('tlsClientError', () => {})
      server.listen(0, '127.0.0.1')
      await once(server, 'listening')
      t.teardown(() => server.close())
      return { address: `127.0.0.1:${(server.address() as { port: number }).port}`, seen, server }
    }

    t.test('a certificate must be of a known authority, in time, and for the name', async (t) => {
      const authority = await testAuthority()
      const tls = { tls: true, certHostname: 'origin.test' }
      const reject = async (pair: Pem, options: Partial<BackendOptions> = tls) => {
        const { address } = await startSecure(t, pair)
        const { code, detail } = await failureOf(dial(backendTo(address, options), NEVER))
        t.equal(code, 'certificate-rejected')
        return detail.replace(address, 'ADDRESS')
      }
      const good = await startSecure(t, await authority.issue({ names: ['origin.test', 'other.test'] }))
      const { transport } = await dial(backendTo(good.address, tls), NEVER)
      transport.destroy()
      t.equal(await reject(await selfSigned({ names: ['origin.test'] })), 'self-signed certificate, ADDRESS')
      const stranger = await createAuthority('stranger')
      t.match(await reject(await stranger.issue({ names: ['origin.test'] })), /^unable to verify|authority/)
      const past = { notBefore: new Date(Date.now() - 9 * DAY_MS), notAfter: new Date(Date.now() - DAY_MS) }
      t.equal(
        await reject(await authority.issue({ names: ['origin.test'], ...past })),
        'certificate has expired, ADDRESS',
      )
      const future = { notBefore: new Date(Date.now() + DAY_MS), notAfter: new Date(Date.now() + 9 * DAY_MS) }
      t.equal(
        await reject(await authority.issue({ names: ['origin.test'], ...future })),
        'certificate is not yet valid, ADDRESS',
      )
      const wrong = await authority.issue({ names: ['a.test', 'b.test'] })
      t.equal(
        await reject(wrong),
        'hostname mismatch: certificate is for a.test, b.test, not origin.test, ADDRESS',
      )
      t.match(await reject(wrong, { tls: true }), /not 127\.0\.0\.1/, "the address's own name is the default")
    })

    t.test(
      'SNI and the name of the certificate are set apart; overrideHost is the default of both',
      async (t) => {
        const authority = await testAuthority()
        const { address, seen, server } = await startSecure(
          t,
          await authority.issue({ names: ['origin.test', 'host.test', '127.0.0.1'] }),
        )
        const options = [
          { certHostname: 'origin.test', sniHostname: 'sni.test' },
          { certHostname: 'origin.test' },
          { overrideHost: 'host.test:8443' },
          {},
        ]
        for (const one of options) {
          const shaken = once(server, 'secureConnection')
          const { transport } = await dial(backendTo(address, { tls: true, ...one }), NEVER)
          await shaken
          transport.destroy()
        }
        t.same(
          seen.map(({ servername }) => servername),
          ['sni.test', false, 'host.test', false],
        )
      },
    )

    t.test('a client certificate is shown to an origin that asks for one', async (t) => {
      const authority = await testAuthority()
      const mine = await authority.issue({ names: ['edge.test'] })
      const { address, seen, server } = await startSecure(
        t,
        await authority.issue({ names: ['origin.test'] }),
        {
          ca: authority.certificate,
        },
      )
      const { transport } = await dial(
        backendTo(address, { tls: true, certHostname: 'origin.test', clientCertificate: mine }),
        NEVER,
      )
      if (seen.length === 0) await once(server, 'secureConnection')
      t.equal(seen[0]?.subject, 'edge.test')
      transport.destroy()
      t.throws(
        () =>
          backendTo(address, {
            tls: true,
            clientCertificate: { certificate: '/nowhere.pem', key: mine.key },
          }),
        {
          code: 'config-invalid',
          message: /ENOENT/,
        },
      )
    })

    t.test('an origin that is no TLS server, or hangs up in the handshake', async (t) => {
      const plain = await startOrigin(t, { answer: (peer) => peer.end('HTTP/1.1 400 Bad Request\r\n\r\n') })
      t.equal(
        (await failureOf(dial(backendTo(plain.address, { tls: true }), NEVER))).code,
        'origin-tls-failed',
      )
      const rude = await startOrigin(t, { answer: (peer) => void peer.until(1).then(() => peer.reset()) })
      t.equal((await failureOf(dial(backendTo(rude.address, { tls: true }), NEVER))).code, 'dial-reset')
    })

    t.test('nothing of the dial stays behind on a connection', async (t) => {
      const authority = await testAuthority()
      const { address } = await startSecure(t, await authority.issue({ names: ['origin.test'] }))
      const origin = await startOrigin(t)
      for (const backend of [
        backendTo(origin.address),
        backendTo(address, { tls: true, certHostname: 'origin.test' }),
      ]) {
        const { transport } = await dial(backend, NEVER)
        const { socket } = transport.release()
        for (const event of ['error', 'connect', 'secureConnect'])
          t.equal(socket.listenerCount(event), 0, event)
        socket.on('error', () => {})
        socket.destroy()
      }
    })

    t.test('NODE_TLS_REJECT_UNAUTHORIZED=0 does not weaken it', async (t) => {
      const { address } = await startSecure(t, await selfSigned({ names: ['origin.test'] }))
      const script = `
    const { createBackend } = await import('${new URL('../src/dial/backend.js', import.meta.url)}')
    const { dial } = await import('${new URL('../src/dial/connect.js', import.meta.url)}')
    const [host, port] = '${address}'.split(':')
    const backend = createBackend({ name: 'a', address: { host, port: Number(port) }, tls: true, certHostname: 'origin.test',
      connectTimeoutMs: 5000, keepaliveMs: 1000, localAddress: [], allowLinkLocal: false })
    await dial(backend, new AbortController().signal).then(() => console.log('connected'), ({ detail }) => console.log(detail))
    process.exit()`
      const env = { ...process.env, NODE_TLS_REJECT_UNAUTHORIZED: '0', NODE_EXTRA_CA_CERTS: '' }
      const child = spawn(process.execPath, ['--no-warnings', '--input-type=module', '-e', script], {
        env,
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      const [answer] = (await once(child.stdout, 'data')) as [Buffer]
      t.match(String(answer), /^self-signed certificate, /)
    })
  })
}
