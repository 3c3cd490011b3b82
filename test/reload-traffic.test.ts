// Reloads while traffic flows: no tunnel notices, nobody who connects is refused, and what goes wrong in the middle of one
// leaves all workers with the same config.

import { randomBytes } from 'node:crypto'
import { readdirSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import type { Test } from 'tap'
import t from 'tap'
import type { Fleet } from './support/control.ts'
import { newFolder, startFleet, workersOf } from './support/control.ts'
import { echo, startOrigin, upgradeRequest } from './support/origin.ts'
import type { Peer } from './support/peer.ts'
import { connectTo, placeOf } from './support/peer.ts'
import { childrenOf } from './support/program.ts'
import { answers, byRequest, bySignal, edit, site, write } from './support/reloading.ts'

const TUNNELS = 40
const ROUNDS = 20

function talking(origin: string): string {
  return site(origin, 'log: { level: info }\n').replace('body: one', 'body: round-0')
}

/** Sends messages of random bytes until it is told to stop; each must come back as it was. Resolves with how many did. */
async function playPingPong(client: Peer, isOver: () => boolean): Promise<number> {
  let count = 0
  let size = client.size
  do {
    const message = randomBytes(1 + Math.floor(Math.random() * 2_000))
    client.write(message)
    await client.until(size + message.length)
    const back = client.received.subarray(size)
    if (!back.equals(message)) throw new Error(`message ${count} came back changed`)
    size += message.length
    count += 1
    await wait(5)
  } while (!isOver())
  return count
}

interface Comings {
  answered: number
  /** What kept somebody from an answer, with where it was. */
  readonly failures: string[]
}

/** Connects and asks, one after the other, until it is told to stop. */
async function keepComing(address: string, isOver: () => boolean): Promise<Comings> {
  const comings: Comings = { answered: 0, failures: [] }
  do {
    const outcome = await askOnce(address)
    if (outcome.startsWith('HTTP/1.1 200')) comings.answered += 1
    else comings.failures.push(`${address}: ${outcome}`)
  } while (!isOver())
  return comings
}

function askOnce(address: string): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect(placeOf(address))
    let text = ''
    socket.on('data', (chunk) => {
      text += chunk
    })
    socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message))
    socket.on('close', () => resolve(text))
    socket.end('GET / HTTP/1.1\r\nHost: chat.test\r\nConnection: close\r\n\r\n')
  })
}

t.test(
  `${ROUNDS} reloads in a row: no tunnel notices, and nobody is refused`,
  { timeout: 200_000 },
  async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const fleet = await startFleet(t, talking(origin.address))
    const clients = await Promise.all(Array.from({ length: TUNNELS }, () => fleet.open()))
    let isOver = false
    const played = clients.map((client) => playPingPong(client, () => isOver))
    const stayed = Array.from({ length: 3 }, () => keepComing(fleet.address, () => isOver))
    const added: Comings[] = []
    const listeners = '[{ address: "127.0.0.1:0" }]'
    const more = '[{ address: "127.0.0.1:0" }, { address: "127.0.0.2:0" }]'
    for (let round = 1; round <= ROUNDS; round += 1) {
      const isMore = round % 2 === 1
      edit(fleet, `body: round-${round - 1} `, `body: round-${round} `)
      edit(fleet, isMore ? listeners : more, isMore ? more : listeners)
      const { isDone, said } = await bySignal(t, fleet)
      if (!isDone) throw new Error(said)
      if (isMore) {
        const [, address = ''] = /"added":\["(127\.0\.0\.2:[0-9]+)"/.exec(said) ?? []
        // It is there when the line says so.
        added.push(await keepComing(address, () => true), await keepComing(address, () => true))
      }
      t.strictSame(await answers(fleet.address), [`200 round-${round}`])
    }
    isOver = true
    const messages = await Promise.all(played)
    t.ok(
      messages.every((count) => count > ROUNDS),
      `${messages.reduce((sum, one) => sum + one)} messages`,
    )
    const comings = [...(await Promise.all(stayed)), ...added]
    t.strictSame(
      comings.flatMap(({ failures }) => failures),
      [],
    )
    t.ok(comings.reduce((sum, { answered }) => sum + answered, 0) > 2 * ROUNDS)
    t.equal(fleet.said('tunnel closed').length, 0)
    t.ok((await workersOf(fleet)).every(({ restarts }) => restarts === 0))
  },
)

