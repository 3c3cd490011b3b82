// The program on its way to its end, and one of its workers: what clients, operators and whoever started it see.

import { once } from 'node:events'
import { connect } from 'node:net'
import type { Test } from 'tap'
import t from 'tap'
import type { Fleet } from './support/control.ts'
import { chatConfig, closed, echoes, openTunnel, startFleet, workersOf } from './support/control.ts'
import { echo, startOrigin, upgradeRequest } from './support/origin.ts'
import type { Peer } from './support/peer.ts'
import { startProgram } from './support/program.ts'

async function openSome(fleet: Fleet, count: number): Promise<Peer[]> {
  const clients: Peer[] = []
  while (clients.length < count) {
    const client = await fleet.open()
    void client.ended.then(() => client.end())
    clients.push(client)
  }
  return clients
}

/** Resolves when all workers know that they drain. */
async function draining(fleet: Fleet): Promise<void> {
  const isBegun = async () => {
    const { json } = await fleet.control('/workers')
    const { workers } = json as { readonly workers: readonly { readonly drain: { leftMs: number } | null }[] }
    return workers.every(({ drain }) => drain !== null && drain.leftMs > 0)
  }
  while (!(await isBegun())) await new Promise(setImmediate)
}

/** Resolves when every worker has a share of the tunnels. */
async function openInBoth(fleet: Fleet): Promise<Peer[]> {
  const clients = await openSome(fleet, 40)
  const accepted = await fleet.says('tunnel accepted', clients.length)
  if (new Set(accepted.map(({ worker }) => worker)).size < 2) throw new Error('one in 2^39')
  return clients
}

const commandIn = (t: Test, fleet: Fleet, ...words: string[]) =>
  startProgram(t, [...words, '--config', 'headrace.yaml'], { cwd: fleet.folder }).ended

t.test('SIGTERM closes the rest spread over drainTimeout, says how it went, and ends with 0', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const fleet = await startFleet(t, chatConfig(origin.address, 'workers: 2\ndrainTimeout: 3s\n'))
  const clients = await openInBoth(fleet)
  const endedAt: number[] = []
  const startedAt = performance.now()
  for (const client of clients) void client.ended.then(() => endedAt.push(performance.now() - startedAt))
  fleet.program.child.kill('SIGTERM')
  t.match(await fleet.says('draining'), [
    { of: 'all', tunnels: 40, drainMs: 3_000, spreadMs: 3_000, delayMs: 0 },
  ])
  t.match(await fleet.program.ended, { code: 0, signal: null, stderr: '' })
  t.match(fleet.said('drained'), [{ level: 'info', of: 'all', ended: 0, closed: 40, cut: 0 }])
  const [tenth = 0, thirtieth = 0] = [endedAt[9], endedAt[29]]
  t.ok(thirtieth - tenth > 500, `${tenth} and ${thirtieth} ms: not all at once`)
})

t.test('drainSpread: until its time nobody is closed', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const more = 'workers: 1\ndrainTimeout: 2s\ndrainSpread: 500ms\n'
  const fleet = await startFleet(t, chatConfig(origin.address, more))
  const clients = await openSome(fleet, 10)
  const startedAt = performance.now()
  const firstEnd = Promise.race(clients.map((client) => client.ended)).then(
    () => performance.now() - startedAt,
  )
  fleet.program.child.kill('SIGTERM')
  t.ok((await firstEnd) >= 1_500, `${await firstEnd} ms`)
  t.match(await fleet.program.ended, { code: 0 })
  t.match(fleet.said('drained'), [{ ended: 0, closed: 10, cut: 0 }])
})

t.test('a second signal cuts what is open: exit code 4', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const fleet = await startFleet(t, chatConfig(origin.address, 'workers: 2\ndrainTimeout: 1h\n'))
  const clients = await openInBoth(fleet)
  fleet.program.child.kill('SIGTERM')
  await draining(fleet)
  const [first] = clients
  first?.end()
  await fleet.says('tunnel closed')
  fleet.program.child.kill('SIGTERM')
  t.match(await fleet.program.ended, { code: 4, signal: null, stderr: '' })
  t.match(fleet.said('drained'), [{ level: 'warn', ended: 1, closed: 0, cut: 39 }])
})

