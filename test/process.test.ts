// The program as several processes: what a worker's death costs, what a switch does, how everything ends.

import type { ChildProcess } from 'node:child_process'
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import type { Test } from 'tap'
import t from 'tap'
import { openInherited } from '../src/accept/inherited.ts'
import { HeadraceError } from '../src/errors.ts'
import { startChild } from '../src/process/child.ts'
import type { Hosted } from '../src/process/hosts.ts'
import { createHosts } from '../src/process/hosts.ts'
import { wire } from '../src/process/messages.ts'
import type { AskingAnswers } from './support/asking-process.ts'
import { selfSigned } from './support/certificates.ts'
import type { Fleet } from './support/control.ts'
import { ask, chatConfig, echoes, newFolder, openTunnel, startFleet } from './support/control.ts'
import { echo, startOrigin, upgradeRequest } from './support/origin.ts'
import type { Peer } from './support/peer.ts'
import { connectTo } from './support/peer.ts'
import { PROGRAM, startProgram } from './support/program.ts'

interface Worker {
  readonly name: string
  readonly pid: number
  readonly state: string
  readonly restarts: number
}

async function workersOf(fleet: Fleet): Promise<readonly Worker[]> {
  const { json } = await fleet.control('/workers')
  return (json as { readonly workers: readonly Worker[] }).workers
}

/** Resolves when there is no such process any more; a zombie is none. */
async function gone(pid: number): Promise<void> {
  const isThere = () => {
    try {
      return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
    } catch {
      return false
    }
  }
  while (isThere()) await new Promise((resolve) => setTimeout(resolve, 20))
}

/** Resolves when nobody accepts there any more. */
async function closed(address: string): Promise<void> {
  const [host = '', port = ''] = address.split(':')
  for (;;) {
    const probe = connect(Number(port), host)
    const isOpen = await once(probe, 'connect').then(
      () => true,
      () => false,
    )
    probe.destroy()
    if (!isOpen) return
  }
}

t.test(
  'a killed worker loses its own tunnels and no others; its clients are back within a second',
  async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const fleet = await startFleet(t, chatConfig(origin.address))
    const clients = await Promise.all(Array.from({ length: 60 }, () => fleet.open()))
    const accepted = await fleet.says('tunnel accepted', clients.length)
    const own = accepted.filter(({ worker }) => worker === 'worker-0').length
    t.ok(own > 10 && own < 50, `both have a share: ${own} of 60`)

    const [victim, other] = await workersOf(fleet)
    process.kill(victim?.pid ?? 0, 'SIGKILL')
    const lost: Peer[] = []
    for (const client of clients)
      void Promise.race([client.ended, client.closed]).then(() => lost.push(client))
    const killedAt = performance.now()
    // Nobody is refused while it is replaced: whoever hashes to its socket waits there.
    const again = await Promise.all(Array.from({ length: own }, () => fleet.open()))
    const tookMs = performance.now() - killedAt
    t.ok(tookMs < 1_000, `${own} tunnels again after ${Math.round(tookMs)} ms`)
    await fleet.says('a process was replaced')
    while (lost.length < own) await new Promise(setImmediate)
    const living = clients.filter((client) => !lost.includes(client))
    t.equal(living.length, 60 - own)
    for (const client of [...living, ...again]) t.ok(await echoes(client, 'alive'))

    t.match(await workersOf(fleet), [
      { name: 'worker-0', state: 'running', restarts: 1 },
      { name: 'worker-1', state: 'running', restarts: 0, pid: other?.pid },
    ])
    t.match(fleet.said('a process has died'), [{ process: 'worker-0', why: 'SIGKILL', againInMs: 0 }])
  },
)

t.test('with one worker no connection is refused while it is replaced', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const fleet = await startFleet(t, chatConfig(origin.address, 'workers: 1\n'))
  for (let round = 0; round < 3; round += 1) {
    const [{ pid } = { pid: 0 }] = await workersOf(fleet)
    process.kill(pid, 'SIGKILL')
    t.ok(await echoes(await fleet.open(), 'alive'))
    await fleet.says('a process was replaced', round + 1)
  }
})

