// Directors and the health of backends, room by room: orders and shares, what ejects and what pardons, and single checks on
// real sockets. Whole connections are in way/directors.test.ts.

import { once } from 'node:events'
import { createServer } from 'node:net'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import type { Backend, BackendOptions } from '../src/dial/backend.ts'
import { createBackend } from '../src/dial/backend.ts'
import type { Director, DirectorOptions, Policy } from '../src/dial/director.ts'
import { choose, createDirector } from '../src/dial/director.ts'
import type { CheckOptions, EjectionOptions } from '../src/dial/health.ts'
import { Health } from '../src/dial/health.ts'
import type { ErrorCode } from '../src/errors.ts'
import { HeadraceError } from '../src/errors.ts'
import { checkBackend } from '../src/health/check.ts'
import { backendOptions } from './support/backend.ts'
import { blackHole } from './support/black-hole.ts'
import { selfSigned, testAuthority } from './support/certificates.ts'
import { startOrigin } from './support/origin.ts'
import type { Peer } from './support/peer.ts'
import { placeOf } from './support/peer.ts'

const EJECTION: EjectionOptions = { failures: 3, forMs: 10_000, maxMs: 35_000, answers: true }
const CHECK: CheckOptions = {
  kind: 'tcp',
  path: '/',
  statuses: [200],
  intervalMs: 1_000,
  timeoutMs: 5_000,
  rise: 2,
  fall: 3,
}
const REFUSED = new HeadraceError('dial-refused', 'ECONNREFUSED 127.0.0.1:1')

function backend(name: string, options: Partial<BackendOptions> = {}): Backend {
  return createBackend(backendOptions({ name, ejection: EJECTION, ...options }))
}

/** `members`: names, or names with weights; `pool` are the backends by name. */
function director(
  policy: Policy,
  members: readonly (string | readonly [string, number])[],
  options: Partial<DirectorOptions> = {},
): { pool: Map<string, Backend>; director: Director; order: (key?: string, kept?: string) => string[] } {
  const list = members.map((one) => (typeof one === 'string' ? ([one, 1] as const) : one))
  const pool = new Map(list.map(([name]) => [name, backend(name, { check: CHECK })]))
  const made = createDirector(
    {
      name: 'pool',
      members: list.map(([name, weight]) => ({ backend: name, weight })),
      policy,
      hashBy: { of: 'client' },
      attempts: undefined,
      timeoutMs: 5_000,
      sticky: undefined,
      ...options,
    },
    pool,
  )
  const order = (key?: string, kept?: string) =>
    choose(made, key ?? null, pool.get(kept ?? '') ?? null).backends.map((one) => one.options.name)
  return { pool, director: made, order }
}

function shares(names: readonly string[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const name of names) counts[name] = (counts[name] ?? 0) + 1 / names.length
  return counts
}

function near(t: Test, found: number | undefined, wanted: number, tolerance: number, what: string): void {
  t.ok(Math.abs((found ?? 0) - wanted) <= tolerance, `${what}: ${found} for ${wanted}`)
}

function eject(one: Backend | undefined): void {
  for (let count = 0; count < EJECTION.failures; count += 1) one?.health.failed(REFUSED)
}

function names(count: number): string[] {
  return Array.from({ length: count }, (_, at) => `backend-${at}`)
}

t.test('random: each first in proportion to its weight, and so among those that stand by', (t) => {
  const { order } = director('random', [
    ['a', 1],
    ['b', 2],
    ['c', 5],
  ])
  const orders = Array.from({ length: 20_000 }, () => order())
  for (const one of orders.slice(0, 100)) t.strictSame([...one].sort(), ['a', 'b', 'c'])
  // Five standard deviations of 20,000 draws are 0.018 at most.
  const first = shares(orders.map(([name]) => name as string))
  near(t, first.a, 1 / 8, 0.018, 'a')
  near(t, first.b, 2 / 8, 0.018, 'b')
  near(t, first.c, 5 / 8, 0.018, 'c')
  const second = shares(orders.filter(([name]) => name === 'c').map(([, name]) => name as string))
  near(t, second.a, 1 / 3, 0.025, 'a behind c')
  near(t, second.b, 2 / 3, 0.025, 'b behind c')
  t.end()
})

