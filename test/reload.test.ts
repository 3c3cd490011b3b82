// Reload of the running program: each kind of change takes effect, on every worker, and nothing of a config with an error does.

import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { join } from 'node:path'
import { connect as connectTls } from 'node:tls'
import t from 'tap'
import { selfSigned } from './support/certificates.ts'
import type { Fleet } from './support/control.ts'
import { ask, echoes, newFolder, openTunnel, startFleet, workersOf } from './support/control.ts'
import { echo, startOrigin, switching } from './support/origin.ts'
import { connectTo, placeOf } from './support/peer.ts'
import { startProgram } from './support/program.ts'
import type { Way } from './support/reloading.ts'
import { answers, byCommand, byRequest, bySignal, edit, site, upgrades, write } from './support/reloading.ts'

const WAYS: Readonly<Record<string, Way>> = { SIGHUP: bySignal, command: byCommand, API: byRequest }

for (const [name, way] of Object.entries(WAYS)) {
  t.test(
    `by ${name}: a route, a service, a backend; an error changes nothing and is told with its line`,
    async (t) => {
      const origin = await startOrigin(t, { answer: echo })
      const fleet = await startFleet(t, site(origin.address))
      const old = await fleet.open()
      t.strictSame(await answers(fleet.address), ['200 one'])

      edit(fleet, 'body: one', 'body: two')
      t.match(await way(t, fleet), { isDone: true, said: /chat/ })
      t.strictSame(await answers(fleet.address), ['200 two'])

      edit(fleet, 'body: two', 'bodi: three')
      const wrong = await way(t, fleet)
      t.equal(wrong.isDone, false)
      t.match(wrong.said, /services\[0\]\.routes\[1\]\.respond\.bodi/)
      t.match(wrong.said, name === 'API' ? /"line":11,"column":33/ : /headrace\.yaml:11:33: /)
      t.strictSame(await answers(fleet.address), ['200 two'])
      edit(fleet, 'bodi: three', 'body: two')

      const other = await startOrigin(t, {
        async answer(peer) {
          peer.write(switching(await peer.until('\r\n\r\n'), 'X-Origin: other\r\n'))
        },
      })
      edit(fleet, origin.address, other.address)
      edit(
        fleet,
        'services:',
        `services:
  - id: more
    domains: [more.test]
    backends: [{ name: origin, address: "${origin.address}" }]
    routes: [{ respond: { status: 201, body: more } }]`,
      )
      t.match(await way(t, fleet), { isDone: true, said: /more/ })
      t.strictSame(await answers(fleet.address, '/', 'more.test'), ['201 more'])
      const client = await fleet.open()
      t.match(client.text, /X-Origin: other/)
      t.ok(await echoes(old, 'the old tunnel goes on to where it was'))
      const { json } = await fleet.control('/services')
      t.match(json, {
        services: [
          { id: 'more', tunnels: 0 },
          { id: 'chat', tunnels: 2 },
        ],
      })
    },
  )
}

t.test(
  'a handler is loaded anew; one that is broken, hangs, blocks or exits changes nothing',
  { timeout: 200_000 },
  async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const handler = (word: string) =>
      `export default (request) => request.isUpgrade ? { kind: 'handoff', backend: 'origin' } : { kind: 'respond', status: 200, headers: [], body: '${word}' }\n`
    const folder = newFolder(t, { 'edge.mjs': handler('one') })
    const config = site(origin.address).replace(/ {4}routes:[\s\S]*$/, '    handler: ./edge.mjs\n')
    const fleet = await startFleet(t, config, { folder })
    const client = await fleet.open()
    t.strictSame(await answers(fleet.address), ['200 one'])
    write(fleet, 'edge.mjs', handler('two'))
    t.match(await bySignal(t, fleet), { isDone: true })
    t.strictSame(await answers(fleet.address), ['200 two'])

    const broken = {
      'export default 1': /headrace\.yaml:8:5: services\[0\]\.handler: .*no function as its default export/,
      'export default (': /services\[0\]\.handler: .*SyntaxError/,
      'throw new Error("thrown at import")': /thrown at import/,
      'await new Promise(() => setTimeout(() => {}, 1e6)); export default () => {}':
        /has not loaded within 10 s/,
      'process.exit(7)': /headrace\.yaml:8:5: services\[0\]\.handler: .*has ended \(exit code 7\)/,
      'for (;;);': /services\[0\]\.handler: .*did not answer check within 15000 ms/,
    }
    for (const [text, reason] of Object.entries(broken)) {
      write(fleet, 'edge.mjs', text)
      t.match(await bySignal(t, fleet), { isDone: false, said: reason }, text)
      t.strictSame(await answers(fleet.address), ['200 two'])
      t.ok(await echoes(client, text))
    }
    t.ok((await workersOf(fleet)).every(({ restarts }) => restarts === 0))
    write(fleet, 'edge.mjs', handler('three'))
    t.match(await byRequest(t, fleet), { isDone: true })
    t.strictSame(await answers(fleet.address), ['200 three'])
  },
)