t.test('while a worker can not be replaced its neighbour accepts for it, and no longer', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const handler = "export default () => ({ kind: 'handoff', backend: 'origin' })"
  const folder = newFolder(t, { 'edge.mjs': handler })
  const config = chatConfig(origin.address).replace('backends:', 'handler: ./edge.mjs\n    backends:')
  const fleet = await startFleet(t, config, { folder })
  const [{ pid } = { pid: 0 }] = await workersOf(fleet)
  writeFileSync(join(folder, 'edge.mjs'), 'export const nothing = 1')
  process.kill(pid, 'SIGKILL')
  const [failed] = await fleet.says('a process could not start')
  t.match(failed, { process: 'worker-0', code: 'config-invalid', error: /edge\.mjs has no function/ })
  t.equal((await fleet.control('/readyz')).status, 200)
  await Promise.all(Array.from({ length: 30 }, () => fleet.open()))
  const alone = await fleet.says('tunnel accepted', 30)
  t.ok(alone.every(({ worker }) => worker === 'worker-1'))

  writeFileSync(join(folder, 'edge.mjs'), handler)
  await fleet.says('a process was replaced')
  // The answer comes behind the order to stop accepting for the other.
  await fleet.control('/tunnels')
  await Promise.all(Array.from({ length: 30 }, () => fleet.open()))
  const together = (await fleet.says('tunnel accepted', 60)).slice(30)
  const own = together.filter(({ worker }) => worker === 'worker-0').length
  t.ok(own > 3 && own < 27, `both have a share again: ${own} of 30`)
})

t.test('a worker that keeps dying is started again more slowly, and the log says so', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const folder = newFolder(t, {
    'edge.mjs': `export default (request) => {
      if (request.path === '/crash') process.exit(9)
      return { kind: 'handoff', backend: 'origin' }
    }`,
  })
  const config = chatConfig(origin.address, 'workers: 1\n').replace(
    'backends:',
    'handler: ./edge.mjs\n    backends:',
  )
  const fleet = await startFleet(t, config, { folder })
  for (let round = 0; round < 4; round += 1) {
    const client = await connectTo(t, fleet.address)
    client.write(upgradeRequest({}, '/crash'))
    t.equal(await client.all(), '')
  }
  const [third, fourth] = await fleet.says('a process keeps dying', 2)
  t.match(third, { level: 'error', process: 'worker-0', why: 'exit code 9', inARow: 3, againInMs: 250 })
  t.match(fourth, { inARow: 4, againInMs: 500 })
  t.ok(await echoes(await fleet.open(), 'alive'))
})

t.test('a control process that dies is replaced, and no tunnel notices', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const fleet = await startFleet(t, chatConfig(origin.address))
  const client = await fleet.open()
  const children = readFileSync(
    `/proc/${fleet.program.child.pid}/task/${fleet.program.child.pid}/children`,
    'utf8',
  )
  const pids = children.trim().split(' ').map(Number)
  const workers = (await workersOf(fleet)).map(({ pid }) => pid)
  const control = pids.find((pid) => !workers.includes(pid)) ?? 0
  process.kill(control, 'SIGKILL')
  await fleet.says('a process was replaced')
  t.equal((await fleet.control('/readyz')).status, 200, 'the socket that it left behind is no obstacle')
  t.ok(await echoes(client, 'alive'))
})