t.test('least connections: open ones relative to the weight, ties at random', (t) => {
  const { pool, order } = director('leastConnections', [
    ['a', 3],
    ['b', 1],
  ])
  for (let count = 0; count < 800; count += 1) {
    const one = pool.get(order()[0] ?? '')
    if (one !== undefined) one.connections += 1
  }
  t.equal(pool.get('a')?.connections, 600)
  t.equal(pool.get('b')?.connections, 200)

  const even = director('leastConnections', ['a', 'b', 'c'])
  const first = shares(Array.from({ length: 6_000 }, () => even.order()[0] as string))
  for (const name of ['a', 'b', 'c']) near(t, first[name], 1 / 3, 0.031, name)
  const busy = even.pool.get('b')
  if (busy !== undefined) busy.connections = 7
  t.equal(even.order()[2], 'b')
  t.end()
})

t.test('hash: who comes or goes takes or leaves its own share of the keys, and no other', (t) => {
  const list = fc.uniqueArray(fc.string({ minLength: 1, maxLength: 12 }), { minLength: 2, maxLength: 12 })
  fc.assert(
    fc.property(list, fc.array(fc.string(), { minLength: 1, maxLength: 50 }), (all, keys) => {
      const [gone, ...others] = all
      const before = director('hash', all)
      const after = director('hash', [...others].reverse())
      for (const key of keys) {
        const order = before.order(key)
        if (JSON.stringify(order) !== JSON.stringify(before.order(key))) return false
        // The order of the rest stays, too: wherever a key is after one loss, it is after the next.
        const rest = order.filter((name) => name !== gone)
        if (JSON.stringify(rest) !== JSON.stringify(after.order(key))) return false
      }
      return true
    }),
    { numRuns: 200 },
  )
  t.end()
})

t.test('hash: keys are spread evenly, or by weight, and one of n moves one in n', (t) => {
  const keys = Array.from({ length: 20_000 }, (_, at) => `room-${at}`)
  for (const count of [2, 3, 10]) {
    const before = director('hash', names(count))
    const after = director('hash', names(count + 1))
    const first = shares(keys.map((key) => before.order(key)[0] as string))
    for (const name of names(count)) near(t, first[name], 1 / count, 0.018, `${name} of ${count}`)
    const moved = keys.filter((key) => before.order(key)[0] !== after.order(key)[0])
    near(t, moved.length / keys.length, 1 / (count + 1), 0.018, `moved to number ${count + 1}`)
    t.ok(moved.every((key) => after.order(key)[0] === `backend-${count}`))
  }
  const weighted = director('hash', [
    ['a', 1],
    ['b', 3],
  ])
  const first = shares(keys.map((key) => weighted.order(key)[0] as string))
  near(t, first.a, 1 / 4, 0.018, 'a')
  // Without a key there is nothing to keep together.
  const loose = shares(keys.map(() => weighted.order()[0] as string))
  near(t, loose.a, 1 / 4, 0.018, 'a without a key')
  t.end()
})

t.test('hash: every process, machine and release finds the same backend', (t) => {
  const { order } = director('hash', ['a', 'b', 'c', 'd'])
  const found = ['room-1', 'room-2', 'room-3', '10.0.0.7', 'ключ'].map((key) => order(key).join(''))
  // Computed by another program, from the words of director.ts.
  t.strictSame(found, ['bdac', 'dacb', 'dcba', 'dcba', 'cadb'])
  t.end()
})

