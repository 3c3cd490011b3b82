// The gate on the way, in front of the running program with two workers: what is refused, with which answer and which log
// line; and what is given back when. A PROXY header makes a client of any address.

import { once } from 'node:events'
import { cp, mkdir, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises'
import type { IncomingMessage } from 'node:http'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import t, { type Test } from 'tap'
import type { EdgeEvents } from '../../src/index.ts'
import { createTunnel } from '../../src/index.ts'
import { echo, type Origin, startOrigin, switching, upgradeRequest } from '../support/origin.ts'
import type { Peer } from '../support/peer.ts'
import { connectTo } from '../support/peer.ts'
import { startProgram } from '../support/program.ts'
import { reasonToSkipRedis, startRedis, undisturbed } from '../support/redis.ts'
import { startTunnel } from '../support/tunnel.ts'

type Line = Readonly<Record<string, unknown>>

interface Program {
  /** Sends an upgrade from this address, and resolves with the status and all of the answer's head. */
  knock(from: string, fields?: Readonly<Record<string, string>>, target?: string): Promise<Knock>
  /** The next log line with these fields. Lines of several processes come in any order. */
  line(wanted: Line): Promise<Line>
}

interface Knock {
  readonly status: number
  readonly head: string
  readonly peer: Peer
}

/** Each program has its own: they would share a state directory. */
async function newFolder(t: Test): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'headrace-gate-'))
  t.teardown(() => rm(folder, { recursive: true, force: true, maxRetries: 5 }))
  return folder
}

/** What a log line is waited for at most, in ms. */
const PATIENCE_MS = 10_000

async function run(t: Test, origin: Origin, gate: string, more = ''): Promise<Program> {
  const folder = await newFolder(t)
  const config = `
listeners: [{ address: "127.0.0.1:0", proxyProtocol: { from: [127.0.0.1] } }]
workers: 2
stateDirectory: ./state
${more}
services:
  - id: chat
    domains: ["*"]
    websockets: on
    backends: [{ name: origin, address: "${origin.address}" }]
    routes:
      - { match: { path: /closed }, respond: { status: 200, body: closed } }
      - { match: { path: /plain }, send: origin }
      - { handoff: origin }
    gate: ${gate}
`
  await writeFile(join(folder, 'headrace.yaml'), config)
  const program = startProgram(t, ['run', '--config', 'headrace.yaml'], { cwd: folder })
  const address = (await program.line()).replace('headrace listens on ', '')
  const seen: Line[] = []
  return {
    async knock(from, fields = {}, target = '/chat') {
      const peer = await connectTo(t, address)
      const family = from.includes(':') ? 'TCP6' : 'TCP4'
      const to = from.includes(':') ? '::1' : '127.0.0.1'
      peer.write(`PROXY ${family} ${from} ${to} 50000 80\r\n${upgradeRequest(fields, target)}`)
      const head = await peer.until('\r\n\r\n')
      return { status: Number(head.split(' ')[1]), head, peer }
    },
    async line(wanted) {
      const isIt = (line: Line) => Object.entries(wanted).every(([key, value]) => line[key] === value)
      const missing = () => new Error(`no line ${JSON.stringify(wanted)} in ${JSON.stringify(seen)}`)
      const late = wait(PATIENCE_MS, undefined, { ref: false }).then(() => Promise.reject(missing()))
      late.catch(() => {})
      for (;;) {
        const at = seen.findIndex(isIt)
        const [found] = at === -1 ? [] : seen.splice(at, 1)
        if (found !== undefined) return found
        const text = await Promise.race([program.line(), late])
        if (text.startsWith('{')) seen.push(JSON.parse(text) as Line)
      }
    },
  }
}

function retryAfter(head: string): number {
  return Number(/\r\nRetry-After: ([0-9]+)\r\n/.exec(head)?.[1])
}

/** Ends a tunnel, and waits until it is known to be over. */
async function leave(program: Program, { peer }: Knock): Promise<void> {
  peer.end()
  await peer.closed
  await program.line({ msg: 'tunnel closed' })
}

