// The admin API of the running program: who may do what, the exact shapes, tunnels page by page; and the same as a library.

import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { request as requestTls } from 'node:https'
import { join } from 'node:path'
import type { Test } from 'tap'
import t from 'tap'
import { z } from 'zod'
import { ROLES } from '../src/admin/roles.ts'
import { ROUTES } from '../src/admin/server.ts'
import { createTunnel } from '../src/index.ts'
import type { TunnelPage, TunnelRecord } from '../src/tunnel/listing.ts'
import { selfSigned } from './support/certificates.ts'
import type { Answer, Asking, Fleet } from './support/control.ts'
import { ask, chatConfig, echoes, newFolder, startFleet } from './support/control.ts'
import { echo, startOrigin, upgradeRequest } from './support/origin.ts'
import type { Peer } from './support/peer.ts'
import { connectTo } from './support/peer.ts'
import { startProgram } from './support/program.ts'
import { startTunnel } from './support/tunnel.ts'

const WITH_TOKENS = 'workers: 2\nadmin: { address: "127.0.0.1:0", tokens: tokens.json }\n'
/** A new release would take over, and listen elsewhere: none can start. */
const WITHOUT_UPGRADE = `${WITH_TOKENS}upgrade: { node: ./none }\n`
const WITHOUT_TOKENS = 'workers: 2\nadmin: { address: "127.0.0.1:0" }\n'

interface Administered {
  readonly fleet: Fleet
  /** On the admin address. */
  admin(path: string, asking?: Asking): Promise<Answer>
}

async function startAdmin(t: Test, more: string, origin = '127.0.0.1:1'): Promise<Administered> {
  const fleet = await startFleet(t, chatConfig(origin, more))
  const [{ address } = {}] = await fleet.says('admin API listens')
  return { fleet, admin: (path, asking) => ask(String(address), path, asking) }
}

async function run(t: Test, folder: string, words: readonly string[]) {
  return await startProgram(t, [...words, '--config', 'headrace.yaml'], { cwd: folder }).ended
}

async function createToken(t: Test, { folder }: Fleet, name: string, role: string): Promise<string> {
  const { code, stdout } = await run(t, folder, ['token', 'create', '--name', name, '--role', role])
  t.equal(code, 0)
  return stdout.trim()
}

function bearer(token: string): Readonly<Record<string, string>> {
  return { Authorization: `Bearer ${token}` }
}

/** A request that a route takes, as it is documented. */
function requestFor(method: string, path: string): { path: string; asking: Asking } {
  const where = path
    .replace(/\{(service_id|zone_id)\}/, 'chat')
    .replace('{file}', 'page.js')
    .replace('{id}', path.startsWith('/services') ? 'chat' : 'none')
  const query = method === 'DELETE' && path === '/tunnels' ? '?service=chat' : ''
  if (path === '/drain') return { path, asking: { method, body: { worker: 'worker-1', timeoutMs: 0 } } }
  if (method !== 'PATCH') return { path: where + query, asking: { method } }
  return {
    path: where,
    asking: { method, body: path.startsWith('/services') ? { websockets: 'on' } : { value: 'on' } },
  }
}