t.test('two signals at once are a first and a second one', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const fleet = await startFleet(t, chatConfig(origin.address, 'workers: 2\ndrainTimeout: 1h\n'))
  await openSome(fleet, 4)
  fleet.program.child.kill('SIGTERM')
  fleet.program.child.kill('SIGINT')
  t.match(await fleet.program.ended, { code: 4, signal: null, stderr: '' })
  t.match(fleet.said('drained'), [{ ended: 0, cut: 4 }])
})

t.test('drainDelay: unready at once, and everybody is accepted until it is over', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const more = 'workers: 2\ndrainTimeout: 1h\ndrainDelay: 1h\n'
  const fleet = await startFleet(t, chatConfig(origin.address, more))
  fleet.program.child.kill('SIGTERM')
  t.match(await fleet.says('draining'), [{ delayMs: 3_600_000 }])
  t.match(await fleet.control('/readyz'), { status: 503, json: { status: 'draining' } })
  t.match(await fleet.control('/healthz'), { status: 200 })
  t.ok(await echoes(await fleet.open(), 'welcome'))
  // Who does not want to wait for it says so.
  t.match(await commandIn(t, fleet, 'drain', '--timeout', '500ms'), { code: 0, stdout: /tunnels open: 1\n/ })
  t.match(await fleet.program.ended, { code: 0 })
  t.match(fleet.said('drained'), [{ ended: 0, closed: 1, cut: 0 }])
})

t.test('a worker is recycled: nobody is refused, the others notice nothing', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const fleet = await startFleet(t, chatConfig(origin.address, 'workers: 2\ndrainTimeout: 1h\n'))
  const clients = await openInBoth(fleet)
  const accepted = fleet.said('tunnel accepted')
  const before = await workersOf(fleet)
  let isOver = false
  let came = 0
  const coming = (async () => {
    while (!isOver) {
      const client = await openTunnel(t, fleet.address)
      t.ok(await echoes(client, 'hello'))
      client.end()
      await client.closed
      came += 1
    }
  })()
  const drained = await commandIn(t, fleet, 'drain', '--worker', 'worker-1', '--timeout', '1s', '--wait')
  t.match(drained, { code: 0, stdout: /^draining worker-1, tunnels open: \d+\ndrained\n$/, stderr: '' })
  isOver = true
  await coming
  t.ok(came > 10, `${came} came meanwhile`)
  const own = accepted.filter(({ worker }) => worker === 'worker-1').length
  t.match(await fleet.says('draining'), [{ of: 'worker-1', drainMs: 1_000 }])
  const [{ closed: count } = {}] = await fleet.says('drained')
  t.ok(Number(count) >= own && Number(count) <= own + 1, `${count} of ${own}`)
  const [first, second] = await workersOf(fleet)
  t.match(first, { name: 'worker-0', pid: before[0]?.pid, restarts: 0, state: 'running' })
  t.match(second, { name: 'worker-1', restarts: 1, state: 'running', drain: null })
  t.not(second?.pid, before[1]?.pid)
  t.equal(fleet.said('a process has died').length, 0)
  const living = clients.filter(({ socket }) => !socket.readableEnded)
  t.equal(living.length, 40 - own)
  for (const client of living) t.ok(await echoes(client, 'alive'))
  t.equal((await fleet.control('/readyz')).status, 200)
  // Both accept again.
  await openInBoth(fleet)
})