t.test('who is ejected stands behind the others, who is down is left out, unless nobody is healthy', (t) => {
  const { pool, order } = director('fallback', ['a', 'b', 'c'])
  t.strictSame(order(), ['a', 'b', 'c'])
  eject(pool.get('a'))
  t.strictSame(order(), ['b', 'c', 'a'])
  pool.get('b')?.health.checked('nobody there')
  t.strictSame(order(), ['c', 'a'])
  eject(pool.get('c'))
  t.strictSame(order(), ['a', 'c', 'b'], 'nobody is healthy: all are tried')
  pool.get('a')?.health.answered()
  t.strictSame(order(), ['a', 'c'])
  t.strictSame(director('fallback', ['a', 'b', 'c'], { attempts: 2 }).order(), ['a', 'b'])
  t.strictSame(director('hash', ['a', 'b'], { attempts: 5 }).order('x').length, 2)
  t.throws(
    () =>
      createDirector(
        {
          name: 'pool',
          members: [{ backend: 'nobody', weight: 1 }],
          policy: 'random',
          hashBy: { of: 'client' },
          attempts: undefined,
          timeoutMs: 1,
          sticky: undefined,
        },
        pool,
      ),
    { code: 'config-invalid' },
  )
  t.end()
})

t.test(
  'whom a client has had comes first among those who are as well, and the rest in the policy’s order',
  (t) => {
    for (const policy of ['random', 'leastConnections', 'hash', 'fallback'] as const) {
      const { order } = director(policy, ['a', 'b', 'c'])
      for (const kept of ['a', 'b', 'c']) {
        t.equal(order('key', kept)[0], kept, policy)
        t.strictSame(order('key', kept).sort(), ['a', 'b', 'c'])
      }
    }
    const { order } = director('hash', ['a', 'b', 'c', 'd'])
    for (const key of ['room-1', 'room-2', 'room-3']) {
      const others = order(key).filter((name) => name !== 'c')
      t.strictSame(order(key, 'c'), ['c', ...others])
    }
    t.strictSame(director('fallback', ['a', 'b', 'c'], { attempts: 2 }).order(undefined, 'c'), ['c', 'a'])

    const sick = director('fallback', ['a', 'b', 'c'])
    eject(sick.pool.get('c'))
    t.strictSame(sick.order(undefined, 'c'), ['a', 'b', 'c'], 'ejected: others first')
    eject(sick.pool.get('a'))
    t.strictSame(sick.order(undefined, 'c'), ['b', 'c', 'a'], 'and first of the ejected')
    sick.pool.get('c')?.health.checked('nobody there')
    t.strictSame(sick.order(undefined, 'c'), ['b', 'a'], 'down: not at all')
    t.end()
  },
)

t.test('a weight of 0 comes behind all others that are as well, and has no share', (t) => {
  for (const policy of ['random', 'leastConnections', 'hash'] as const) {
    const { pool, order } = director(policy, [
      ['a', 0],
      ['b', 1],
      ['c', 0],
    ])
    for (let count = 0; count < 100; count += 1) t.equal(order(`key-${count}`)[0], 'b', policy)
    t.equal(order('key', 'a')[0], 'a')
    t.equal(order('key', 'a')[1], 'b')
    eject(pool.get('b'))
    t.equal(order('key')[2], 'b', 'one that draws no newcomers is better than an ejected one')
  }
  t.end()
})

/** A health on a clock that stands still until it is moved; `told` are its changes. */
function health(check: CheckOptions | null, ejection: EjectionOptions | null) {
  let now = 1
  const told: string[] = []
  const made = new Health(check, ejection, () => now)
  made.changed = () => told.push(`${made.isHealthy ? 'healthy' : 'unhealthy'}: ${made.reason}`)
  return {
    health: made,
    told,
    wait(ms: number) {
      now += ms
    },
    fail(...codes: ErrorCode[]) {
      for (const code of codes) made.failed(new HeadraceError(code, 'x:1'))
    },
  }
}

