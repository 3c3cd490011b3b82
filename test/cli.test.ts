// The command line, run as users run it: transcripts of what it answers, and programs that listen until a signal.

import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, realpathSync, writeFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { Test } from 'tap'
import t from 'tap'
import type { RawData } from 'ws'
import { WebSocket } from 'ws'
import { jsonSchema } from '../src/config/schema.ts'
import { selfSigned } from './support/certificates.ts'
import { closed } from './support/control.ts'
import { echo, startOrigin, upgradeRequest } from './support/origin.ts'
import type { Peer } from './support/peer.ts'
import { connectTo } from './support/peer.ts'
import { startProgram } from './support/program.ts'

const pem = await selfSigned({ names: ['chat.example.com'] })

function newFolder(t: Test, files: Readonly<Record<string, string>> = {}): string {
  const folder = realpathSync(mkdtempSync(join(tmpdir(), 'headrace-cli-')))
  t.teardown(() => rm(folder, { recursive: true }))
  const all = { 'cert.pem': pem.certificate, 'key.pem': pem.key, ...files }
  for (const [name, text] of Object.entries(all)) {
    mkdirSync(dirname(join(folder, name)), { recursive: true })
    writeFileSync(join(folder, name), text)
  }
  return folder
}

interface Transcript {
  readonly what: string
  readonly environment: Readonly<Record<string, string>>
  readonly words: readonly string[]
  /** As it is written: `status N`, standard output, standard error. */
  readonly expected: string
  readonly files: Readonly<Record<string, string>>
}

/** A line that says what it shows, `$ NAME=value headrace WORDS`, the status, and sections that begin with `--- NAME`. */
function transcriptOf(text: string): Transcript {
  const [start = '', ...sections] = text.split(/^--- /m)
  const [what = '', command = '', status = ''] = start.split('\n')
  const named = sections.map((section) => {
    const end = section.indexOf('\n')
    return [section.slice(0, end), section.slice(end + 1)] as const
  })
  const { stdout = '', stderr = '', ...files } = Object.fromEntries(named)
  const parts = command.replace('$ ', '').split(' ')
  const at = parts.indexOf('headrace')
  return {
    what,
    environment: Object.fromEntries(parts.slice(0, at).map((one) => one.split('=', 2) as [string, string])),
    words: parts.slice(at + 1),
    expected: transcript(status, stdout, stderr),
    files,
  }
}

function transcript(status: string, stdout: string, stderr: string): string {
  return `${status}\n--- stdout\n${stdout}--- stderr\n${stderr}`
}

t.test('transcripts', async (t) => {
  const names = readdirSync('test/cli').filter((name) => name.endsWith('.txt'))
  t.ok(names.length > 15, `${names.length} of them`)
  for (const name of names) {
    const { what, environment, words, expected, files } = transcriptOf(
      readFileSync(join('test/cli', name), 'utf8'),
    )
    const folder = newFolder(t, files)
    const { code, stdout, stderr } = await startProgram(t, words, { cwd: folder, environment }).ended
    const found = transcript(`status ${code}`, stdout, stderr)
      .replaceAll(`${folder}/`, '')
      .replaceAll(process.cwd(), 'ROOT')
    t.equal(found, expected, `${name}: ${what}`)
  }
})

t.test('version and schema are those of the package', async (t) => {
  const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string }
  t.match(await startProgram(t, ['--version']).ended, { code: 0, stdout: `${version}\n`, stderr: '' })
  const { code, stdout } = await startProgram(t, ['schema']).ended
  t.equal(code, 0)
  t.strictSame(JSON.parse(stdout), JSON.parse(JSON.stringify(jsonSchema())))
  t.strictSame(JSON.parse(readFileSync('dist/headrace.schema.json', 'utf8')), JSON.parse(stdout))
})

function configFor(origin: string, more = ''): string {
  return `listeners: [{ address: "127.0.0.1:0" }]
services:
  - id: chat
    domains: ["*"]
    websockets: on
    backends: [{ name: origin, address: "${origin}" }]
${more}`
}

/** The program with an echo behind it, and a client with an open tunnel. */
async function runWithTunnel(t: Test, more = '') {
  const origin = await startOrigin(t, { answer: echo })
  const folder = newFolder(t, { 'headrace.yaml': configFor(origin.address, more) })
  const program = startProgram(t, ['run', '--config', 'headrace.yaml'], { cwd: folder })
  const [, address = ''] = /^headrace listens on (\S+)$/.exec(await program.line()) ?? []
  const client = await connectTo(t, address)
  client.write(upgradeRequest())
  await client.until('\r\n\r\n')
  return { program, address, client }
}