t.test('each role may do what it may on each route, and nothing else', async (t) => {
  const { fleet, admin } = await startAdmin(t, WITHOUT_UPGRADE)
  const tokens: Record<string, string> = {}
  for (const role of ROLES) tokens[role] = await createToken(t, fleet, role, role)
  const strangers = ['', 'nonsense', tokens.user?.replace(/.$/, (last) => (last === 'A' ? 'B' : 'A')) ?? '']
  t.ok(ROUTES.length > 15, `${ROUTES.length} routes`)
  for (const { method, path, role: needed } of ROUTES) {
    const { path: where, asking } = requestFor(method, path)
    const statusFor = async (token: string) =>
      (await admin(where, { ...asking, headers: token === '' ? {} : bearer(token) })).status
    for (const stranger of strangers) {
      const status = await statusFor(stranger)
      t.equal(status === 401, needed !== null, `${method} ${path} with "${stranger.slice(0, 12)}": ${status}`)
    }
    for (const role of ROLES) {
      const status = await statusFor(tokens[role] ?? '')
      const isAllowed = needed === null || ROLES.indexOf(role) >= ROLES.indexOf(needed)
      t.equal(![401, 403].includes(status), isAllowed, `${method} ${path} as ${role}: ${status}`)
    }
  }
  t.match(await admin('/tunnels'), {
    status: 401,
    headers: { 'www-authenticate': 'Bearer realm="headrace"', 'content-type': 'application/problem+json' },
    json: { type: 'about:blank', title: 'Unauthorized', status: 401 },
  })
  t.match(await admin('/services', { headers: { 'Fastly-Key': tokens.user ?? '' } }), { status: 200 })
  t.match(await admin('/tunnels/none', { method: 'DELETE', headers: bearer(tokens.engineer ?? '') }), {
    status: 403,
    json: { detail: 'engineer has the role engineer, and this needs superuser' },
  })
  t.ok((await fleet.says('admin request denied')).length > 20)
})

t.test('tokens: shown once, kept as hashes for this user alone, revoked at once', async (t) => {
  const { fleet, admin } = await startAdmin(t, WITH_TOKENS)
  const token = await createToken(t, fleet, 'ci', 'engineer')
  t.match(token, /^headrace_[0-9a-f]{8}_[A-Za-z0-9_-]{43}$/)
  const file = join(fleet.folder, 'tokens.json')
  t.equal(statSync(file).mode & 0o777, 0o600)
  // It may have underscores itself.
  const secret = token.slice('headrace_01234567_'.length)
  t.notOk(readFileSync(file, 'utf8').includes(secret))
  t.match(await admin('/services', { headers: bearer(token) }), { status: 200 })
  const again = await run(t, fleet.folder, ['token', 'create', '--name', 'ci', '--role', 'user'])
  t.match(again, { code: 1, stdout: '', stderr: /there is a token named ci/ })
  const other = await createToken(t, fleet, 'other', 'user')
  const { stdout } = await run(t, fleet.folder, ['token', 'list'])
  t.match(stdout, /^name {3}role {6}created +id\nci {5}engineer {2}2.*\nother {2}user {6}2.*\n$/)
  t.notOk(stdout.includes(secret))
  t.match(await run(t, fleet.folder, ['token', 'revoke', '--name', 'ci']), {
    code: 0,
    stdout: 'ci: revoked\n',
  })
  t.match(await admin('/services', { headers: bearer(token) }), { status: 401 })
  t.match(await admin('/services', { headers: bearer(other) }), { status: 200 })
  writeFileSync(`${file}.new`, '')
  const held = await run(t, fleet.folder, ['token', 'revoke', '--name', 'other'])
  t.match(held, { code: 3, stderr: /somebody else is writing it; if nobody is, remove .*tokens\.json\.new/ })
  writeFileSync(file, '{"version":1,"tokens":[{"role":"root"}]}')
  t.match(await admin('/services', { headers: bearer(other) }), {
    status: 500,
    json: { code: 'state-failed', detail: /tokens\.json is not what headrace wrote/ },
  })
})