t.test('the switch acts on every worker, is kept, and holds for a worker that starts later', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const fleet = await startFleet(t, chatConfig(origin.address))
  const open = await Promise.all(Array.from({ length: 20 }, () => fleet.open()))
  const file = join(fleet.folder, 'state/websockets.json')
  t.equal(existsSync(file), false, 'nothing was switched yet')

  const off = await fleet.control('/services/chat', { method: 'PATCH', body: { websockets: 'off' } })
  t.match(off, { status: 200, json: { id: 'chat', websockets: 'off', ended: 0, tunnels: 20 } })
  // As many as it takes for each worker to have had some: it has acted when it is answered.
  const refused = await Promise.all(Array.from({ length: 30 }, () => answerTo(t, fleet.address)))
  for (const answer of refused)
    t.match(answer, /^HTTP\/1\.1 403 [\s\S]*chat; switch them on with: headrace websockets on chat/)
  const workers = new Set((await fleet.says('request refused', 30)).map(({ worker }) => worker))
  t.equal(workers.size, 2, 'both workers have refused')
  for (const client of open) t.ok(await echoes(client, 'open tunnels live on'))
  t.match(JSON.parse(readFileSync(file, 'utf8')), { version: 1, services: { chat: { websockets: 'off' } } })
  t.equal(statSync(file).mode & 0o777, 0o600)

  for (const { pid } of await workersOf(fleet)) process.kill(pid, 'SIGKILL')
  await fleet.says('a process was replaced', 2)
  for (const answer of await Promise.all(Array.from({ length: 10 }, () => answerTo(t, fleet.address)))) {
    t.match(answer, /^HTTP\/1\.1 403 /)
  }

  fleet.program.child.kill('SIGTERM')
  t.match(await fleet.program.ended, { code: 0, stderr: '' })
  const later = await startFleet(t, chatConfig(origin.address), { folder: fleet.folder })
  t.match(await answerTo(t, later.address), /^HTTP\/1\.1 403 /, 'what was switched wins over the config')
  await later.control('/services/chat', { method: 'PATCH', body: { websockets: 'on' } })
  t.match(await answerTo(t, later.address), /^HTTP\/1\.1 101 /)
})

/** The head of the answer to an upgrade. */
async function answerTo(t: Test, address: string): Promise<string> {
  const client = await connectTo(t, address)
  client.write(upgradeRequest())
  const head = await client.until('\r\n\r\n')
  return head.startsWith('HTTP/1.1 101') ? head : await client.all()
}

t.test('switched off with closeTunnels, open tunnels end, and what was on its way to be one', async (t) => {
  const origin = await startOrigin(t)
  const fleet = await startFleet(t, chatConfig(origin.address))
  const clients = await Promise.all(
    Array.from({ length: 10 }, async () => {
      const client = await connectTo(t, fleet.address)
      client.write(upgradeRequest())
      await echo(await origin.next())
      await client.until('\r\n\r\n')
      return client
    }),
  )
  const late = await connectTo(t, fleet.address)
  late.write(upgradeRequest())
  await (await origin.next()).until('\r\n\r\n')
  const off = { method: 'PATCH', body: { websockets: 'off', closeTunnels: true } } as const
  t.match(await fleet.control('/services/chat', off), { status: 200, json: { ended: 10 } })
  for (const client of clients) {
    await client.ended
    client.end()
  }
  t.match(await late.all(), /^HTTP\/1\.1 403 /)
  for (const { end } of await fleet.says('tunnel closed', 10)) t.equal(end, 'operator-fin-tunnel')
})

t.test('a state file that is not ours is no reason to guess', async (t) => {
  const folder = newFolder(t, { 'headrace.yaml': chatConfig('127.0.0.1:1', 'stateDirectory: .\n') })
  writeFileSync(join(folder, 'websockets.json'), '{"version":1,"services":{"chat":"on"}}')
  const { code, stdout, stderr } = await startProgram(t, ['run', '-c', 'headrace.yaml'], { cwd: folder })
    .ended
  t.strictSame([code, stdout], [3, ''])
  t.match(stderr, /websockets\.json is not what headrace wrote: mend or remove it\n/)
})

t.test('two programs can not have one state directory, and the first goes on', async (t) => {
  const first = await startFleet(t, chatConfig('127.0.0.1:1'))
  // The first of these would share the names of workers, the second only the control socket.
  for (const more of ['workers: 1\n', 'workers: 4\n']) {
    writeFileSync(join(first.folder, 'other.yaml'), chatConfig('127.0.0.1:1', more))
    const second = await startProgram(t, ['run', '-c', 'other.yaml'], { cwd: first.folder }).ended
    t.match(second, { code: 3, stdout: '', stderr: /another process (writes to the state|listens there)/ })
  }
  t.equal((await first.control('/readyz')).status, 200)
})