/** The common name of what a TLS listener shows. */
async function shown(address: string): Promise<string> {
  const socket = connectTls({ ...placeOf(address), rejectUnauthorized: false, servername: 'chat.test' })
  await once(socket, 'secureConnect')
  const { subject } = socket.getPeerCertificate()
  socket.destroy()
  return String(subject.CN)
}

t.test(
  'a certificate is read again; a pair that does not fit changes nothing; TLS may be put on a listener',
  async (t) => {
    const [one, two] = await Promise.all(
      ['one.test', 'two.test'].map((name) => selfSigned({ names: [name, 'chat.test'] })),
    )
    if (one === undefined || two === undefined) throw new Error('no certificates')
    const folder = newFolder(t, { 'cert.pem': one.certificate, 'key.pem': one.key })
    const origin = await startOrigin(t, { answer: echo })
    const secured = '{ address: "127.0.0.1:0", tls: { certificate: cert.pem, key: key.pem } }'
    const listeners = `[{ address: "127.0.0.1:0" }, ${secured}]`
    const fleet = await startFleet(t, site(origin.address, '', listeners), { folder })
    const [plain = '', tls = ''] = fleet.addresses
    t.equal(await shown(tls), 'one.test')
    const client = await connectTo(t, tls, { servername: 'chat.test' })

    write(fleet, 'key.pem', two.key)
    const wrong = await byCommand(t, fleet)
    t.match(wrong, { isDone: false, said: /listeners\[1\]\.tls: .*key\.pem is not the key of .*cert\.pem/ })
    t.equal(await shown(tls), 'one.test')
    write(fleet, 'cert.pem', two.certificate)
    t.match(await byCommand(t, fleet), { isDone: true })
    for (let count = 0; count < 8; count += 1) t.equal(await shown(tls), 'two.test')

    const before = await openTunnel(t, plain)
    edit(fleet, '[{ address: "127.0.0.1:0" },', `[${secured},`)
    t.match(await byRequest(t, fleet), { isDone: true, said: new RegExp(`"changed":\\["${plain}"\\]`) })
    t.equal(await shown(plain), 'two.test')
    t.ok(await echoes(before, 'accepted without TLS'))
    client.socket.destroy()
  },
)

t.test(
  'a gate, limits, the log level and the initial state of the switch change; what was switched wins',
  async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const fleet = await startFleet(t, site(origin.address))
    t.strictSame(await upgrades(t, fleet.address), ['HTTP/1.1 101 Switching Protocols'])
    const gate = 'gate: { rules: [{ name: nobody, from: [127.0.0.0/8], action: deny }] }'
    edit(fleet, '    backends:', `    ${gate}\n    backends:`)
    t.match(await bySignal(t, fleet), { isDone: true })
    t.strictSame(await upgrades(t, fleet.address), ['HTTP/1.1 403 Forbidden'])
    edit(
      fleet,
      `    ${gate}\n`,
      '    gate: { rules: [{ name: nobody, from: [127.0.0.0/33], action: deny }] }\n',
    )
    t.match(await bySignal(t, fleet), { isDone: false, said: /headrace\.yaml:7:.*gate\.rules\[0\]\.from/ })
    t.strictSame(await upgrades(t, fleet.address), ['HTTP/1.1 403 Forbidden'])
    edit(fleet, '    gate: { rules: [{ name: nobody, from: [127.0.0.0/33], action: deny }] }\n', '')
    edit(fleet, 'websockets: on', 'websockets: off')
    t.match(await bySignal(t, fleet), { isDone: true })
    t.strictSame(await upgrades(t, fleet.address), ['HTTP/1.1 403 Forbidden'])
    await fleet.control('/services/chat', { method: 'PATCH', body: { websockets: 'on' } })
    t.match(await bySignal(t, fleet), { isDone: true })
    t.strictSame(await upgrades(t, fleet.address), ['HTTP/1.1 101 Switching Protocols'])

    edit(fleet, 'workers: 2', 'workers: 2\nlimits: { headFields: 3 }\nlog: { level: warn }')
    t.match(await byRequest(t, fleet), { isDone: true, said: /"settings":\["limits","log"\]/ })
    t.strictSame(await upgrades(t, fleet.address), ['HTTP/1.1 431 Request Header Fields Too Large'])
    const count = fleet.program.lines.length
    await answers(fleet.address)
    edit(fleet, 'log: { level: warn }', 'log: { level: info }')
    t.match(await byRequest(t, fleet), { isDone: true })
    t.equal(fleet.program.lines.slice(count).filter((line) => line.includes('request answered')).length, 0)
    await answers(fleet.address)
    await fleet.says('request answered')
  },
)