t.test(
  'without tokens everybody here may read and nobody change; pages of others may do neither',
  async (t) => {
    const { fleet, admin } = await startAdmin(t, WITHOUT_TOKENS)
    t.match(await admin('/services'), { status: 200, headers: { 'cache-control': 'no-store' } })
    for (const { method, path, role } of ROUTES) {
      const { path: where, asking } = requestFor(method, path)
      const { status, text } = await admin(where, asking)
      const isForbidden = role === 'engineer' || role === 'superuser'
      t.equal(status === 403, isForbidden, `${method} ${path}: ${status}`)
      if (isForbidden) t.match(text, /no tokens are configured/)
    }
    t.match(await admin('/services', { headers: { Host: 'evil.example:9901' } }), { status: 421 })
    t.match(await admin('/services', { headers: { Host: 'localhost:9901' } }), { status: 200 })
    t.match(await admin('/services', { headers: { Host: '[::1]:9901' } }), { status: 200 })
    t.match(await admin('/services', { headers: { Origin: 'https://evil.example' } }), { status: 403 })
    t.match(await admin('/services', { headers: { Host: '127.0.0.1:1', Origin: 'http://127.0.0.1:1' } }), {
      status: 200,
    })
    const path = '/services/chat'
    const form = { method: 'PATCH', headers: { 'Content-Type': 'text/plain' }, body: '{"websockets":"off"}' }
    t.match(await fleet.control(path, form), { status: 415 })
    const json = { 'Content-Type': 'application/json' }
    t.match(await fleet.control(path, { method: 'PATCH', headers: json, body: '{' }), {
      status: 400,
      json: { detail: /not JSON/ },
    })
    t.match(await fleet.control(path, { method: 'PATCH', headers: json, body: ' '.repeat(70_000) }), {
      status: 413,
    })
    t.match(await fleet.control(path, { method: 'PATCH', body: { websockets: 'maybe', more: 1 } }), {
      status: 400,
      json: { detail: /body\.websockets: .*body: Unrecognized key: "more"/ },
    })
    t.match(await fleet.control('/services/nobody', { method: 'PATCH', body: { websockets: 'on' } }), {
      status: 404,
      json: { title: 'Not Found', detail: 'no service "nobody"' },
    })
    t.match((await fleet.control('/services/chat')).json, { websockets: 'on', changedAt: null })
    t.match(await admin('/nothing'), { status: 404 })
    t.match(await admin('/tunnels', { method: 'PUT' }), { status: 405, headers: { allow: 'GET, DELETE' } })
    t.equal((await admin('/healthz', { method: 'HEAD' })).status, 200)
  },
)

t.test("the switch in Fastly's shape, to the letter", async (t) => {
  const { fleet, admin } = await startAdmin(t, WITH_TOKENS)
  const key = { 'Fastly-Key': await createToken(t, fleet, 'fastly', 'engineer') }
  const base = '/enabled-products/v1/websockets/services'
  const enabled =
    '{"product":{"id":"websockets","object":"product"},"service":{"id":"chat","object":"service"},' +
    `"_links":{"self":"${base}/chat"}}`
  const none = '{"type":"","title":"no product on service","status":400,"errors":null,"detail":""}'
  const get = () => admin(`${base}/chat`, { headers: key })
  t.match(await get(), { status: 200, text: enabled, headers: { 'cache-control': 'no-store' } })
  for (let round = 0; round < 2; round += 1) {
    const off = await admin(`${base}/chat`, { method: 'DELETE', headers: key })
    t.match(off, { status: 204, text: '' }, 'also when it is off already')
  }
  t.match(await get(), { status: 400, text: none })
  t.match((await admin(base, { headers: key })).json, { services: [] })
  t.match(await admin(`${base}/chat`, { method: 'PUT', headers: key }), { status: 200, text: enabled })
  t.match(await admin(`${base}/chat`, { method: 'PUT', headers: key, body: {} }), {
    status: 200,
    text: enabled,
  })
  t.match((await admin(base, { headers: key })).json, { services: ['chat'] })
  t.match(await admin(`${base}/nobody`, { headers: key }), {
    status: 404,
    text: '{"type":"","title":"no service \\"nobody\\"","status":404,"errors":null,"detail":""}',
  })
  t.match(await admin(`${base}/chat`), { status: 401, json: { type: '', status: 401, errors: null } })
  const changes = await fleet.says('changed by an operator', 2)
  t.match(changes, [
    {
      who: { name: 'fastly', role: 'engineer', address: '127.0.0.1' },
      what: 'websockets',
      of: 'chat',
      before: 'on',
      after: 'off',
    },
    { who: { name: 'fastly' }, before: 'off', after: 'on' },
  ])
  t.equal(changes.length, 2, 'what changes nothing is no change')
})