t.test('a port that another headrace has is taken, although both could share it', async (t) => {
  const first = await startFleet(t, chatConfig('127.0.0.1:1'))
  const folder = newFolder(t, { 'headrace.yaml': chatConfig('127.0.0.1:1', '', [first.address]) })
  const { code, stderr } = await startProgram(t, ['run', '-c', 'headrace.yaml'], { cwd: folder }).ended
  t.equal(code, 3)
  t.match(stderr, new RegExp(`EADDRINUSE ${first.address}: something else listens there`))
})

t.test('draining: unready at once, nobody is accepted, tunnels live on and end by themselves', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const fleet = await startFleet(t, chatConfig(origin.address, 'workers: 2\ndrainTimeout: 1h\n'))
  const clients = await Promise.all(Array.from({ length: 10 }, () => fleet.open()))
  t.match(await fleet.control('/readyz'), { status: 200, json: { status: 'ready' } })
  fleet.program.child.kill('SIGTERM')
  await fleet.says('draining')
  await closed(fleet.address)
  t.match(await fleet.control('/readyz'), { status: 503, json: { status: 'draining' } })
  t.match(await fleet.control('/healthz'), { status: 200, text: 'ok\n' })
  t.match((await fleet.control('/tunnels')).json, { total: 10 })
  for (const client of clients) {
    t.ok(await echoes(client, 'still here'))
    client.end()
  }
  t.match(await fleet.program.ended, { code: 0, signal: null, stderr: '' })
  t.equal(existsSync(join(fleet.folder, 'state/control.sock')), false, 'nothing is left behind')
})

t.test('a second signal ends the tunnels of all workers, and all processes', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const fleet = await startFleet(t, chatConfig(origin.address, 'workers: 2\ndrainTimeout: 1h\n'))
  const clients = await Promise.all(Array.from({ length: 10 }, () => fleet.open()))
  const workers = await workersOf(fleet)
  fleet.program.child.kill('SIGTERM')
  await closed(fleet.address)
  fleet.program.child.kill('SIGINT')
  for (const client of clients) {
    await client.ended
    client.end()
  }
  t.match(await fleet.program.ended, { code: 0, signal: null, stderr: '' })
  for (const { pid } of workers) await gone(pid)
})

t.test(
  'signals that reach the workers, as from a terminal, change nothing: the primary decides',
  async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const fleet = await startFleet(t, chatConfig(origin.address))
    const client = await fleet.open()
    for (const { pid } of await workersOf(fleet)) {
      process.kill(pid, 'SIGINT')
      process.kill(pid, 'SIGTERM')
    }
    t.ok(await echoes(client, 'alive'))
    t.ok(await echoes(await fleet.open(), 'alive'))
  },
)

t.test('a primary that is killed leaves workers that drain and go, and a port that is free', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const fleet = await startFleet(t, chatConfig(origin.address, 'workers: 2\ndrainTimeout: 1h\n'))
  const clients = await Promise.all(Array.from({ length: 10 }, () => fleet.open()))
  const workers = await workersOf(fleet)
  fleet.program.child.kill('SIGKILL')
  await closed(fleet.address)
  for (const client of clients) t.ok(await echoes(client, 'still here'))
  const [first, ...more] = clients
  first?.end()
  await first?.closed
  // Nobody is there any more that could tell them: now a signal is theirs.
  for (const { pid } of workers) process.kill(pid, 'SIGTERM')
  for (const client of more) {
    await client.ended
    client.end()
  }
  for (const { pid } of workers) await gone(pid)
})

const pem = await selfSigned({ names: ['chat.example.com'] })