t.test('rules decide in their order, and stand in the log by name', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const program = await run(
    t,
    origin,
    `
      rules:
        - { name: watch-old, headers: { X-Version: "1.*" }, action: log }
        - { name: office, from: [10.0.0.0/8, "2001:db8::/32"], action: allow }
        - { name: no-bots, headers: { User-Agent: "*bot*" }, path: /chat/*, action: deny }
        - { name: private, path: /private/*, action: deny }
        - { name: noted, path: /noted, action: log }`,
  )
  for (const [from, fields, target, status, rule] of [
    ['10.1.2.3', { 'User-Agent': 'Robot' }, '/chat/1', 101, 'office'],
    ['2001:db8:1::5', {}, '/private/1', 101, 'office'],
    ['192.0.2.1', { 'User-Agent': 'Robot' }, '/chat/1?a=b', 403, 'no-bots'],
    ['192.0.2.1', { 'User-Agent': 'Robot' }, '/news', 101, undefined],
    ['192.0.2.1', {}, '/private/1', 403, 'private'],
  ] as const) {
    const before = origin.count
    const knock = await program.knock(from, fields, target)
    t.equal(knock.status, status, `${from} ${target}`)
    if (status === 101) {
      t.match(await program.line({ msg: 'tunnel accepted' }), { client: from, rule })
      await leave(program, knock)
    } else {
      t.match(await knock.peer.all(), /403 Forbidden: a rule of this service does not allow this request/)
      t.notMatch(knock.head, /Retry-After/)
      const line = await program.line({ msg: 'request refused' })
      t.match(line, { code: 'rule-denied', rule, client: from, service: 'chat', end: 'edge-refused-gate' })
      t.equal(origin.count, before, 'the origin hears nothing of it')
    }
  }
  const noted = await program.knock('192.0.2.9', { 'X-Version': '1.9' }, '/noted')
  t.equal(noted.status, 101)
  const lines = [await program.line({ msg: 'rule matched' }), await program.line({ msg: 'rule matched' })]
  t.strictSame(
    lines.map(({ rule }) => rule),
    ['watch-old', 'noted'],
  )
  t.match(lines[0], { client: '192.0.2.9', path: '/noted', service: 'chat', level: 'info' })
  const denied = await program.knock('192.0.2.9', { 'X-Version': '1.9' }, '/private/1')
  t.equal(denied.status, 403)
  t.match(
    await program.line({ msg: 'rule matched' }),
    { rule: 'watch-old' },
    'also of one that is refused then',
  )
})

t.test('only pages of allowed origins connect; what is no browser does', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const gate = '{ origins: ["https://chat.example.com", "https://*.example.org", "null"] }'
  const program = await run(t, origin, gate)
  for (const [value, status] of [
    ['https://chat.example.com', 101],
    ['https://a.example.org', 101],
    ['null', 101],
    ['', 101],
    ['https://evil.test', 403],
    ['http://chat.example.com', 403],
  ] as const) {
    const { head, peer } = await program.knock('192.0.2.1', { Origin: value })
    t.match(head, `HTTP/1.1 ${status} `, value)
    peer.socket.destroy()
  }
  t.match(await program.line({ msg: 'request refused' }), {
    code: 'cross-origin',
    rule: 'origins',
    error: 'this service may not be used from this Origin: origins of service chat: "https://evil.test"',
  })
  const strict = await run(t, origin, '{ requireOrigin: true }')
  t.equal((await strict.knock('192.0.2.1')).status, 403)
  t.equal((await strict.knock('192.0.2.1', { Origin: 'https://any.test' })).status, 101)
})