t.test('failures in a row eject, for twice as long each time, until it answers', (t) => {
  const { health: one, told, wait, fail } = health(null, EJECTION)
  fail('dial-refused', 'dial-timeout')
  one.answered()
  fail('dial-refused', 'dial-timeout')
  t.equal(one.standing, 'healthy', 'four failures, and never three in a row')
  t.equal(one.ejectedUntil, null)
  fail('answer-timeout')
  t.equal(one.standing, 'ejected')
  const wanted = 'unhealthy: 3 failures in a row, the last: the origin did not answer in time: x:1'
  t.strictSame(told, [wanted])
  t.ok(Math.abs((one.ejectedUntil ?? 0) - Date.now() - 10_000) < 5_000)

  // In panic it is tried nevertheless, and what fails then changes nothing.
  one.tried()
  fail('dial-refused', 'dial-refused')
  wait(9_999)
  t.equal(one.standing, 'ejected')
  wait(1)
  t.equal(one.standing, 'healthy', 'its time is over: somebody may try')
  t.equal(one.isHealthy, false, 'and nobody has yet')
  one.tried()
  t.equal(one.standing, 'ejected', 'one at a time')
  fail('dial-refused')
  wait(19_999)
  t.equal(one.standing, 'ejected', 'twice the time')
  wait(1)
  one.tried()
  fail('answer-malformed')
  wait(34_999)
  t.equal(one.standing, 'ejected')
  wait(1)
  t.equal(one.standing, 'healthy', 'never longer than max')
  one.tried()
  t.strictSame(told, [wanted], 'told once')
  one.answered()
  t.equal(one.standing, 'healthy')
  t.strictSame(told, [wanted, 'healthy: it answers again'])

  fail('dial-refused', 'dial-refused')
  t.equal(one.standing, 'healthy', 'all is forgiven')
  fail('dial-refused')
  wait(10_000)
  t.equal(one.standing, 'healthy', 'the first time again')
  t.strictSame(Object.fromEntries(one.failures), {
    'dial-refused': 8,
    'dial-timeout': 2,
    'answer-timeout': 1,
    'answer-malformed': 1,
  })
  t.end()
})

t.test('a trial that nobody finishes is made again', (t) => {
  const { health: one, wait, fail } = health(null, EJECTION)
  fail('dial-refused', 'dial-refused', 'dial-refused')
  wait(10_000)
  one.tried()
  wait(10_000)
  t.equal(one.standing, 'healthy')
  one.tried()
  fail('dial-refused')
  wait(19_999)
  t.equal(one.standing, 'ejected')
  t.end()
})

t.test('what is not the origin’s fault ejects nobody, and what is the client’s is not even counted', (t) => {
  const { health: one, fail, told } = health(null, EJECTION)
  for (let count = 0; count < 5; count += 1) {
    fail('backend-full', 'ports-exhausted', 'answer-wrong', 'answer-too-large')
    fail('client-closed', 'client-reset', 'draining', 'internal', 'answer-stalled')
  }
  t.equal(one.standing, 'healthy')
  t.strictSame(Object.fromEntries(one.failures), {
    'backend-full': 5,
    'ports-exhausted': 5,
    'answer-wrong': 5,
    'answer-too-large': 5,
  })
  const patient = health(null, { ...EJECTION, answers: false })
  patient.fail('answer-timeout', 'answer-closed', 'answer-reset', 'answer-timeout')
  t.equal(patient.health.standing, 'healthy', 'without answers, only dials count')
  patient.fail('dial-refused', 'dial-refused', 'dial-refused')
  t.equal(patient.health.standing, 'ejected')
  patient.health.dialled()
  t.equal(patient.health.standing, 'healthy', 'and a dial that succeeds pardons')
  const never = health(null, null)
  never.fail('dial-refused', 'dial-refused', 'dial-refused', 'dial-refused')
  t.equal(never.health.standing, 'healthy')
  t.equal(never.health.failures.get('dial-refused'), 4)
  t.strictSame(told, [])
  t.end()
})