t.test('TLS, PROXY protocol and Unix sockets are inherited as well', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const folder = newFolder(t, { 'cert.pem': pem.certificate, 'key.pem': pem.key })
  const listeners = `listeners:
  - { address: "127.0.0.1:0", tls: { certificate: cert.pem, key: key.pem } }
  - { address: "127.0.0.1:0", proxyProtocol: { from: [127.0.0.1] } }
  - { address: "unix:${folder}/edge.sock" }`
  const fleet = await startFleet(t, chatConfig(origin.address).replace(/^listeners.*$/m, listeners), {
    folder,
  })
  const [tls = '', proxied = '', unix = ''] = fleet.addresses
  t.equal(unix, `unix:${folder}/edge.sock`)
  const over = async (client: Peer, start = '') => {
    client.write(start + upgradeRequest())
    await client.until('\r\n\r\n')
    t.ok(await echoes(client, 'through'))
  }
  for (let round = 0; round < 8; round += 1) {
    await over(await connectTo(t, tls, {}))
    await over(await connectTo(t, proxied), 'PROXY TCP4 192.0.2.7 192.0.2.1 5000 80\r\n')
    await over(await connectTo(t, unix))
  }
  const found = await fleet.control('/tunnels?client=192.0.2.7')
  t.match(found.json, { total: 8, tunnels: [{ listener: proxied }] })
  fleet.program.child.kill('SIGTERM')
  await fleet.says('draining')
  fleet.program.child.kill('SIGTERM')
  t.match(await fleet.program.ended, { code: 0, stderr: '' })
  t.equal(existsSync(`${folder}/edge.sock`), false)
})

t.test('without koffi all workers share one socket', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const folder = newFolder(t, {
    'without-koffi.cjs': `const modules = require('node:module')
      const load = modules._load
      modules._load = (name, ...more) => {
        if (name === 'koffi') throw Object.assign(new Error('not here'), { code: 'MODULE_NOT_FOUND' })
        return load(name, ...more)
      }`,
  })
  const script = `--require=${folder}/without-koffi.cjs`
  const fleet = await startFleet(
    t,
    chatConfig(origin.address, 'workers: 2\n', ['127.0.0.1:0', 'localhost:0']),
    {
      folder,
      script,
      words: [PROGRAM],
    },
  )
  t.match(await fleet.says('engine chosen'), [{ engine: 'stream', reason: /koffi/ }])
  for (const address of fleet.addresses) t.ok(await echoes(await openTunnel(t, address), 'alive'))
  for (const { pid } of await workersOf(fleet)) process.kill(pid, 'SIGKILL')
  t.ok(await echoes(await fleet.open(), 'the backlog has kept it'))
  const other = newFolder(t, { 'headrace.yaml': chatConfig('127.0.0.1:1', '', [fleet.address]) })
  const taken = await startProgram(t, [PROGRAM, 'run', '-c', 'headrace.yaml'], { cwd: other, script }).ended
  t.match(taken, { code: 3, stderr: /EADDRINUSE/ })
})

t.test('sockets to be inherited: all interfaces, names, and what keeps them from being opened', async (t) => {
  for (const calls of [undefined, null]) {
    for (const address of [':0', 'localhost:0', '[::1]:0', '0.0.0.0:0']) {
      const opened = await openInherited(address, 3, ...(calls === null ? [null] : []))
      t.match(opened.address, /:[1-9][0-9]*$/)
      t.equal(opened.descriptors.length, 3)
      opened.close()
      opened.close()
    }
    const away = openInherited('192.0.2.1:8080', 1, ...(calls === null ? [null] : []))
    await t.rejects(away, {
      code: 'listen-failed',
      detail: /EADDRNOTAVAIL 192\.0\.2\.1:8080: this machine does not/,
    })
  }
})

/** A process that answers as support/asking-process.ts says. */
function startAsking(t: Test): ChildProcess {
  const child = fork(new URL('./support/asking-process.js', import.meta.url))
  t.teardown(() => child.kill('SIGKILL'))
  return child
}