async function echoes(client: Peer, text: string): Promise<boolean> {
  client.write(text)
  return (await client.until(text)).endsWith(text)
}

t.test('run says where it listens, tunnels, logs JSON lines, and a signal ends it with 0', async (t) => {
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    const { program, client } = await runWithTunnel(t)
    t.ok(await echoes(client, 'through the program'))
    client.end()
    await client.closed
    t.match(JSON.parse(await program.line()), { msg: 'engine chosen', engine: /^(epoll|stream)$/ })
    t.match(JSON.parse(await program.line()), { msg: 'tunnel accepted', service: 'chat' })
    t.match(JSON.parse(await program.line()), { msg: 'tunnel closed', end: 'client-fin-tunnel' })
    program.child.kill(signal)
    t.match(await program.ended, { code: 0, signal: null, stderr: '' }, signal)
  }
})

t.test('run names all its addresses', async (t) => {
  const folder = newFolder(t)
  const path = join(folder, 'edge.sock')
  const listeners = `listeners: [{ address: "127.0.0.1:0" }, { address: "unix:${path}" }]`
  const config = configFor('127.0.0.1:1').replace(/^listeners.*$/m, listeners)
  writeFileSync(join(folder, 'headrace.yaml'), config)
  const program = startProgram(t, ['run', '-c', 'headrace.yaml'], { cwd: folder })
  t.match(await program.line(), new RegExp(`^headrace listens on 127\\.0\\.0\\.1:[1-9][0-9]*, unix:${path}$`))
  program.child.kill('SIGTERM')
  t.match(await program.ended, { code: 0, stderr: '' })
})

t.test(
  "after SIGTERM nobody is accepted, an open tunnel lives on, and its end is the program's",
  async (t) => {
    const { program, address, client } = await runWithTunnel(t, 'drainTimeout: 1h\n')
    program.child.kill('SIGTERM')
    await closed(address)
    t.ok(await echoes(client, 'still here'))
    client.end()
    t.match(await program.ended, { code: 0, signal: null, stderr: '' })
  },
)

t.test('a second SIGTERM ends the tunnels at once', async (t) => {
  const { program, address, client } = await runWithTunnel(t, 'drainTimeout: 1h\n')
  program.child.kill('SIGTERM')
  await closed(address)
  t.ok(await echoes(client, 'still here'))
  program.child.kill('SIGTERM')
  await client.ended
  client.end()
  const { code, stdout, stderr } = await program.ended
  t.strictSame([code, stderr], [4, ''])
  t.match(stdout, /"end":"operator-fin-tunnel"/)
})

t.test('an address that is taken is exit code 3, and says what to do', async (t) => {
  const taken = createServer().listen(0, '127.0.0.1')
  await once(taken, 'listening')
  t.teardown(() => taken.close())
  const { port } = taken.address() as { port: number }
  const folder = newFolder(t, {
    'headrace.yaml': configFor('127.0.0.1:1').replace('127.0.0.1:0', `127.0.0.1:${port}`),
  })
  const said = `headrace: a listener could not be opened: EADDRINUSE 127.0.0.1:${port}: something else listens there
hint: choose another address, or free this one
`
  const words = [
    ['run', '--config', 'headrace.yaml'],
    ['demo', '--port', String(port)],
  ]
  for (const one of words) {
    t.match(
      await startProgram(t, one, { cwd: folder }).ended,
      { code: 3, stdout: '', stderr: said },
      one.join(' '),
    )
  }
})

interface Demo {
  readonly address: string
  readonly stop: (signal: NodeJS.Signals) => Promise<unknown>
  readonly greeting: readonly string[]
}

async function startDemo(t: Test, words: readonly string[], script?: string): Promise<Demo> {
  const program = startProgram(t, words, script === undefined ? {} : { script })
  const [, address = ''] = /^headrace listens on ([^,]+), /.exec(await program.line()) ?? []
  while ((await program.line()) !== 'Ctrl-C ends it');
  return {
    address,
    greeting: program.lines,
    stop(signal) {
      program.child.kill(signal)
      return program.ended
    },
  }
}

