// The program as several processes: what a worker's death costs, and what a switch does.

import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import t from 'tap'
import { chatConfig, echoes, newFolder, startFleet, workersOf } from './support/control.ts'
import { echo, startOrigin, upgradeRequest } from './support/origin.ts'
import type { Peer } from './support/peer.ts'
import { connectTo } from './support/peer.ts'
import { startProgram } from './support/program.ts'

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