t.test('asks between processes: answers, errors with their code, silence, death', async (t) => {
  const child = startAsking(t)
  const other = wire<object, AskingAnswers>('the other', child, {})
  t.equal(await other.ask('add', [1, 2]), 3)
  await t.rejects(other.ask('fail', ['why']), { code: 'argument-invalid', detail: 'why' })
  await t.rejects(other.ask('crash', []), { code: 'internal', detail: 'not ours' })
  const unknown = wire<object, { nothing(): void }>('the other', child, {})
  await t.rejects(unknown.ask('nothing', []), {
    code: 'internal',
    detail: /asks for nothing, which is unknown here/,
  })
  await t.rejects(other.ask('sleep', [], 50), {
    code: 'process-silent',
    detail: 'the other did not answer sleep within 50 ms',
  })
  const asked = other.ask('sleep', [], Number.POSITIVE_INFINITY)
  child.kill('SIGKILL')
  await once(child, 'exit')
  other.cut('has died')
  await t.rejects(asked, { code: 'process-silent', detail: 'the other has died' })
  await t.rejects(other.ask('add', [1, 2]), { code: 'process-silent', detail: /can't be asked/ })
})

/** Counts what is held, as a ledger for several workers does. */
function permits(limit: number): Hosted & { readonly held: ReadonlyMap<string, number> } {
  const held = new Map<string, number>()
  return {
    held,
    ask(holder, request) {
      const taken = [...held.values()].reduce((sum, count) => sum + count, 0)
      if (taken + Number(request) > limit) throw new HeadraceError('backend-full', `${taken} of ${limit}`)
      held.set(holder, (held.get(holder) ?? 0) + Number(request))
      return limit - taken - Number(request)
    },
    release: (holder) => void held.delete(holder),
  }
}

t.test('what a process holds of a ledger in the primary is free when it dies', async (t) => {
  const ledger = permits(5)
  const hosts = createHosts({ permits: ledger })
  const child = startChild<
    { hosted(name: string, request: unknown): Promise<unknown> },
    AskingAnswers,
    number
  >({
    name: 'asking',
    module: new URL('./support/asking-process.js', import.meta.url),
    descriptors: [],
    answers: (life) => ({ hosted: (name, request) => hosts.ask(life, name, request) }),
    start: (line) => line.ask('add', [1, 1]),
    over: hosts.release,
    watch: { died: () => {}, replaced: () => {}, failed: () => {} },
  })
  t.equal(await child.started, 2)
  t.equal(await child.wire?.ask('take', ['permits', 3]), 2)
  await t.rejects(child.wire?.ask('take', ['permits', 3]) ?? Promise.resolve(), {
    code: 'backend-full',
    detail: '3 of 5',
  })
  await t.rejects(child.wire?.ask('take', ['other', 3]) ?? Promise.resolve(), {
    code: 'internal',
    detail: /nothing named other is hosted/,
  })
  t.strictSame([...ledger.held], [['asking.1', 3]])
  process.kill(child.pid ?? 0, 'SIGKILL')
  while (child.restarts === 0 || child.state !== 'running')
    await new Promise((resolve) => setTimeout(resolve, 20))
  t.strictSame([...ledger.held], [])
  t.equal(await child.wire?.ask('take', ['permits', 5]), 0)
  await child.stop(1_000)
  t.equal(child.state, 'stopped')
  t.strictSame([...ledger.held], [])
})

t.test('the admin address is that of the config, and one that is taken stops the start', async (t) => {
  const first = await startFleet(t, chatConfig('127.0.0.1:1', 'admin: { address: "127.0.0.1:0" }\n'))
  const [{ address } = { address: '' }] = await first.says('admin API listens')
  t.match(await ask(String(address), '/readyz'), { status: 200 })
  const folder = newFolder(t, {
    'headrace.yaml': chatConfig('127.0.0.1:1', `admin: { address: "${address}" }\n`),
  })
  const { code, stdout, stderr } = await startProgram(t, ['run', '-c', 'headrace.yaml'], { cwd: folder })
    .ended
  t.strictSame([code, stdout], [3, ''])
  t.match(stderr, new RegExp(`EADDRINUSE ${address}: something else listens there`))
})