/** A client of the demo: the messages of a kind can be waited for. */
async function joinRoom(t: Test, url: string) {
  const socket = new WebSocket(url)
  t.teardown(() => socket.terminate())
  const messages: string[] = []
  let tell = () => {}
  socket.on('message', (data: RawData) => {
    messages.push(String(data))
    tell()
  })
  await once(socket, 'open')
  return {
    socket,
    async hears(pattern: RegExp): Promise<string> {
      for (;;) {
        const found = messages.find((one) => pattern.test(one))
        if (found !== undefined) return found
        await new Promise<void>((heard) => {
          tell = heard
        })
      }
    },
  }
}

t.test('the demo serves a page whose tabs chat through the tunnel', async (t) => {
  const demo = await startDemo(t, ['demo', '--port', '0'])
  const page = await fetch(`http://${demo.address}/`)
  t.equal(page.status, 200)
  const text = await page.text()
  t.match(text, /<title>Headrace demo<\/title>/)
  t.notMatch(text, /(src|href)="(https?:)?\/\//, 'it needs nothing from elsewhere')
  t.equal((await fetch(`http://${demo.address}/nothing`)).status, 404)
  const ada = await joinRoom(t, `ws://${demo.address}/chat`)
  const grace = await joinRoom(t, `ws://${demo.address}/chat`)
  await ada.hears(/"people","count":2/)
  for (const nonsense of [
    '{',
    '5',
    'null',
    '{"kind":"text","from":"x"}',
    '{"kind":"text","from":"x","text":" "}',
  ]) {
    ada.socket.send(nonsense)
  }
  ada.socket.send(JSON.stringify({ kind: 'text', by: 'tab 1', from: 'Ada', text: 'hello' }))
  for (const tab of [ada, grace]) {
    const message: unknown = JSON.parse(await tab.hears(/"text":/))
    t.match(message, { kind: 'text', by: 'tab 1', from: 'Ada', text: 'hello', sentAt: Number })
  }
  ada.socket.send(JSON.stringify({ kind: 'ping', at: 42 }))
  t.equal(await ada.hears(/pong/), '{"kind":"pong","at":42}')
  grace.socket.close()
  await ada.hears(/"people","count":1/)
  t.match(await demo.stop('SIGINT'), { code: 0, signal: null, stderr: '' }, 'with a tab open, too')
})

t.test('the address for wscat that the demo prints is an echo', async (t) => {
  const demo = await startDemo(t, ['demo', '--port', '0'])
  const [, url = ''] = /npx wscat -c (\S+)/.exec(demo.greeting.join('\n')) ?? []
  const { socket, hears } = await joinRoom(t, url)
  socket.send('hello')
  t.equal(await hears(/./), 'hello')
  t.match(await demo.stop('SIGTERM'), { code: 0, stderr: '' })
})

const withoutCurl = spawnSync('curl', ['--version']).error ? 'curl is not installed' : false

t.test('the curl line that the demo prints is a handshake', { skip: withoutCurl }, async (t) => {
  const demo = await startDemo(t, ['demo', '--port', '0'])
  const [command = ''] = /curl [\s\S]*?\/echo$/m.exec(demo.greeting.join('\n')) ?? []
  const curl = spawn('sh', ['-c', `exec ${command}`], { stdio: ['ignore', 'pipe', 'ignore'] })
  t.teardown(() => curl.kill())
  let answer = ''
  for await (const chunk of curl.stdout) answer += chunk
  t.match(answer, /^HTTP\/1\.1 101 [\s\S]*Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK\+xOo=\r\n/)
  t.match(await demo.stop('SIGTERM'), { code: 0, stderr: '' })
})

t.test('the demo takes the next port if its own is taken', async (t) => {
  const taken = createServer().listen(8080, '127.0.0.1')
  // Whoever has it already serves as well.
  await once(taken, 'listening').catch(() => {})
  t.teardown(() => taken.close())
  const demo = await startDemo(t, ['demo'])
  t.match(demo.address, /^127\.0\.0\.1:80(8[1-9]|9[0-9]|100)$/)
  t.match(await demo.stop('SIGTERM'), { code: 0, stderr: '' })
})

t.test('npm start is the demo, and signals reach it', async (t) => {
  const demo = await startDemo(t, ['--port', '0'], 'scripts/start.mjs')
  t.equal((await fetch(`http://${demo.address}/`)).status, 200)
  t.match(await demo.stop('SIGTERM'), { code: 0, signal: null })
})
