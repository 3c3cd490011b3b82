// "Coming from Fastly", "… from Cloudflare" and "… from http-proxy": the programs, configs and commands of these pages, run as they stand there,
// with other ports, in front of a real origin.

import { mkdirSync, symlinkSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { Test } from 'tap'
import t from 'tap'
import { freePort } from '../bench/peers/program.ts'
import type { Fleet } from './support/control.ts'
import { ask, listening, newFolder, startFleet } from './support/control.ts'
import type { Page } from './support/page.ts'
import { adapted, openShell, readPage } from './support/page.ts'
import { startProgram } from './support/program.ts'
import { killTree } from './support/releases.ts'
import type { Asked } from './support/site.ts'
import { refusal, startSite, valuesOf, visit } from './support/site.ts'
import { skipWithout } from './support/tools.ts'
import type { Talker } from './support/websocket.ts'
import { talkTo } from './support/websocket.ts'

/** So many that each of two workers has some. */
const CLIENTS = 24

const CLUSTER = resolve('build/test/support/cluster.js')

/** The admin API of a config of the page is where the system wants it. */
const ADMIN = { '127.0.0.1:9901': '127.0.0.1:0' }

function from(host: string, more: Readonly<Record<string, string>> = {}) {
  return { headers: { host, ...more } }
}

/** The page's commands after its own start, with the admin address that it has here. */
async function commandsOf(page: Page, fleet: Fleet): Promise<string[]> {
  const [{ address } = {}] = await fleet.says('admin API listens')
  const lines = page.commands.filter((line) => !line.startsWith('npx headrace run '))
  return adapted(lines.join('\n'), { '127.0.0.1:9901': String(address) }).split('\n')
}

function command(lines: readonly string[], start: string | RegExp): string {
  const found = lines.find((line) => (typeof start === 'string' ? line.startsWith(start) : start.test(line)))
  if (found === undefined) throw new Error(`the page has no command ${start}`)
  return found
}

t.test('coming from Fastly', async (t) => {
  const page = readPage('docs/coming-from-fastly.md')
  const { 'main.js': program = '', 'headrace.yaml': compute = '', 'vcl.yaml': vcl = '' } = page.files
  const ws = await startSite(t, 'ws')
  const web = await startSite(t, 'web')
  const ports = {
    '127.0.0.1:8080': '127.0.0.1:0',
    '127.0.0.1:9200': ws.address,
    '127.0.0.1:9201': web.address,
  }
  const mine = from('chat.example.com', { 'X-Debug': '1', 'X-Mine': '2' })

  /** What real clients meet, whatever decides. */
  async function checkSite(t: Test, address: string, host: string): Promise<Asked> {
    const visits = await Promise.all(
      Array.from({ length: CLIENTS }, () => visit(t, address, '/chat?x=%7e', mine)),
    )
    for (const { asked, ...heard } of visits) {
      t.match(asked, { site: 'ws', url: '/chat?x=%7e' })
      t.strictSame(valuesOf(asked, 'Host'), [host])
      t.strictSame(valuesOf(asked, 'X-Mine'), ['2'])
      t.strictSame(valuesOf(asked, 'X-Debug'), [])
      t.strictSame(heard, {
        protocol: 'chat.v2',
        echoes: ['grüß dich', 'binary 00ff'],
        closed: { code: 4001, reason: 'enough' },
      })
    }
    const { status, text } = await ask(address, '/news', mine)
    t.equal(status, 200)
    const asked = JSON.parse(text) as Asked
    t.match(asked, { site: 'web', method: 'GET', url: '/news' })
    t.strictSame(valuesOf(asked, 'X-Debug'), [])
    return asked
  }

  await t.test('the program, started by the command', async (t) => {
    const words = adapted(command(page.commands, 'npx headrace run '), ports).split(' ').slice(2)
    const cwd = newFolder(t, { 'main.js': program })
    const [address = ''] = await listening(startProgram(t, words, { cwd }))
    const asked = await checkSite(t, address, 'chat.example.com')
    t.strictSame(valuesOf(asked, 'X-Client'), ['127.0.0.1'])
    t.equal((await ask(address, '/', mine)).headers['x-service'], 'main')
  })

  await t.test('the program, as a service of a config', async (t) => {
    const folder = newFolder(t, { 'main.js': program })
    const fleet = await startFleet(t, adapted(compute, { ...ports, ...ADMIN }), { folder })
    const asked = await checkSite(t, fleet.address, 'chat.example.com')
    t.strictSame(valuesOf(asked, 'X-Client'), ['127.0.0.1'])
    t.equal((await ask(fleet.address, '/', mine)).headers['x-service'], 'chat')
    const lines = await fleet.says('tunnel accepted', CLIENTS)
    t.strictSame(new Set(lines.map(({ worker }) => worker)), new Set(['worker-0', 'worker-1']))
    await fleet.says('tunnel closed', CLIENTS)
    t.match(await refusal(t, fleet.address, '/', from('other.example.com')), '421')
  })

  await t.test('VCL, as routes', async (t) => {
    const fleet = await startFleet(t, adapted(vcl, ports))
    const asked = await checkSite(t, fleet.address, 'ws.example.com')
    t.strictSame(valuesOf(asked, 'X-Edge'), ['1'])
    t.strictSame(valuesOf(asked, 'Host'), ['chat.example.com'])
    const { asked: upgrade } = await visit(t, fleet.address, '/', mine)
    t.strictSame(valuesOf(upgrade, 'X-Edge'), ['1'])
  })

  await t.test('the product API, and usage', { skip: skipWithout('curl') }, async (t) => {
    const folder = newFolder(t, { 'main.js': program })
    const fleet = await startFleet(t, adapted(compute, { ...ports, ...ADMIN }), { folder })
    const commands = await commandsOf(page, fleet)
    const run = openShell(t, folder)
    await run(command(commands, 'TOKEN='))
    await run(command(commands, 'PRODUCT='))
    const open = await talkTo(t, fleet.address, '/', mine)
    await open.next()
    t.equal(await run(command(commands, /-X DELETE/)), '', '204, with nothing')
    t.match(await refusal(t, fleet.address, '/', mine), '403')
    open.socket.send('still here')
    t.equal(await open.next(), 'still here')
    const product = { id: 'websockets', object: 'product' }
    t.match(JSON.parse(await run(command(commands, /-X PUT/))), {
      product,
      service: { id: 'chat', object: 'service' },
    })
    t.equal(await refusal(t, fleet.address, '/', mine), '')
    t.match(JSON.parse(await run(command(commands, /services +#/))), { product, services: ['chat'] })
    const usage = command(commands, 'npx headrace usage ')
    while (!/^chat +2 +2 /m.test(await run(usage))) await new Promise(setImmediate)
  })
})

t.test('coming from Cloudflare', async (t) => {
  const page = readPage('docs/coming-from-cloudflare.md')
  const {
    'worker.js': worker = '',
    'headrace.yaml': config = '',
    'wrangler.toml': wrangler = '',
  } = page.files
  const origin = await startSite(t, 'origin')
  const ports = { '127.0.0.1:8080': '127.0.0.1:0', '127.0.0.1:9200': origin.address, ...ADMIN }
  const folder = newFolder(t, { 'worker.js': worker })
  const fleet = await startFleet(t, adapted(config, ports), { folder })
  const { address } = fleet
  const chat = from('chat.example.com')
  const www = from('www.example.com')

  /** Members of a room, in both workers by and large. */
  async function enter(room: string, names: readonly string[]): Promise<Talker[]> {
    return await Promise.all(names.map((name) => talkTo(t, address, `/room/${room}?name=${name}`, chat)))
  }

  async function heard(one: Talker, count: number): Promise<string[]> {
    const all: string[] = []
    while (all.length < count) all.push(await one.next())
    return all.sort()
  }

  const names = Array.from({ length: 8 }, (_, at) => `client-${at}`)
  const red = await enter('red', names)

  await t.test('the rooms of the Worker are one each, in whatever worker process a client is', async (t) => {
    const blue = await enter('blue', names)
    for (const [at, one] of red.entries()) one.socket.send(`red ${at}`)
    for (const [at, one] of blue.entries()) one.socket.send(`blue ${at}`)
    for (const [room, members] of Object.entries({ red, blue })) {
      const said = names.map((name, at) => `${name}: ${room} ${at}`)
      for (const one of members) t.strictSame(await heard(one, said.length), said)
    }
    for (const one of blue) one.socket.close(4002)
    for (const one of blue) t.match(await one.closed, { code: 4002 })
    const plain = await ask(address, '/room/red', chat)
    t.match(plain, { status: 426, text: 'Expected Upgrade: websocket' })
  })

  await t.test('what the Worker passes on, and a name that has none, come to the origin', async (t) => {
    for (const [options, greeting] of [
      [chat, ['welcome']],
      [www, []],
    ] as const) {
      const visits = await Promise.all(names.map(() => visit(t, address, '/news?x=1', options)))
      for (const { asked, echoes, protocol, closed } of visits) {
        t.match(asked, { site: 'origin', url: '/news?x=1' })
        t.strictSame(valuesOf(asked, 'X-Greeting'), greeting)
        t.strictSame(echoes, ['grüß dich', 'binary 00ff'])
        t.equal(protocol, 'chat.v2')
        t.strictSame(closed, { code: 4001, reason: 'enough' })
      }
      const plain = await ask(address, '/news', options)
      t.match(JSON.parse(plain.text), { site: 'origin', method: 'GET', url: '/news' })
    }
  })

  await t.test('wrangler.toml says the same as the config', (t) => {
    for (const [theirs, ours] of [
      [/main = "(.*)"/, /worker: \.\/(\S+)/],
      [/GREETING = "(.*)"/, /GREETING: (\w+)/],
      [/^name = "(ROOMS)"/m, /objects: \{ (\w+):/],
      [/class_name = "(.*)"/, /ROOMS: (\w+)/],
      [/pattern = "(.*)\/\*"/, /domains: \[(.*)\]/],
    ] as const) {
      const [, found] = theirs.exec(wrangler) ?? []
      t.ok(found, String(theirs))
      t.equal(ours.exec(config)?.[1], found)
    }
    t.end()
  })

  const commands = await commandsOf(page, fleet)
  const run = openShell(t, folder)

  await t.test("the switch, in Cloudflare's shape", { skip: skipWithout('curl') }, async (t) => {
    await run(command(commands, 'TOKEN='))
    await run(command(commands, 'ZONES='))
    const open = await talkTo(t, address, '/', www)
    await open.next()
    const off = JSON.parse(await run(command(commands, /"off"/)))
    t.match(off, { result: { id: 'websockets', value: 'off' }, success: true })
    t.match(await refusal(t, address, '/', www), '403')
    t.equal(await refusal(t, address, '/', chat), '', 'the other service has its own')
    open.socket.send('still here')
    t.equal(await open.next(), 'still here')
    t.match(JSON.parse(await run(command(commands, /"on"/))), { result: { value: 'on' } })
    t.equal(await refusal(t, address, '/', www), '')
  })

  await t.test('a new release: tunnels move, rooms stay where they are until they are over', async (t) => {
    const passed = await talkTo(t, address, '/news', chat)
    const proxied = await talkTo(t, address, '/news', www)
    for (const one of [passed, proxied]) await one.next()
    const said = await run(command(commands, 'npx headrace upgrade '))
    const [, pid] = /has taken over: pid (\d+), 2 workers/.exec(said) ?? []
    t.teardown(() => killTree(Number(pid)))
    t.match(said, `before until they end: ${red.length}`)
    for (const one of [passed, proxied]) {
      one.socket.send('moved')
      t.equal(await one.next(), 'moved')
    }
    const [late] = await enter('red', ['late'])
    late?.socket.send('who is here')
    t.equal(await late?.next(), 'late: who is here')
    red[0]?.socket.send('we are')
    for (const one of red) t.equal(await one.next(), 'client-0: we are', 'and nobody heard the late one')
  })
})

t.test('coming from http-proxy', async (t) => {
  const { 'server.mjs': program = '' } = readPage('docs/http-proxy.md').files

  /** What clients of the program see, before and after its target has gone. */
  async function seenWith(library: string): Promise<Record<string, unknown>> {
    const target = await startSite(t, 'target')
    const port = (await freePort()).toString()
    const changes = {
      "'headrace/http-proxy'": `'${library}'`,
      '127.0.0.1:9200': target.address,
      '8080': port,
    }
    const folder = newFolder(t, { 'server.mjs': adapted(program, changes) })
    mkdirSync(join(folder, 'node_modules'))
    for (const [name, path] of Object.entries({ headrace: '.', 'http-proxy-3': 'node_modules/http-proxy-3' }))
      symlinkSync(resolve(path), join(folder, 'node_modules', name))
    const workers = startProgram(t, [join(folder, 'server.mjs'), '2'], { script: CLUSTER })
    for (const _ of [1, 2]) await workers.line()
    const address = `127.0.0.1:${port}`
    const visits = await Promise.all(
      Array.from({ length: CLIENTS }, () => visit(t, address, '/chat?x=%7e', from('chat.example.com'))),
    )
    const seen = visits.map(({ asked, ...heard }) => {
      const fields = ['Host', 'X-Edge', 'X-Asked', 'Sec-WebSocket-Protocol'].map((name) =>
        valuesOf(asked, name),
      )
      return { ...heard, site: asked.site, url: asked.url, fields }
    })
    const { status, text } = await ask(address, '/')
    await target.stop()
    return { seen, page: { status, text }, last: await refusal(t, address, '/') }
  }

  const ours = await seenWith('headrace/http-proxy')
  t.match(ours, {
    seen: Array.from({ length: CLIENTS }, () => ({
      protocol: 'chat.v2',
      echoes: ['grüß dich', 'binary 00ff'],
      closed: { code: 4001, reason: 'enough' },
      site: 'target',
      url: '/chat?x=%7e',
      fields: [['chat.example.com'], ['1'], ['/chat?x=%7e'], ['chat.v1,chat.v2']],
    })),
    page: { status: 200, text: 'a page\n' },
    last: 'Unexpected server response: 503',
  })
  t.strictSame(ours, await seenWith('http-proxy-3'))
})