t.test('checks: the first one decides, then fall and rise; what is back is not ejected either', (t) => {
  const bad = '/ answers with 503'
  const { health: one, told, fail } = health({ ...CHECK, kind: 'http' }, EJECTION)
  one.checked(bad)
  t.equal(one.standing, 'down')
  t.strictSame(told, ['unhealthy: check http: / answers with 503'])
  one.checked(null)
  one.checked(bad)
  one.checked(null)
  t.equal(one.standing, 'down', 'two in a row')
  one.checked(null)
  t.equal(one.standing, 'healthy')
  one.checked(bad)
  one.checked(bad)
  one.checked(null)
  one.checked(bad)
  one.checked(bad)
  t.equal(one.standing, 'healthy', 'three in a row')
  fail('dial-refused', 'dial-refused', 'dial-refused')
  t.equal(one.standing, 'ejected')
  one.checked(bad)
  t.equal(one.standing, 'down')
  one.checked(null)
  one.checked(null)
  t.equal(one.standing, 'healthy')
  t.equal(one.isHealthy, true)
  t.equal(told.length, 4)
  t.strictSame(one.checks, { passed: 6, failed: 7 })
  t.end()
})

const NEVER = new AbortController().signal

/** What a check finds wrong; '' if nothing. */
async function wrongWith(
  t: Test,
  address: string,
  check: Partial<CheckOptions>,
  options: Partial<BackendOptions> = {},
): Promise<string> {
  const place = placeOf(address)
  const one = backend('origin', { address: place, ...options })
  const wrong = await checkBackend(one, { ...CHECK, ...check }, NEVER)
  t.equal(one.connections, 0)
  t.equal(one.health.failures.size, 0, 'checks have their own counters')
  return wrong ?? ''
}

async function deadAddress(): Promise<string> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return `127.0.0.1:${port}`
}

t.test('tcp checks: a connection is enough, and nothing else', async (t) => {
  const origin = await startOrigin(t)
  t.equal(await wrongWith(t, origin.address, {}), '')
  t.equal(await wrongWith(t, origin.address, {}, { tls: true }), '', 'before TLS')
  t.equal(await wrongWith(t, origin.address, {}, { maxConnections: 0 }), '', 'beside the limit')
  t.match(await wrongWith(t, await deadAddress(), {}), /^the origin refused the connection: ECONNREFUSED 127/)
  const hole = `127.0.0.1:${await blackHole(t)}`
  t.match(await wrongWith(t, hole, { timeoutMs: 200 }), /not accept the connection in time: origin, 200 ms$/)
  t.match(await wrongWith(t, '169.254.169.254:80', {}), /link-local/)
  const peer = await origin.next()
  await peer.ended
  t.equal(peer.size, 0)
})

t.test('tls checks: the certificate is verified as for a client', async (t) => {
  const authority = await testAuthority()
  const good = await startOrigin(t, { tls: await authority.issue({ names: ['origin.test'] }) })
  const tls = { tls: true, certHostname: 'origin.test' }
  t.equal(await wrongWith(t, good.address, { kind: 'tls' }, tls), '')
  t.match(
    await wrongWith(t, good.address, { kind: 'tls' }, { tls: true, certHostname: 'other.test' }),
    /not accepted: hostname mismatch: certificate is for origin\.test, not other\.test/,
  )
  const own = await startOrigin(t, { tls: await selfSigned({ names: ['origin.test'] }) })
  t.match(await wrongWith(t, own.address, { kind: 'tls' }, tls), /not accepted: self-signed certificate/)
  const yesterday = new Date(Date.now() - 86_400_000)
  const old = await authority.issue({ names: ['origin.test'], notBefore: new Date(0), notAfter: yesterday })
  const expired = await startOrigin(t, { tls: old })
  t.match(await wrongWith(t, expired.address, { kind: 'tls' }, tls), /not accepted: certificate has expired/)
  const plain = await startOrigin(t, { answer: (peer) => peer.end('HTTP/1.1 400 Bad\r\n\r\n') })
  t.match(await wrongWith(t, plain.address, { kind: 'tls' }, tls), /TLS handshake with the origin failed/)
})