t.test("the switch in Cloudflare's shape, to the letter", async (t) => {
  const { fleet, admin } = await startAdmin(t, WITH_TOKENS)
  const headers = bearer(await createToken(t, fleet, 'cf', 'engineer'))
  for (const base of ['/zones', '/client/v4/zones']) {
    const path = `${base}/chat/settings/websockets`
    const off = await admin(path, { method: 'PATCH', headers, body: { value: 'off' } })
    const { changedAt } = (await fleet.control('/services/chat')).json as { changedAt: string }
    const body = (value: string, at: string) =>
      `{"result":{"id":"websockets","value":"${value}","modified_on":"${at}","editable":true},"success":true,"errors":[],"messages":[]}`
    t.match(off, { status: 200, text: body('off', changedAt) })
    t.match(await admin(path, { headers }), { status: 200, text: body('off', changedAt) })
    t.match((await admin(path, { method: 'PATCH', headers, body: { id: 'websockets', value: 'on' } })).json, {
      result: { value: 'on' },
    })
    const wrong = await admin(path, { method: 'PATCH', headers, body: { value: 'maybe' } })
    t.match(wrong, { status: 400, json: { success: false, result: null, errors: [{ code: 1007 }] } })
    t.match(await admin(`${base}/nobody/settings/websockets`, { headers }), {
      status: 404,
      json: { success: false, errors: [{ code: 7003 }] },
    })
    t.match(await admin(path), { status: 401, json: { success: false, errors: [{ code: 10000 }] } })
  }
})

t.test('the document has every route, and every answer is as it says', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const { fleet } = await startAdmin(t, WITHOUT_UPGRADE, origin.address)
  await Promise.all(Array.from({ length: 4 }, () => fleet.open()))
  const { json } = await fleet.control('/openapi.json')
  const { openapi, paths } = json as Document
  t.match(openapi, /^3\.1\./)
  const documented = Object.entries(paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((one) => `${one} ${path}`),
  )
  t.strictSame(documented.sort(), ROUTES.map(({ method, path }) => `${method.toLowerCase()} ${path}`).sort())
  const [{ id } = { id: '' }] = ((await fleet.control('/tunnels')).json as TunnelPage).tunnels
  const seen = new Set<string>()
  const check = async (method: string, pattern: string, where: string, asking: Asking) => {
    const answer = await fleet.control(where, asking)
    const responses = paths[pattern]?.[method.toLowerCase()]?.responses ?? {}
    const said = responses[String(answer.status)] ?? responses.default
    const [type = '', { schema } = {}] = Object.entries(said?.content ?? {})[0] ?? []
    seen.add(
      `${method} ${pattern} ${responses[String(answer.status)] === undefined ? 'fault' : answer.status}`,
    )
    if (schema === undefined) {
      t.equal(answer.text, '', `${method} ${where}: nothing`)
      return
    }
    t.match(answer.headers['content-type'], type, `${method} ${where}`)
    const { success, error } = z.fromJSONSchema(schema).safeParse(answer.json ?? answer.text)
    t.ok(success, `${method} ${where}: ${answer.status} ${error?.message ?? ''}`)
  }
  // Last, since it ends tunnels that others ask for.
  const isDrain = ({ path }: { readonly path: string }) => path === '/drain'
  const inTurn = [...ROUTES.filter((one) => !isDrain(one)), ...ROUTES.filter(isDrain)]
  for (const { method, path } of inTurn) {
    const { path: where, asking } = requestFor(method, path)
    await check(method, path, where, asking)
    if (path === '/tunnels/{id}') await check(method, path, `/tunnels/${id}`, asking)
    await check(method, path, `${where}${where.includes('?') ? '&' : '?'}nonsense=1`, asking)
  }
  const answered = ROUTES.flatMap(({ method, path, answers }) =>
    Object.keys(answers).map((status) => `${method} ${path} ${status}`),
  )
  // Of a drain, an upgrade and workers that hang: process.test.ts, upgrade.test.ts and silence.test.ts have them.
  const elsewhere = ['GET /readyz 503', 'GET /healthz 503', 'POST /upgrade 200']
  const unseen = answered.filter((one) => !seen.has(one) && !elsewhere.includes(one))
  t.strictSame(unseen, [])
  t.strictSame(
    ROUTES.map(({ method, path }) => `${method} ${path} fault`).filter((one) => !seen.has(one)),
    [],
  )
})

