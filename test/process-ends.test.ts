// The program as several processes: how it ends, what workers inherit, and what processes ask each other.

import type { ChildProcess } from 'node:child_process'
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import t from 'tap'
import { openInherited } from '../src/accept/inherited.ts'
import { HeadraceError } from '../src/errors.ts'
import { startChild } from '../src/process/child.ts'
import type { Hosted } from '../src/process/hosts.ts'
import { createHosts } from '../src/process/hosts.ts'
import { createIdentity } from '../src/process/identity.ts'
import { wire } from '../src/process/messages.ts'
import type { AskingAnswers } from './support/asking-process.ts'
import { selfSigned } from './support/certificates.ts'
import {
  ask,
  chatConfig,
  closed,
  echoes,
  gone,
  newFolder,
  openTunnel,
  startFleet,
  workersOf,
} from './support/control.ts'
import { echo, startOrigin, upgradeRequest } from './support/origin.ts'
import type { Peer } from './support/peer.ts'
import { connectTo } from './support/peer.ts'
import { PROGRAM, startProgram, WITHOUT_KOFFI } from './support/program.ts'

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
  t.match(await fleet.program.ended, { code: 4, signal: null, stderr: '' })
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
  t.match(await fleet.program.ended, { code: 4, stderr: '' })
  t.equal(existsSync(`${folder}/edge.sock`), false)
})

t.test('without koffi all workers share one socket', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const folder = newFolder(t, { 'without-koffi.cjs': WITHOUT_KOFFI })
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
    descriptors: () => [],
    settled: async () => {},
    identity: createIdentity(null),
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
