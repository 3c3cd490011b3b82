// A worker that hangs while its process lives: who notices, what becomes of its tunnels, and of those who connect.

import type { Test } from 'tap'
import t from 'tap'
import { isDead } from '../src/admin/health.ts'
import type { WorkerStatus } from '../src/operations.ts'
import type { Fleet } from './support/control.ts'
import { chatConfig, echoes, newFolder, startFleet, workersOf } from './support/control.ts'
import { readExposition } from './support/exposition.ts'
import { echo, startOrigin, upgradeRequest } from './support/origin.ts'
import type { Peer } from './support/peer.ts'
import { connectTo } from './support/peer.ts'

const HANDLER = `export default (request) => {
  if (request.path === '/hang') for (;;);
  return { kind: 'handoff', backend: 'origin' }
}`

/** With a handler that hangs in an endless loop when it is asked for `/hang`. */
async function startHanging(t: Test, more = 'workers: 2\n'): Promise<Fleet> {
  const origin = await startOrigin(t, { answer: echo })
  const folder = newFolder(t, { 'edge.mjs': HANDLER })
  const config = chatConfig(origin.address, more)
  const handled = config.replace('backends:', 'handler: ./edge.mjs\n    backends:')
  return await startFleet(t, handled, { folder })
}

/** So many open tunnels, by who has them. */
async function openMany(fleet: Fleet, count: number): Promise<ReadonlyMap<unknown, Peer[]>> {
  const byWorker = new Map<unknown, Peer[]>()
  for (let at = 0; at < count; at += 1) {
    const before = fleet.said('tunnel accepted').length
    const client = await fleet.open()
    const { worker } = (await fleet.says('tunnel accepted', before + 1))[before] ?? {}
    byWorker.set(worker, [...(byWorker.get(worker) ?? []), client])
  }
  return byWorker
}

t.test('a stopped worker is told, its neighbour accepts for it, and no longer when it goes on', async (t) => {
  const fleet = await startHanging(t)
  const before = await openMany(fleet, 30)
  const [victim] = await workersOf(fleet)
  const own = before.get('worker-0') ?? []
  process.kill(victim?.pid ?? 0, 'SIGSTOP')
  t.match(await fleet.says('a worker is silent'), [
    { process: 'worker-0', pid: victim?.pid, tunnels: Number, remedy: /headrace drain --worker worker-0/ },
  ])
  const meanwhile = await openMany(fleet, 30)
  t.strictSame([...meanwhile.keys()], ['worker-1'], 'nobody waits for it')
  for (const client of before.get('worker-1') ?? []) t.ok(await echoes(client, 'alive'))

  const [silent, other] = await workersOf(fleet)
  t.match(silent, { name: 'worker-0', state: 'silent', pid: victim?.pid, silentMs: Number, restarts: 0 })
  t.match(other, { name: 'worker-1', state: 'running', silentMs: null })
  t.match(await fleet.control('/readyz'), { status: 200 })
  t.match(await fleet.control('/healthz'), { status: 200, text: 'ok\n' })
  t.match(await fleet.control('/tunnels'), { status: 200, json: { total: 60 - own.length } })
  const metrics = readExposition((await fleet.control('/metrics')).text)
  t.equal(metrics.value('headrace_worker_up', { worker: 'worker-0' }), 0)
  t.ok((metrics.value('headrace_worker_silent_seconds', { worker: 'worker-0' }) ?? 0) >= 2)
  t.equal(metrics.value('headrace_worker_silent_seconds', { worker: 'worker-1' }), 0)

  process.kill(victim?.pid ?? 0, 'SIGCONT')
  t.match(await fleet.says('a worker answers again'), [{ process: 'worker-0', silentMs: Number }])
  // The answer comes behind the order to stop accepting for the other.
  t.match(await fleet.control('/tunnels'), { json: { total: 60 } })
  const again = await openMany(fleet, 30)
  t.equal(again.size, 2, 'both have a share again')
  for (const client of own) t.ok(await echoes(client, 'alive'))
  t.match(await workersOf(fleet), [{ state: 'running', silentMs: null, restarts: 0 }, { state: 'running' }])
  t.equal(fleet.said('a worker is silent').length, 1, 'it is told once')
})

t.test('a handler in an endless loop stops no tunnel of its worker, and nobody who comes', async (t) => {
  const fleet = await startHanging(t)
  const before = await openMany(fleet, 30)
  const stuck = await connectTo(t, fleet.address)
  stuck.write(upgradeRequest({}, '/hang'))
  const [{ process: name, pid } = {}] = await fleet.says('a worker is silent')
  for (const client of before.get(name) ?? []) t.ok(await echoes(client, 'moved by the kernel engine'))
  const meanwhile = await openMany(fleet, 20)
  t.equal(meanwhile.size, 1)
  t.not([...meanwhile.keys()][0], name)

  // What else would end it: its tunnels end, and no others.
  const { status } = await fleet.control('/drain', {
    method: 'POST',
    body: { worker: name, timeoutMs: 0 },
  })
  t.equal(status, 202)
  await fleet.says('a process was replaced')
  t.match(await fleet.says('drained'), [{ of: name }])
  for (const client of before.get(name) ?? []) await Promise.race([client.ended, client.closed])
  for (const client of [...meanwhile.values()].flat()) t.ok(await echoes(client, 'alive'))
  await fleet.control('/tunnels')
  t.equal((await openMany(fleet, 30)).size, 2)
  t.throws(() => process.kill(Number(pid), 0))
})

t.test('with silentTimeout a worker that hangs is killed and replaced', async (t) => {
  const fleet = await startHanging(t, 'workers: 1\nsilentTimeout: 3s\n')
  const stuck = await connectTo(t, fleet.address)
  stuck.write(upgradeRequest({}, '/hang'))
  const [killed] = await fleet.says('a worker was silent for too long, and is killed')
  t.match(killed, { process: 'worker-0', level: 'error' })
  t.match(await fleet.says('a process has died'), [{ process: 'worker-0', why: 'SIGKILL', pid: killed?.pid }])
  await fleet.says('a process was replaced')
  t.ok(await echoes(await fleet.open(), 'alive'))
  t.match(await workersOf(fleet), [{ state: 'running', silentMs: null, restarts: 1 }])
})

t.test('with nobody who answers it is not ready, and still alive; whoever connects waits', async (t) => {
  const fleet = await startHanging(t, 'workers: 1\n')
  const [{ pid } = { pid: 0 }] = await workersOf(fleet)
  process.kill(pid, 'SIGSTOP')
  await fleet.says('a worker is silent')
  t.match(await fleet.control('/readyz'), { status: 503, json: { status: 'no worker accepts' } })
  t.match(await fleet.control('/healthz'), { status: 200, text: 'ok\n' })
  const waiting = fleet.open()
  process.kill(pid, 'SIGCONT')
  t.ok(await echoes(await waiting, 'alive'))
  await fleet.says('a worker answers again')
  t.match(await fleet.control('/readyz'), { status: 200 })
})

t.test('it is dead when no worker has answered for half a minute, and not before', (t) => {
  const silent = (...all: (number | null)[]) => all.map((silentMs) => ({ silentMs }) as WorkerStatus)
  t.equal(isDead(silent(30_000, 31_000)), true)
  t.equal(isDead(silent(30_000, 29_999)), false)
  t.equal(isDead(silent(1e9, null)), false, 'one of two answers, or is being replaced')
  t.equal(isDead(silent()), false)
  t.end()
})