function answering(...answers: string[]) {
  return async (peer: Peer) => {
    await peer.until('\r\n\r\n')
    for (const answer of answers) peer.write(answer)
  }
}

t.test('http checks: one of the good statuses, in time', async (t) => {
  const ok = await startOrigin(t, {
    answer: answering('HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\npart'),
  })
  t.equal(await wrongWith(t, ok.address, { kind: 'http' }), '', 'the body is of no interest')
  t.equal(
    await wrongWith(t, ok.address, { kind: 'http', path: '/healthz', statuses: [204, 205] }),
    '/healthz answers with 200',
  )
  const interim = 'HTTP/1.1 103 Early Hints\r\n\r\n'
  const early = await startOrigin(t, {
    answer: answering(`${interim}${interim}HTTP/1.1 204 No Content\r\n\r\n`),
  })
  t.equal(await wrongWith(t, early.address, { kind: 'http', statuses: [200, 204] }), '')
  const endless = await startOrigin(t, { answer: answering(interim.repeat(100)) })
  t.match(await wrongWith(t, endless.address, { kind: 'http' }), /over 16 interim answers/)
  const silent = await startOrigin(t)
  t.match(await wrongWith(t, silent.address, { kind: 'http', timeoutMs: 200 }), /not answer in time: 200 ms$/)
  const strange = await startOrigin(t, { answer: answering('220 smtp.example.com\r\n\r\n') })
  t.match(await wrongWith(t, strange.address, { kind: 'http' }), /answer of the origin is malformed/)
  const closing = await startOrigin(t, { answer: (peer) => peer.end() })
  t.match(await wrongWith(t, closing.address, { kind: 'http' }), /closed the connection/)
})

t.test('http checks ask under the name that the backend has, over TLS if it has that', async (t) => {
  const pair = await (await testAuthority()).issue({ names: ['origin.test'] })
  const origin = await startOrigin(t, { tls: pair })
  const wrong = wrongWith(
    t,
    origin.address,
    { kind: 'http', path: '/healthz?deep=1' },
    {
      tls: true,
      overrideHost: 'origin.test:8443',
    },
  )
  const peer = await origin.next()
  t.equal(
    await peer.until('\r\n\r\n'),
    'GET /healthz?deep=1 HTTP/1.1\r\nHost: origin.test:8443\r\nUser-Agent: Headrace-Check\r\nConnection: close\r\n\r\n',
  )
  peer.write('HTTP/1.1 200 OK\r\n\r\n')
  t.equal(await wrong, '')
  await Promise.race([peer.ended, peer.closed])

  const plain = await startOrigin(t)
  const asked = wrongWith(t, plain.address, { kind: 'http' })
  const other = await plain.next()
  t.match(await other.until('\r\n\r\n'), new RegExp(`^GET / HTTP/1.1\r\nHost: ${plain.address}\r\n`))
  other.end('HTTP/1.1 200 OK\r\n\r\n')
  t.equal(await asked, '')
})

t.test('a check that nobody wants any more is given up at once', async (t) => {
  const origin = await startOrigin(t)
  const stop = new AbortController()
  const one = backend('origin', { address: placeOf(origin.address) })
  const checking = checkBackend(one, { ...CHECK, kind: 'http', timeoutMs: 600_000 }, stop.signal)
  const peer = await origin.next()
  await peer.until('\r\n\r\n')
  stop.abort(new HeadraceError('draining'))
  t.match(await checking, /shutting down/)
  await Promise.race([peer.ended, peer.closed])
})