interface Operation {
  readonly responses: Readonly<
    Record<
      string,
      { readonly content?: Readonly<Record<string, { readonly schema: z.core.JSONSchema.BaseSchema }>> }
    >
  >
}

interface Document {
  readonly openapi: string
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>
}

const TUNNELS = 2_000

async function openMany(count: number, open: () => Promise<Peer>): Promise<Peer[]> {
  const clients: Peer[] = []
  while (clients.length < count) {
    clients.push(...(await Promise.all(Array.from({ length: Math.min(100, count - clients.length) }, open))))
  }
  return clients
}

t.test('2,000 tunnels of two workers: listed by pages in every order, found, filtered, ended', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const fleet = await startFleet(t, chatConfig(origin.address, 'workers: 2\nlog: { level: warn }\n'))
  const clients = await openMany(TUNNELS, fleet.open)
  const talkers = clients.slice(0, 5)
  for (const [at, client] of talkers.entries()) t.ok(await echoes(client, 'x'.repeat(10_000 * (at + 1))))

  const pages = async (query: string) => {
    const all: TunnelRecord[] = []
    for (let next: string | null = ''; next !== null; ) {
      const path = `/tunnels?${query}${next === '' ? '' : `&cursor=${next}`}`
      const { status, json } = await fleet.control(path)
      t.equal(status, 200)
      const page = json as TunnelPage
      t.equal(page.total, TUNNELS)
      all.push(...page.tunnels)
      next = page.next
    }
    return all
  }
  const sizeOf = ({ bytes }: TunnelRecord) => bytes.clientToOrigin + bytes.originToClient
  const startOf = ({ startedAt }: TunnelRecord) => Date.parse(startedAt)
  for (const [query, rank] of [
    ['limit=300', startOf],
    ['limit=999&order=newest', (one: TunnelRecord) => -startOf(one)],
    ['limit=1000&order=biggest', (one: TunnelRecord) => -sizeOf(one)],
  ] as const) {
    const all = await pages(query)
    t.equal(new Set(all.map(({ id }) => id)).size, TUNNELS, `${query}: each once`)
    t.ok(
      all.every((one, at) => at === 0 || rank(all[at - 1] as TunnelRecord) <= rank(one)),
      `${query}: in order`,
    )
  }
  const { json } = await fleet.control('/tunnels?order=biggest&limit=2')
  const [biggest, second] = (json as TunnelPage).tunnels
  t.match(
    [biggest, second].map((one) => one?.bytes),
    [
      { clientToOrigin: 50_000, originToClient: 50_000 },
      { clientToOrigin: 40_000, originToClient: 40_000 },
    ],
  )
  t.match((await fleet.control(`/tunnels/${biggest?.id}`)).json, {
    id: biggest?.id,
    service: 'chat',
    backend: 'origin',
  })

  const total = async (query: string) => ((await fleet.control(`/tunnels?${query}`)).json as TunnelPage).total
  t.equal(await total('minBytes=60000'), 3)
  t.equal(await total('service=chat&backend=origin&client=127.0.0.0/8'), TUNNELS)
  t.equal(await total('client=10.0.0.1'), 0)
  t.equal(await total('service=nobody'), 0)
  t.equal(await total('minAgeMs=3600000'), 0)
  t.match(await fleet.control('/services'), { json: { services: [{ id: 'chat', tunnels: TUNNELS }] } })
  t.match(await fleet.control('/backends'), {
    json: { backends: [{ name: 'origin', connections: TUNNELS }] },
  })
  for (const query of [
    'client=nonsense',
    'cursor=nonsense',
    'limit=0',
    'limit=1001',
    'order=loudest',
    'minBytes=-1',
    'x=1',
  ]) {
    t.match(await fleet.control(`/tunnels?${query}`), { status: 400, json: { title: 'Bad Request' } }, query)
  }

  const listed = await run(t, fleet.folder, ['tunnels', 'list', '--limit', '1500', '--json'])
  t.equal(listed.stdout.split('\n').length, 1_501)
  t.match(await run(t, fleet.folder, ['tunnels', 'list', '--limit', '3']), {
    code: 0,
    stdout:
      /^id +service +backend +client +started +to origin +to client +engine\n(\S+ +chat +.*\n){3}3 of 2000 tunnels\n$/,
  })
  t.match(await run(t, fleet.folder, ['tunnels', 'end', biggest?.id ?? '']), {
    code: 0,
    stdout: 'tunnels that end now: 1\n',
  })
  await talkers[4]?.ended
  talkers[4]?.end()
  t.match(await run(t, fleet.folder, ['tunnels', 'end', 'none']), {
    code: 1,
    stderr: /no open tunnel "none"/,
  })
  const few = await fleet.control('/tunnels?service=chat&minBytes=60000', { method: 'DELETE' })
  t.match(few, { status: 200, json: { ended: 2 } })
  for (const client of clients.slice(2, 4)) {
    await client.ended
    client.end()
  }
  t.match(await fleet.control('/tunnels', { method: 'DELETE' }), {
    status: 400,
    json: { detail: /query\.service/ },
  })
  t.match(await fleet.control('/tunnels?service=nobody', { method: 'DELETE' }), { status: 404 })
  const reset = await run(t, fleet.folder, ['tunnels', 'end', '--service', 'chat', '--reset'])
  t.match(reset, { code: 0, stdout: `tunnels that end now: ${TUNNELS - 3}\n` })
  for (const client of [...talkers.slice(0, 2), ...clients.slice(5)])
    t.equal(await client.closed, 'ECONNRESET')
  while ((await total('')) > 0) await new Promise(setImmediate)
  t.match(await fleet.says('changed by an operator', 3), [
    { what: 'tunnel', of: biggest?.id, after: 'fin', ended: 1 },
    { what: 'tunnels', of: 'chat', ended: 2 },
    { what: 'tunnels', after: 'reset', ended: TUNNELS - 3, who: { name: 'control socket' } },
  ])
})