t.test('too many upgrades are 429 with Retry-After, each client and each key by itself', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const program = await run(
    t,
    origin,
    `
      rates:
        - { name: per-client, per: client, limit: 3, window: 60s }
        - { name: per-key, per: { header: X-Api-Key }, limit: 4, window: 1m, except: [10.0.0.0/8] }`,
  )
  const statuses = async (from: readonly string[], key: string) => {
    const results: number[] = []
    for (const one of from) results.push((await program.knock(one, { 'X-Api-Key': key })).status)
    return results
  }
  t.strictSame(await statuses(Array(4).fill('192.0.2.1'), 'a'), [101, 101, 101, 429])
  t.match(await program.line({ msg: 'request refused' }), {
    code: 'rate-limited',
    rule: 'per-client',
    level: 'info',
    end: 'edge-refused-gate',
  })
  t.strictSame(await statuses(['192.0.2.2', '192.0.2.3'], 'a'), [101, 429], 'the key is spent')
  t.match(await program.line({ msg: 'request refused' }), { rule: 'per-key' })
  t.strictSame(await statuses(['192.0.2.4', '10.0.0.1'], 'b'), [101, 101])
  const six = ['2001:db8::1', '2001:db8::2', '2001:db8::ffff:3', '2001:db8::4', '2001:db8:0:1::1']
  t.strictSame(await statuses(six, 'c'), [101, 101, 101, 429, 101], 'a /64 is one client')
  const { head } = await program.knock('192.0.2.1')
  t.ok(retryAfter(head) >= 1 && retryAfter(head) <= 60, `${retryAfter(head)}`)
})

/** What the origin does is the client's wish: its path before the 101, its words after it. */
async function obey(peer: Peer): Promise<void> {
  const head = await peer.until('\r\n\r\n').catch(() => '')
  const [, path = ''] = head.split(' ')
  if (path === '/reset') return peer.reset()
  if (path === '/401') return peer.end('HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n')
  if (path === '/plain') return peer.end('HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n')
  peer.write(switching(head))
  peer.until('reset').then(
    () => peer.reset(),
    () => {},
  )
  peer.socket.on('end', () => peer.end())
}

t.test('caps are 503 with Retry-After, and every seat comes back, however a connection ends', async (t) => {
  const origin = await startOrigin(t, { answer: obey })
  const program = await run(t, origin, '{ maxConnections: 3, maxConnectionsPerClient: 2 }')
  /** What has just ended may still be on its way to where it is counted. */
  const admitted = async (from: string, target = '/chat') => {
    for (let attempt = 0; attempt < 100; attempt += 1) {
      const knock = await program.knock(from, {}, target)
      if (knock.status !== 503) return knock
      await wait(20)
    }
    throw new Error('no seat has become free')
  }
  const house = () => Promise.all(['192.0.2.1', '192.0.2.1', '192.0.2.2'].map((from) => admitted(from)))

  const all = await house()
  const perClient = await program.knock('192.0.2.1')
  t.equal(perClient.status, 503)
  const seconds = retryAfter(perClient.head)
  t.ok(seconds >= 5 && seconds <= 15, `${seconds}`)
  const own = { msg: 'request refused', code: 'client-full' }
  t.match(await program.line(own), { rule: 'maxConnectionsPerClient', client: '192.0.2.1' })
  t.equal((await program.knock('192.0.2.3')).status, 503)
  const full = { msg: 'request refused', code: 'service-full' }
  t.match(await program.line(full), { rule: 'maxConnections', level: 'warn', end: 'edge-refused-gate' })

  for (let round = 0; round < 3; round += 1) {
    const [first, second, third] = all.splice(0)
    first?.peer.end()
    second?.peer.reset()
    third?.peer.write('reset')
    for (const end of ['client-fin-tunnel', 'client-reset-tunnel', 'origin-reset-tunnel']) {
      await program.line({ msg: 'tunnel closed', end })
    }
    for (const [target, status] of [
      ['/closed', 200],
      ['/401', 401],
      ['/reset', 502],
      ['/plain', 200],
    ] as const) {
      for (let count = 0; count < 4; count += 1) {
        t.equal((await admitted('192.0.2.1', target)).status, status, `${target}, no tunnel`)
      }
    }
    all.push(...(await house()))
    t.equal((await program.knock('192.0.2.3')).status, 503, 'and no seat more than there are')
  }
})