t.test('tokens and the admin address change; a tokens file that is not ours changes nothing', async (t) => {
  const folder = newFolder(t)
  const admin = 'admin: { address: "127.0.0.1:0", tokens: tokens.json }'
  const fleet = await startFleet(t, site('127.0.0.1:1', `${admin}\n`), { folder })
  const [{ address: first } = {}] = await fleet.says('admin API listens')
  const token = async (name: string) => {
    const words = ['token', 'create', '--name', name, '--role', 'superuser', '-c', 'headrace.yaml']
    const { stdout } = await startProgram(t, words, { cwd: folder }).ended
    return { Authorization: `Bearer ${stdout.trim()}` }
  }
  const old = await token('old')
  const status = async (headers: Readonly<Record<string, string>>, address = String(first)) =>
    (await ask(address, '/services', { headers })).status
  t.equal(await status(old), 200)
  t.match(await ask(String(first), '/reload', { method: 'POST', headers: old }), {
    status: 200,
    json: { changes: { services: { changed: [] }, listeners: { added: [] }, settings: [] } },
  })
  t.match(await fleet.says('changed by an operator'), [{ what: 'config', who: { name: 'old' } }])

  edit(fleet, 'tokens: tokens.json', 'tokens: other.json')
  writeFileSync(join(folder, 'other.json'), '{"version":1,"tokens":[{"role":"root"}]}')
  t.match(await byCommand(t, fleet), {
    isDone: false,
    said: /admin\.tokens: .*other\.json is not what headrace wrote/,
  })
  t.equal(await status(old), 200)
  writeFileSync(join(folder, 'other.json'), '{"version":1,"tokens":[]}')
  const fresh = await token('new')
  t.equal(await status(fresh), 401)
  t.match(await byCommand(t, fleet), { isDone: true, said: /settings changed: admin/ })
  t.equal(await status(old), 401)
  t.equal(await status(fresh), 200)

  edit(fleet, 'address: "127.0.0.1:0", tokens', 'address: "localhost:0", tokens')
  t.match(await ask(String(first), '/reload', { method: 'POST', headers: fresh }), { status: 200 })
  const [, { address: second } = {}] = await fleet.says('admin API listens', 2)
  t.not(second, first)
  t.equal(await status(fresh, String(second).replace('[::1]', 'localhost')), 200)
  await t.rejects(status(fresh), { code: 'ECONNREFUSED' })
})