t.test('the command line switches a program that runs', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const { fleet } = await startAdmin(t, WITHOUT_TOKENS, origin.address)
  const clients = await Promise.all(Array.from({ length: 6 }, () => fleet.open()))
  const words = ['websockets', 'off', 'chat', '--close-tunnels']
  t.match(await run(t, fleet.folder, words), {
    code: 0,
    stdout: 'chat: websockets are off, open tunnels that end now: 6\n',
    stderr: '',
  })
  for (const client of clients) {
    await client.ended
    client.end()
  }
  t.match(await run(t, fleet.folder, ['websockets', 'on', 'chat']), {
    code: 0,
    stdout: 'chat: websockets are on\n',
  })
  t.ok(await echoes(await fleet.open(), 'again'))
})

t.test('over TLS, with a token', async (t) => {
  const { certificate, key } = await selfSigned({ names: ['localhost'] })
  const folder = newFolder(t, { 'admin.pem': certificate, 'admin.key': key })
  const admin =
    'admin: { address: "127.0.0.1:0", tls: { certificate: admin.pem, key: admin.key }, tokens: tokens.json }\n'
  const fleet = await startFleet(t, chatConfig('127.0.0.1:1', admin), { folder })
  const headers = bearer(await createToken(t, fleet, 'ci', 'user'))
  const [{ address } = {}] = await fleet.says('admin API listens')
  const port = Number(String(address).split(':')[1])
  const statusFor = (fields: Readonly<Record<string, string>>) =>
    new Promise((resolve, reject) => {
      const options = {
        host: '127.0.0.1',
        servername: 'localhost',
        port,
        path: '/services',
        ca: certificate,
        agent: false,
        headers: fields,
      }
      requestTls(options, (response) => resolve(response.resume().statusCode))
        .on('error', reject)
        .end()
    })
  t.equal(await statusFor(headers), 200)
  t.equal(
    await statusFor({ ...headers, Host: 'admin.example.com', Origin: 'https://admin.example.com' }),
    200,
  )
  t.equal(await statusFor({}), 401)
})