t.test('two edges that share a Redis count together', { skip: await reasonToSkipRedis() }, async (t) => {
  const { port } = await startRedis(t)
  const origin = await startOrigin(t, { answer: echo })
  const gate = '{ rates: [{ name: fleet, per: client, limit: 5, window: 1h }] }'
  const store = `rateStore: { redis: "redis://127.0.0.1:${port}" }`
  const [one, other] = [await run(t, origin, gate, store), await run(t, origin, gate, store)]
  const knocks = async (from: string) => {
    const statuses: number[] = []
    for (let at = 0; at < 4; at += 1) {
      for (const program of [one, other]) statuses.push((await program.knock(from)).status)
    }
    return statuses.join()
  }
  const expected = '101,101,101,101,101,429,429,429'
  t.equal(await undisturbed(knocks, (statuses) => statuses === expected), expected)
  t.match(await other.line({ msg: 'request refused' }), { rule: 'fleet', code: 'rate-limited' })
})

const REDIS_CONFIG = `
listeners: [{ address: "127.0.0.1:0" }]
services: [{ id: chat, domains: ["*"], backends: [{ name: origin, address: "127.0.0.1:9" }] }]
rateStore: { redis: "redis://127.0.0.1:9" }
`

t.test('a Redis is configured, and ioredis is not installed: the start says so', async (t) => {
  // Elsewhere: node looks into the node_modules of every folder above.
  const folder = await newFolder(t)
  const root = resolve('.')
  await mkdir(join(folder, 'node_modules'))
  await writeFile(join(folder, 'headrace.yaml'), REDIS_CONFIG)
  await cp(join(root, 'dist'), join(folder, 'dist'), { recursive: true })
  await cp(join(root, 'package.json'), join(folder, 'package.json'))
  for (const name of await readdir(join(root, 'node_modules'))) {
    if (name !== 'ioredis')
      await symlink(join(root, 'node_modules', name), join(folder, 'node_modules', name))
  }
  const script = join(folder, 'dist/cli/headrace.js')
  const program = startProgram(t, ['run', '--config', 'headrace.yaml'], { cwd: folder, script })
  const { code, stderr } = await program.ended
  t.equal(code, 1)
  t.match(stderr, /rateStore: Redis needs the package ioredis, which is not there: npm install ioredis/)
})

t.test('a spike is told in the log and to the webhook, and refuses nobody', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const calls: { readonly body: unknown; readonly type: unknown; readonly token: unknown }[] = []
  let failures = 1
  const told = createServer(async (request: IncomingMessage, response) => {
    let body = ''
    for await (const chunk of request) body += chunk
    const { 'content-type': type, authorization: token } = request.headers
    const isFailing = failures > 0
    failures -= 1
    if (!isFailing) calls.push({ body: JSON.parse(body), type, token })
    response.writeHead(isFailing ? 500 : 204).end()
    told.emit('told')
  })
  told.listen(0, '127.0.0.1')
  await once(told, 'listening')
  t.teardown(() => told.close())
  const url = `http://127.0.0.1:${(told.address() as AddressInfo).port}/spikes`
  const webhook = `webhook: { url: "${url}", headers: { Authorization: Bearer x } }`
  const program = await run(t, origin, '{ expectedConnections: 10 }', webhook)
  const all: Knock[] = []
  while (all.length < 14) all.push(await program.knock('192.0.2.1'))
  t.ok(all.every(({ status }) => status === 101))
  const spike = await program.line({ msg: 'more connections than expected' })
  t.match(spike, { level: 'warn', service: 'chat', connections: 11, expected: 10 })
  while (calls.length === 0) await once(told, 'told')
  t.match(calls, [
    {
      body: { event: 'spike', service: 'chat', connections: 11, expected: 10, isAbove: true },
      type: 'application/json',
      token: 'Bearer x',
    },
  ])
  for (const knock of all.splice(8)) await leave(program, knock)
  t.match(await program.line({ msg: 'connections as expected again' }), { connections: 8, level: 'info' })
  while (calls.length === 1) await once(told, 'told')
  t.match(calls[1], { body: { isAbove: false, connections: 8 } })
})