t.test('what stays as it was is refused as a whole, with the name of the key', async (t) => {
  const fleet = await startFleet(t, site('127.0.0.1:1', 'engine: stream\n'))
  const changes = {
    'workers: 2': 'workers: 3',
    'engine: stream': 'engine: auto',
    'engine: auto': 'engine: auto\nrateStore: { redis: "redis://127.0.0.1:1" }',
  }
  edit(fleet, 'body: one', 'body: two')
  for (const [found, text] of Object.entries(changes)) edit(fleet, found, text)
  const { said, isDone } = await bySignal(t, fleet)
  t.equal(isDone, false)
  const lines = said.split('\n')
  t.match(lines[0], /^headrace\.yaml:2:1: workers: 2 can't be changed by a reload; use headrace upgrade/)
  t.match(lines[1], /engine: stream can't be changed/)
  t.match(lines[2], /rateStore: the default can't be changed/)
  t.equal(lines.length, 3)
  t.strictSame(await answers(fleet.address), ['200 one'])
})

t.test(
  'listeners come and go; one that is taken changes nothing; what waits on one that goes is served',
  async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const fleet = await startFleet(t, site(origin.address))
    const { folder } = fleet
    const taken = createServer().listen(0, '127.0.0.1')
    await once(taken, 'listening')
    t.teardown(() => taken.close())
    const { port } = taken.address() as { port: number }
    const one = '[{ address: "127.0.0.1:0" }]'
    edit(fleet, one, `[{ address: "127.0.0.1:0" }, { address: "127.0.0.1:${port}" }]`)
    edit(fleet, 'body: one', 'body: two')
    const wrong = await bySignal(t, fleet)
    t.match(wrong, {
      isDone: false,
      said: /headrace\.yaml:1:.*listeners\[1\]\.address: EADDRINUSE .*something else listens there/,
    })
    t.strictSame(await answers(fleet.address), ['200 one'])

    edit(
      fleet,
      `{ address: "127.0.0.1:${port}" }`,
      `{ address: "127.0.0.2:0" }, { address: "unix:${folder}/edge.sock" }`,
    )
    const { said, isDone } = await byRequest(t, fleet)
    t.ok(isDone)
    const [, added = ''] = /"listeners":\{"added":\["(127\.0\.0\.2:[0-9]+)"/.exec(said) ?? []
    t.strictSame(await answers(added), ['200 two'])
    t.strictSame(await answers(`unix:${folder}/edge.sock`), ['200 two'])
    const stays = await openTunnel(t, added)
    const accepted = new Set((await fleet.says('request answered', 48)).map(({ worker }) => worker))
    t.equal(accepted.size, 2)

    for (const { pid } of await workersOf(fleet)) process.kill(pid, 'SIGKILL')
    await fleet.says('a process was replaced', 2)
    t.strictSame(await answers(added), ['200 two'], 'workers that were replaced have it, too')
    t.strictSame(await answers(`unix:${folder}/edge.sock`), ['200 two'])
    stays.socket.destroy()

    const open = await openTunnel(t, added)
    edit(fleet, `, { address: "127.0.0.2:0" }, { address: "unix:${folder}/edge.sock" }`, '')
    t.match(await byRequest(t, fleet), { isDone: true, said: new RegExp(`"removed":\\["${added}"`) })
    for (const address of [added, `unix:${folder}/edge.sock`]) {
      const refused = connect(placeOf(address))
      const [error] = (await once(refused, 'error')) as [NodeJS.ErrnoException]
      t.match(error.code, /ECONNREFUSED|ENOENT/)
    }
    t.ok(await echoes(open, 'accepted where nobody listens any more'))
    t.strictSame(await answers(fleet.address), ['200 two'])
  },
)

t.test(
  'a removed service lives on in its tunnels, which are listed, counted and ended; its series go',
  async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const gone = `  - id: gone
    domains: [gone.test]
    websockets: on
    backends: [{ name: old, address: "${origin.address}" }]
`
    const config = site(origin.address, 'admin: { address: "127.0.0.1:0" }\n').replace(
      'services:\n',
      `services:\n${gone}`,
    )
    const fleet = await startFleet(t, config)
    const clients = await Promise.all(
      Array.from({ length: 6 }, async () => {
        const client = await connectTo(t, fleet.address)
        client.write(
          `GET /chat HTTP/1.1\r\nHost: gone.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n`,
        )
        await client.until('\r\n\r\n')
        return client
      }),
    )
    const series = async () => (await fleet.control('/metrics')).text.match(/.*service="gone".*/g) ?? []
    t.ok((await series()).length > 3)
    edit(fleet, gone, '')
    t.match(await bySignal(t, fleet), { isDone: true })
    for (const client of clients) t.ok(await echoes(client, 'lives on'))
    t.match((await fleet.control('/tunnels?service=gone')).json, { total: 6 })
    t.ok((await series()).some((line) => /^headrace_tunnels_open\{.*backend="old".*\} [1-9]/.test(line)))
    t.match((await fleet.control('/usage?service=gone')).json, { total: { connections: 6 } })
    t.match(await fleet.control('/tunnels?service=gone', { method: 'DELETE' }), {
      status: 200,
      json: { ended: 6 },
    })
    for (const client of clients) {
      await client.ended
      client.end()
    }
    await fleet.says('tunnel closed', 6)
    t.strictSame(await series(), [])
    t.match(await fleet.control('/tunnels?service=gone', { method: 'DELETE' }), { status: 404 })
  },
)

t.test('with reload.watch a changed file is enough: the config, a handler', async (t) => {
  const folder = newFolder(t, {
    'edge.mjs': "export default () => ({ kind: 'respond', status: 200, headers: [], body: 'one' })",
  })
  const config = site('127.0.0.1:1', 'reload: { watch: true }\n').replace(
    / {4}routes:[\s\S]*?body: one \}\n/,
    '    handler: ./edge.mjs\n',
  )
  const fleet: Fleet = await startFleet(t, config, { folder })
  t.strictSame(await answers(fleet.address), ['200 one'])
  write(
    fleet,
    'edge.mjs',
    "export default () => ({ kind: 'respond', status: 200, headers: [], body: 'two' })",
  )
  await fleet.says('reloaded')
  t.strictSame(await answers(fleet.address), ['200 two'])
  edit(fleet, 'workers: 2', 'workers: 2\nengin: auto')
  t.match(await fleet.says('not reloaded'), [
    { problems: [/headrace\.yaml:3:1: engin: unknown key \(did you mean engine\?\)/] },
  ])
  edit(fleet, 'engin: auto', 'drainTimeout: 1s')
  t.match(await fleet.says('reloaded', 2), [{}, { settings: ['drainTimeout'] }])
})