t.test('while a worker drains its state says how far it is, and the log every few seconds', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const fleet = await startFleet(t, chatConfig(origin.address, 'workers: 2\ndrainTimeout: 1h\n'))
  await openInBoth(fleet)
  const drain = async (body: object) => await fleet.control('/drain', { method: 'POST', body })
  t.match(await drain({ worker: 'worker-0' }), {
    status: 202,
    json: { isDraining: false, workers: [{ drain: { ended: 0, cut: 0 } }, { drain: null }] },
  })
  t.match(await fleet.says('changed by an operator'), [{ what: 'drain', of: 'worker-0' }])
  const refused = await drain({ worker: 'worker-1' })
  t.match(refused, { status: 400, json: { detail: /worker-0 drains already: one at a time/ } })
  t.match(await fleet.says('still draining'), [{ of: 'worker-0', ended: 0, cut: 0 }])
  // Less time for the same one.
  t.match(await drain({ worker: 'worker-0', timeoutMs: 100 }), { status: 202 })
  await fleet.says('drained')
  await fleet.says('a process was replaced')
})

t.test(
  'an operator ends the program: the signal of whoever started it comes on top, and is the first',
  async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const fleet = await startFleet(t, chatConfig(origin.address, 'workers: 2\ndrainTimeout: 1h\n'))
    const clients = await openInBoth(fleet)
    const waiting = commandIn(t, fleet, 'drain', '--wait')
    await closed(fleet.address)
    fleet.program.child.kill('SIGTERM')
    for (const client of clients) {
      t.ok(await echoes(client, 'still here'))
      client.end()
    }
    t.match(await fleet.program.ended, { code: 0, stderr: '' })
    t.match(await waiting, { code: 0, stdout: 'draining all workers, tunnels open: 40\ndrained\n' })
  },
)

t.test('what drain can not do, and why', async (t) => {
  const fleet = await startFleet(t, chatConfig('127.0.0.1:1', 'workers: 1\n'))
  const drain = async (...words: string[]) => await commandIn(t, fleet, 'drain', ...words)
  t.match(await drain('--worker', 'worker-0'), {
    code: 1,
    stderr: /no other worker runs that could accept for worker-0/,
  })
  t.match(await drain('--worker', 'worker-7'), { code: 1, stderr: /no worker worker-7; there are worker-0/ })
  t.match(await drain('--timeout', 'soon'), { code: 2, stderr: /"soon" is no duration: write such as 30s/ })
  t.match(await fleet.control('/drain', { method: 'POST', body: { timeoutMs: -1 } }), { status: 400 })
  t.equal((await fleet.control('/readyz')).status, 200)
  t.match((await workersOf(fleet))[0], { state: 'running', drain: null })
})

t.test('a worker that is killed while it drains has cut its tunnels', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const fleet = await startFleet(t, chatConfig(origin.address, 'workers: 1\ndrainTimeout: 1h\n'))
  await openSome(fleet, 5)
  const [{ pid } = { pid: 0 }] = await workersOf(fleet)
  fleet.program.child.kill('SIGTERM')
  await closed(fleet.address)
  t.match(await fleet.control('/workers'), { json: { workers: [{ drain: { open: 5 } }] } })
  process.kill(pid, 'SIGKILL')
  t.match(await fleet.program.ended, { code: 4 })
  t.match(fleet.said('drained'), [{ cut: 5 }])
})

t.test('nobody who is connected is reset when the program stops accepting', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const fleet = await startFleet(t, chatConfig(origin.address, 'workers: 2\ndrainTimeout: 2s\n'))
  const [host = '', port = ''] = fleet.address.split(':')
  const outcomes: string[] = []
  let isOver = false
  async function comeAgain(): Promise<void> {
    while (!isOver) {
      const socket = connect(Number(port), host)
      const isConnected = await once(socket, 'connect').then(
        () => true,
        () => false,
      )
      if (!isConnected) {
        isOver = true
        continue
      }
      socket.write(upgradeRequest())
      outcomes.push(
        await once(socket, 'data').then(
          ([data]) => String(data).slice(0, 12),
          (error: NodeJS.ErrnoException) => String(error.code),
        ),
      )
      socket.destroy()
    }
  }
  const coming = Promise.all(Array.from({ length: 20 }, comeAgain))
  while (outcomes.length < 200) await new Promise(setImmediate)
  fleet.program.child.kill('SIGTERM')
  await coming
  t.strictSame([...new Set(outcomes)], ['HTTP/1.1 101'])
  t.match(await fleet.program.ended, { code: 0 })
})