t.test('what waits at a listener that a reload takes away is served before it goes', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const unix = `unix:${newFolder(t)}/edge.sock`
  const more = ['127.0.0.1:0', '127.0.0.2:0', unix].map((one) => `{ address: "${one}" }`)
  const config = talking(origin.address).replace('[{ address: "127.0.0.1:0" }]', `[${more.join(', ')}]`)
  const fleet = await startFleet(t, config)
  const [, tcp = ''] = fleet.addresses
  const workers = await workersOf(fleet)
  for (const { pid } of workers) process.kill(pid, 'SIGSTOP')
  // The system has connected them; nobody has accepted them yet.
  const waiting = await Promise.all(
    [tcp, unix].flatMap((address) =>
      Array.from({ length: 20 }, async () => {
        const client = await connectTo(t, address)
        client.write(upgradeRequest())
        return client
      }),
    ),
  )
  edit(fleet, `, ${more.slice(1).join(', ')}`, '')
  const reloading = byRequest(t, fleet)
  await whileChecking(fleet)
  while (childrenOf(fleet.program, 'checker').length > 0) await wait(5)
  for (const { pid } of workers) process.kill(pid, 'SIGCONT')
  t.match(await reloading, { isDone: true, said: /"removed":\["127\.0\.0\.2/ })
  for (const client of waiting) {
    t.match(await client.until('\r\n\r\n'), /^HTTP\/1\.1 101 /)
    client.write('served')
    t.ok((await client.until('served')).endsWith('served'))
  }
  t.equal(await askOnce(tcp), 'ECONNREFUSED')
})

/** How many descriptors each process of the program has open, the primary first. */
function descriptorsOf({ program }: Fleet): number[] {
  const pids = [program.child.pid ?? 0, ...childrenOf(program)]
  return pids.map((pid) => readdirSync(`/proc/${pid}/fd`).length)
}

t.test('reloads that add and remove listeners leave no descriptor behind', async (t) => {
  const folder = newFolder(t)
  const [fewer, more] = [
    '[{ address: "127.0.0.1:0" }]',
    '[{ address: "127.0.0.2:0" }, { address: "unix:edge.sock" }]',
  ]
  const fleet = await startFleet(t, talking('127.0.0.1:1'), { folder })
  const turn = async () => {
    for (const [from, to] of [
      [fewer, more],
      [more, fewer],
    ] as const) {
      edit(fleet, from, to)
      t.match(await bySignal(t, fleet), { isDone: true })
    }
    edit(fleet, fewer, `${fewer.slice(0, -1)}, { address: "192.0.2.1:1" }]`)
    t.match(await bySignal(t, fleet), { isDone: false, said: /EADDRNOTAVAIL/ })
    edit(fleet, ', { address: "192.0.2.1:1" }', '')
  }
  await turn()
  const before = descriptorsOf(fleet)
  for (let count = 0; count < 3; count += 1) await turn()
  const isBack = () => descriptorsOf(fleet).every((count, at) => count <= (before[at] ?? 0))
  for (let count = 0; count < 100 && !isBack(); count += 1) await wait(50)
  t.ok(isBack(), `${descriptorsOf(fleet)} of ${before}`)
})

/** Reloads until one has begun to load the handlers in a process of its own. */
async function whileChecking(fleet: Fleet): Promise<void> {
  while (childrenOf(fleet.program, 'checker').length === 0) await wait(5)
}

t.test(
  'a worker that is killed during a reload comes back with the new config',
  { timeout: 200_000 },
  async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const fleet = await startFleet(t, talking(origin.address))
    const listeners = '[{ address: "127.0.0.1:0" }]'
    edit(fleet, listeners, '[{ address: "127.0.0.1:0" }, { address: "127.0.0.2:0" }]')
    for (let round = 1; round <= 6; round += 1) {
      edit(fleet, `body: round-${round - 1} `, `body: round-${round} `)
      const reloading = byRequest(t, fleet)
      await whileChecking(fleet)
      // Sometimes before, sometimes while it is asked to prepare.
      await wait(round * 60)
      const [victim] = await workersOf(fleet)
      process.kill(victim?.pid ?? 0, 'SIGKILL')
      const { isDone, said } = await reloading
      t.ok(isDone, said)
      await fleet.says('a process was replaced', round)
      t.strictSame(await answers(fleet.address), [`200 round-${round}`])
      const [{ listeners: { added: [address = ''] = [] } = {} } = {}] = (await fleet.says(
        'reloaded',
      )) as unknown as { listeners: { added: string[] } }[]
      t.strictSame(await answers(address), [`200 round-${round}`], 'also where the listener was added')
    }
  },
)

t.test('of several reloads at once each sees what was written before it', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  // Its module is loaded when the file `go` is there.
  const held = `import { existsSync } from 'node:fs'
while (!existsSync(new URL('./go', import.meta.url))) await new Promise((resolve) => setTimeout(resolve, 20))
export default () => ({ kind: 'respond', status: 200, headers: [], body: '' })
`
  const folder = newFolder(t, { 'edge.mjs': held, go: '' })
  const more = `  - id: held
    domains: [held.test]
    backends: [{ name: origin, address: "${origin.address}" }]
    handler: ./edge.mjs
`
  const fleet = await startFleet(t, talking(origin.address).replace('log:', `${more}log:`), { folder })
  rmSync(join(folder, 'go'))
  edit(fleet, 'body: round-0 ', 'body: round-1 ')
  const first = byRequest(t, fleet)
  await whileChecking(fleet)
  edit(fleet, 'body: round-1 ', 'body: round-2 ')
  const later = [byRequest(t, fleet), byRequest(t, fleet), byRequest(t, fleet)]
  // Asked after them, and answered: so they have been heard.
  for (let count = 0; count < 3; count += 1) await fleet.control('/workers')
  writeFileSync(join(folder, 'go'), '')
  for (const one of await Promise.all([first, ...later])) t.equal(one.isDone, true)
  t.strictSame(await answers(fleet.address), ['200 round-2'])
  t.equal((await fleet.says('reloaded', 2)).length, 2, 'those that waited have got one together')
})