t.test('a library has the same: switch, list, find, end', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const folder = newFolder(t)
  const started = await startTunnel(t, origin.address, { options: { stateDirectory: join(folder, 'kept') } })
  const { tunnel, address } = started
  const open = async () => {
    const client = await connectTo(t, address)
    client.write(upgradeRequest())
    await client.until('\r\n\r\n')
    return client
  }
  const clients = [await open(), await open(), await open()]
  const { tunnels, total } = await tunnel.tunnels({ limit: 2 })
  t.strictSame([tunnels.length, total, tunnel.size], [2, 3, 3])
  const [first] = tunnels
  t.match(await tunnel.find(first?.id ?? ''), { id: first?.id, client: '127.0.0.1' })
  t.equal(await tunnel.find('none'), null)
  t.equal(await tunnel.end({ id: first?.id ?? '' }, 'reset'), 1)
  t.equal(await clients[0]?.closed, 'ECONNRESET')
  t.match(await tunnel.services(), [{ id: 'chat', websockets: 'on', changedAt: null, backends: ['origin'] }])
  t.match(tunnel.backends(), [
    { service: 'chat', name: 'origin', address: origin.address, health: 'healthy' },
  ])
  await t.rejects(tunnel.websockets('nobody', 'off'), { code: 'argument-invalid', detail: /there are chat/ })
  const off = await tunnel.websockets('chat', 'off')
  t.match(off, { service: 'chat', before: 'on', after: { websockets: 'off', changedAt: String }, ended: 0 })
  t.ok(await echoes(clients[1] as Peer, 'alive'))
  t.match(await tunnel.websockets('chat', 'off', { closeTunnels: true }), { before: 'off', ended: 2 })
  for (const client of clients.slice(1)) {
    await client.ended
    client.end()
  }
  await tunnel.close()
  const later = await startTunnel(t, origin.address, { options: { stateDirectory: join(folder, 'kept') } })
  t.match(await later.tunnel.services(), [{ websockets: 'off' }], 'kept')
  // Of several at once the last one holds, and is what is kept.
  await Promise.all((['on', 'off', 'on'] as const).map((value) => later.tunnel.websockets('chat', value)))
  t.match(JSON.parse(readFileSync(join(folder, 'kept/websockets.json'), 'utf8')), {
    services: { chat: { websockets: 'on' } },
  })

  mkdirSync(join(folder, 'websockets.json'))
  const services = [{ id: 'a', domains: ['*'], backends: [{ name: 'b', address: '127.0.0.1:1' }] }]
  t.throws(() => createTunnel({ services, stateDirectory: folder }), {
    code: 'state-failed',
    detail: /EISDIR/,
  })
  const forgetful = createTunnel({ services })
  t.match(
    await forgetful.websockets('a', 'on'),
    { after: { websockets: 'on' } },
    'without a folder it is not kept',
  )
  writeFileSync(join(folder, 'file'), '')
  const nowhere = createTunnel({ services, stateDirectory: join(folder, 'file') })
  await t.rejects(nowhere.websockets('a', 'on'), { code: 'state-failed' })
  t.match(await nowhere.services(), [{ websockets: 'off' }], 'what can not be kept is not switched')
})