t.test('events and reports name the rule; what a gate counts is bounded by its config', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const { tunnel, address, refused, closed } = await startTunnel(t, origin.address, {
    service: {
      gate: {
        rules: [
          { name: 'watched', path: '/chat', action: 'log' },
          { name: 'local', from: ['127.0.0.1'], path: '/chat', action: 'allow' },
          { name: 'rest', action: 'deny' },
        ],
        expectedConnections: 1,
      },
    },
  })
  const events: Record<string, unknown>[] = []
  for (const name of ['noted', 'accepted', 'spike'] as const satisfies readonly (keyof EdgeEvents)[]) {
    tunnel.on(name, (event: object) => events.push({ name, ...event }))
  }
  const peers: Peer[] = []
  for (let at = 0; at < 2; at += 1) {
    const peer = await connectTo(t, address)
    peer.write(upgradeRequest())
    await peer.until('\r\n\r\n')
    peers.push(peer)
  }
  t.match(events, [
    { name: 'noted', rule: 'watched', service: 'chat', client: { address: '127.0.0.1' } },
    { name: 'accepted', rule: 'local' },
    { name: 'noted', rule: 'watched' },
    { name: 'spike', service: 'chat', connections: 2, expected: 1, isAbove: true },
    { name: 'accepted', rule: 'local' },
  ])
  const stranger = await connectTo(t, address)
  stranger.write(upgradeRequest({}, '/other'))
  await stranger.all()
  t.match(await refused(), { code: 'rule-denied', rule: 'rest', status: 403, end: 'edge-refused-gate' })
  t.strictSame(tunnel.gates(), [
    {
      service: 'chat',
      counts: { origins: 0, maxConnections: 0, maxConnectionsPerClient: 0, watched: 2, local: 2, rest: 1 },
      spike: { service: 'chat', connections: 2, expected: 1, isAbove: true, spikes: 1 },
    },
  ])
  for (const peer of peers) {
    peer.end()
    t.match(await closed(), { rule: 'local' })
  }
})

t.test(
  'an upgrade on a kept-alive connection, and one that is handed over, pass the gate as well',
  async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const gate = { rules: [{ name: 'none', action: 'deny' as const }] }
    const { address } = await startTunnel(t, origin.address, {
      service: {
        gate,
        routes: [{ match: { upgrade: 'none' }, respond: { status: 204 } }, { handoff: 'origin' }],
      },
    })
    const client = await connectTo(t, address)
    client.write('GET / HTTP/1.1\r\nHost: chat.test\r\n\r\n')
    await client.until('HTTP/1.1 204')
    t.notMatch(client.text, /Connection: close/, 'plain HTTP is none of its business')
    client.write(upgradeRequest())
    await client.until('HTTP/1.1 403')
    const backends = [{ name: 'origin', address: origin.address }]
    const tunnel = createTunnel({
      services: [{ id: 'chat', domains: ['*'], websockets: 'on', backends, gate }],
    })
    const server = createServer().listen(0, '127.0.0.1')
    server.on('upgrade', (request, socket, head) => tunnel.upgrade(request, socket, head, 'origin'))
    await once(server, 'listening')
    t.teardown(() => server.close())
    const handed = await connectTo(t, `127.0.0.1:${(server.address() as AddressInfo).port}`)
    handed.write(upgradeRequest())
    t.match(await handed.all(), /^HTTP\/1\.1 403 /)
  },
)

t.test('a thousand clients that leave while they are admitted leave no seat behind', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const program = await run(
    t,
    origin,
    '{ maxConnections: 40, rates: [{ name: all, per: service, limit: 1000000, window: 1m }] }',
  )
  const rude = async (at: number) => {
    const knock = program.knock(`192.0.2.${at % 250}`).catch(() => null)
    if (at % 2 === 0) await knock
    ;(await knock)?.peer.reset()
  }
  for (let batch = 0; batch < 50; batch += 1) {
    await Promise.all(Array.from({ length: 20 }, (_, at) => rude(batch * 20 + at)))
  }
  let served: Knock[] = []
  // What was reset may still be on its way to the ledger.
  for (let attempt = 0; attempt < 50 && served.length < 40; attempt += 1) {
    for (const { peer } of served.splice(0)) peer.reset()
    await wait(100)
    const all = await Promise.all(Array.from({ length: 40 }, (_, at) => program.knock(`198.51.100.${at}`)))
    served = all.filter(({ status }) => status === 101)
  }
  t.equal(served.length, 40)
  t.equal((await program.knock('198.51.100.99')).status, 503, 'and none too many')
})