t.test(
  'a reload that is under way when the program is told to stop changes nothing and keeps nobody',
  async (t) => {
    const folder = newFolder(t, {
      'edge.mjs': 'export default () => ({ kind: "respond", status: 200, headers: [], body: "" })',
    })
    const config = talking('127.0.0.1:1').replace(
      / {4}routes:[\s\S]*?round-0 \}\n/,
      '    handler: ./edge.mjs\n',
    )
    const fleet = await startFleet(t, config, { folder })
    write(fleet, 'edge.mjs', 'await new Promise(() => setTimeout(() => {}, 1e6))')
    fleet.program.child.kill('SIGHUP')
    await whileChecking(fleet)
    const startedAt = performance.now()
    fleet.program.child.kill('SIGTERM')
    t.match(await fleet.program.ended, { code: 0, stderr: '' })
    t.ok(performance.now() - startedAt < 9_000)
  },
)

t.test(
  'a request that waits for its origin goes on by the old config, and its seat is given back',
  async (t) => {
    const origin = await startOrigin(t)
    const fleet = await startFleet(t, talking(origin.address))
    const client = await begin(t, fleet)
    const asked = await origin.next()
    await asked.until('\r\n\r\n')
    const other = await startOrigin(t, { answer: echo })
    edit(
      fleet,
      `backends: [{ name: origin, address: "${origin.address}" }]`,
      `gate: { maxConnections: 1 }\n    backends: [{ name: origin, address: "${other.address}" }]`,
    )
    t.match(await bySignal(t, fleet), { isDone: true })
    await echo(asked)
    t.match(await client.until('\r\n\r\n'), /^HTTP\/1\.1 101 /)
    const seated = await begin(t, fleet)
    t.match(await seated.until('\r\n\r\n'), /^HTTP\/1\.1 101 /)
    const refused = await begin(t, fleet)
    t.match(await refused.all(), /^HTTP\/1\.1 503 /)
    edit(fleet, 'maxConnections: 1', 'maxConnections: 2')
    t.match(await bySignal(t, fleet), { isDone: true })
    const second = await begin(t, fleet)
    t.match(await second.until('\r\n\r\n'), /^HTTP\/1\.1 101 /)
    const full = await begin(t, fleet)
    t.match(await full.all(), /^HTTP\/1\.1 503 /, 'the seats that were taken before are still taken')
  },
)

async function begin(t: Test, fleet: Fleet): Promise<Peer> {
  const client = await connectTo(t, fleet.address)
  client.write(upgradeRequest())
  return client
}
