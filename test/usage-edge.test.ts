// Usage through real sockets: what was sent is what is counted, for each engine; the journal of the library and of the running
// program; a second process; disks that are full.

import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import t from 'tap'
import type { ServiceUsage } from '../src/index.ts'
import { createTunnel } from '../src/index.ts'
import { monthOf } from '../src/usage/minutes.ts'
import { readUsage } from '../src/usage/usage.ts'
import { failureOf } from './support/accepting.ts'
import type { Origin } from './support/origin.ts'
import { echo, startOrigin, switching, upgradeRequest } from './support/origin.ts'
import type { Peer } from './support/peer.ts'
import { connectTo } from './support/peer.ts'
import type { Running } from './support/program.ts'
import { childrenOf, killWhole, startProgram } from './support/program.ts'
import { eachEngine } from './support/splices.ts'
import { startTunnel } from './support/tunnel.ts'

function newFolder(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'headrace-usage-'))
  t.teardown(() => rm(folder, { recursive: true, force: true }))
  return folder
}

function thisMonth(): string {
  return monthOf(Date.now())
}

const NOTHING: Omit<ServiceUsage, 'service'> = {
  connections: 0,
  minutes: 0,
  minutesInMillions: 0,
  bytes: { clientToOrigin: 0, originToClient: 0, headToOrigin: 0, headToClient: 0 },
}

/** Both ends of a new tunnel. The client sends `early` with its request, the origin `greeting` with its 101. */
async function open(t: Test, address: string, origin: Origin, early = '', greeting = '') {
  const client = await connectTo(t, address)
  client.write(`${upgradeRequest()}${early}`)
  const far = await origin.next()
  const asked = await far.until('\r\n\r\n')
  const headToOrigin = asked.indexOf('\r\n\r\n') + 4
  far.write(`${switching(asked.slice(0, headToOrigin))}${greeting}`)
  const answered = await client.until('\r\n\r\n')
  return { client, far, headToOrigin, headToClient: answered.indexOf('\r\n\r\n') + 4 }
}

type Ends = Awaited<ReturnType<typeof open>>

/** What both ends have received behind the heads, when each has got all of it. */
function received(ends: readonly Ends[]): ServiceUsage['bytes'] {
  const sum = (size: (one: Ends) => number) => ends.reduce((total, one) => total + size(one), 0)
  return {
    clientToOrigin: sum(({ far, headToOrigin }) => far.size - headToOrigin),
    originToClient: sum(({ client, headToClient }) => client.size - headToClient),
    headToOrigin: sum(({ headToOrigin }) => headToOrigin),
    headToClient: sum(({ headToClient }) => headToClient),
  }
}

eachEngine(t, async (t, { name: engine }) => {
  t.test('what both ends got is what is counted, to the byte', async (t) => {
    const stateDirectory = newFolder(t)
    const origin = await startOrigin(t)
    const { tunnel, address, closed } = await startTunnel(t, origin.address, {
      options: { engine, stateDirectory },
    })
    t.strictSame((await tunnel.usage()).services, [])
    const bulk = Buffer.alloc(3 * 1024 * 1024, 'bulk')
    const ends: Ends[] = []
    for (let count = 0; count < 5; count += 1) {
      const one = await open(t, address, origin, 'early'.repeat(count), 'hello'.repeat(count))
      ends.push(one)
      one.client.write('x'.repeat(1_000 * count))
      one.far.write(count === 3 ? bulk : 'y'.repeat(7 * count))
    }
    for (const [count, { client, far, headToClient, headToOrigin }] of ends.entries()) {
      await far.until(headToOrigin + 1_005 * count)
      await client.until(headToClient + (count === 3 ? bulk.length + 15 : 12 * count))
    }
    const expected = { service: 'chat', connections: 5, minutes: 5, minutesInMillions: 0.000005 }
    t.strictSame(
      (await tunnel.usage()).services,
      [{ ...expected, bytes: received(ends) }],
      'while they are open',
    )
    t.strictSame(await tunnel.usage(), await tunnel.usage(thisMonth()), 'asking costs nothing')
    t.match((await tunnel.usage('2020-01')).total, NOTHING)
    t.match(await tunnel.usage(thisMonth(), 'nobody'), { services: [{ service: 'nobody', ...NOTHING }] })
    t.match(await failureOf(tunnel.usage('2026-13')), { code: 'argument-invalid' })

    // Last words, then the ends: in order, by a half-close, and with RST.
    for (const { client, far } of ends.slice(0, 4)) {
      client.end('bye')
      await far.ended
      far.end('bye, too')
      await closed()
    }
    ends[4]?.client.reset()
    await closed()
    const bytes = received(ends)
    const totals = tunnel.usageSinceStart()
    t.match(totals, { chat: { connections: 5, minutes: 5, ...bytes } })
    await tunnel.close()
    const report = await readUsage(stateDirectory, thisMonth())
    t.strictSame(report.services, [{ ...expected, bytes }], 'in the state directory')
    t.match(report, { skipped: { torn: 0, foreign: 0 }, troubles: [] })
    t.strictSame(readdirSync(join(stateDirectory, 'usage')), [thisMonth()], 'the lock is given back')
  })
})

t.test('without a state directory the same is counted, for this tunnel alone', async (t) => {
  const origin = await startOrigin(t)
  const { tunnel, address, closed } = await startTunnel(t, origin.address)
  const one = await open(t, address, origin)
  one.client.end('hello')
  await one.far.ended
  one.far.end('hello back')
  await closed()
  const expected = { connections: 1, minutes: 1, minutesInMillions: 0.000001, bytes: received([one]) }
  t.strictSame(await tunnel.usage(), {
    month: thisMonth(),
    services: [{ service: 'chat', ...expected }],
    total: expected,
    skipped: { torn: 0, foreign: 0 },
    troubles: [],
  })
})

t.test('what is refused costs nothing', async (t) => {
  const origin = await startOrigin(t)
  const { tunnel, address } = await startTunnel(t, origin.address)
  const client = await connectTo(t, address)
  client.write(upgradeRequest())
  const far = await origin.next()
  await far.until('\r\n\r\n')
  far.end('HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno')
  t.match(await client.all(), /^HTTP\/1\.1 403 /)
  t.strictSame((await tunnel.usage()).services, [])
})

t.test('two tunnels of one state directory need two names', async (t) => {
  const stateDirectory = newFolder(t)
  const origin = await startOrigin(t)
  const first = await startTunnel(t, origin.address, { options: { stateDirectory } })
  const failure = await failureOf(startTunnel(t, origin.address, { options: { stateDirectory } }))
  t.equal(failure.code, 'state-locked')
  t.match(failure.detail, /usage: the writer main is this process itself$/)
  await first.tunnel.close()
  const next = await startTunnel(t, origin.address, { options: { stateDirectory } })
  await next.tunnel.close()
})

t.test('a tunnel that only gets upgrades of another server keeps its usage as well', async (t) => {
  const { createServer } = await import('node:http')
  const stateDirectory = newFolder(t)
  const origin = await startOrigin(t)
  const backends = [{ name: 'origin', address: origin.address }]
  const services = [{ id: 'chat', domains: ['*'], websockets: 'on' as const, backends }]
  const tunnel = createTunnel({ services, stateDirectory })
  const server = createServer().on('upgrade', (request, socket, head) =>
    tunnel.upgrade(request, socket, head),
  )
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  const { port } = server.address() as { port: number }
  const one = await open(t, `127.0.0.1:${port}`, origin)
  one.client.end('hello')
  await one.far.ended
  one.far.end()
  await one.client.ended
  await tunnel.close({ drain: '5s' })
  const { services: found } = await readUsage(stateDirectory, thisMonth())
  t.match(found, [{ service: 'chat', connections: 1, minutes: 1, bytes: received([one]) }])
})

// The program.

interface Stand {
  readonly origin: Origin
  readonly folder: string
  start(): Promise<{ program: Running; address: string }>
  usage(): Promise<Omit<ServiceUsage, 'service'>>
}

async function startStand(t: Test, stateDirectory?: string): Promise<Stand> {
  const folder = newFolder(t)
  const origin = await startOrigin(t, { answer: echo })
  const state = stateDirectory === undefined ? '' : `stateDirectory: ${stateDirectory}\n`
  writeFileSync(
    join(folder, 'headrace.yaml'),
    `listeners: [{ address: "127.0.0.1:0" }]
services:
  - { id: chat, domains: ["*"], websockets: on, backends: [{ name: origin, address: "${origin.address}" }] }
workers: 1
${state}`,
  )
  return {
    origin,
    folder,
    async start() {
      const program = startProgram(t, ['run', '--config', 'headrace.yaml'], { cwd: folder })
      const [, address = ''] = /^headrace listens on (\S+)$/.exec(await program.line()) ?? []
      return { program, address }
    },
    async usage() {
      const words = ['usage', '--config', 'headrace.yaml', '--json']
      const { code, stdout, stderr } = await startProgram(t, words, { cwd: folder }).ended
      t.strictSame([code, stderr], [0, ''])
      return JSON.parse(stdout).total
    },
  }
}

/** A client whose words have come back. */
async function talk(t: Test, address: string, text: string): Promise<Peer> {
  const client = await connectTo(t, address)
  client.write(upgradeRequest())
  const head = await client.until('\r\n\r\n')
  client.write(text)
  await client.until(head.indexOf('\r\n\r\n') + 4 + text.length)
  return client
}

/** Asks until it is so; fails with the last answer after so many. */
async function until<Value>(ask: () => Promise<Value>, isSo: (value: Value) => boolean): Promise<Value> {
  for (let count = 1; ; count += 1) {
    const value = await ask()
    if (isSo(value)) return value
    if (count === 100) throw new Error(`still ${JSON.stringify(value)}`)
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}

t.test(
  'headrace usage beside the running program has its open tunnels, and after a SIGTERM all',
  async (t) => {
    const stand = await startStand(t)
    const { program, address } = await stand.start()
    const client = await talk(t, address, 'x'.repeat(4_321))
    const running = await until(stand.usage, ({ bytes }) => bytes.originToClient > 0)
    t.match(running, { connections: 1, minutes: 1, bytes: { clientToOrigin: 4_321, originToClient: 4_321 } })
    t.ok(existsSync(join(stand.folder, 'state/usage')), 'in the folder of the contract')

    const second = startProgram(t, ['run', '--config', 'headrace.yaml'], { cwd: stand.folder })
    const { code, stderr } = await second.ended
    t.equal(code, 3)
    t.match(stderr, /^headrace: another process writes [^\n]*state: EADDRINUSE [^\n]*\nhint: stop/)

    client.end('goodbye')
    await client.closed
    program.child.kill('SIGTERM')
    t.match(await program.ended, { code: 0, stderr: '' })
    t.match(await stand.usage(), {
      connections: 1,
      minutes: 1,
      bytes: { clientToOrigin: 4_328, originToClient: 4_328 },
    })
  },
)

t.test('after a SIGKILL the next process takes over, and the sums go on', async (t) => {
  const stand = await startStand(t)
  for (let run = 1; run <= 3; run += 1) {
    const { program, address } = await stand.start()
    const client = await talk(t, address, 'x'.repeat(1_000))
    const wanted = 1_000 * run
    await until(
      () => readUsage(join(stand.folder, 'state'), thisMonth()),
      ({ total }) => total.bytes.originToClient === wanted,
    )
    killWhole(program)
    await program.ended
    await client.ended
    client.end()
    t.match(await stand.usage(), { connections: run, minutes: run, bytes: { clientToOrigin: wanted } })
  }
})

// Disks that are full.

function troublesOf({ lines }: Running): unknown[] {
  return lines.filter((line) => line.includes('"usage-unwritten"')).map((line) => JSON.parse(line))
}

/** A disk that takes nothing for a while: told once, nothing lost, nothing twice, and no tunnel notices. */
async function fullDisk(
  t: Test,
  stand: Stand,
  code: string,
  fill: (program: Running) => () => void,
): Promise<void> {
  const { program, address } = await stand.start()
  const empty = fill(program)
  const first = await talk(t, address, 'x'.repeat(500))
  const clients: Peer[] = []
  for (let count = 0; count < 20; count += 1) clients.push(await talk(t, address, 'y'.repeat(100)))
  await until(
    async () => troublesOf(program).length,
    (count) => count > 0,
  )
  // Long enough for more attempts.
  for (let count = 0; count < 20; count += 1) {
    clients.push(await talk(t, address, 'z'.repeat(100)))
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  t.match(
    troublesOf(program),
    [{ level: 'warn', msg: 'trouble', error: new RegExp(`: ${code}$`) }],
    'told once',
  )
  empty()
  const wanted = { connections: 41, minutes: 41, bytes: { clientToOrigin: 4_500, originToClient: 4_500 } }
  t.match(await until(stand.usage, ({ connections }) => connections === 41), wanted, 'caught up')
  for (const client of [first, ...clients]) client.end('.')
  for (const client of [first, ...clients]) await client.closed
  program.child.kill('SIGTERM')
  t.match(await program.ended, { code: 0, stderr: '' })
  t.match(await stand.usage(), { ...wanted, bytes: { clientToOrigin: 4_541, originToClient: 4_541 } })
  t.equal(troublesOf(program).length, 1)
}

const withoutPrlimit =
  spawnSync('prlimit', ['--version']).error && process.env.CI === undefined
    ? 'prlimit is not installed'
    : false

t.test('a file that may not grow, written in part', { skip: withoutPrlimit }, async (t) => {
  const limit = (program: Running, size: string) =>
    execFileSync('prlimit', ['--pid', String(childrenOf(program, 'worker')[0]), `--fsize=${size}:unlimited`])
  await fullDisk(t, await startStand(t), 'EFBIG', (program) => {
    // In the middle of the first line.
    limit(program, '30')
    return () => limit(program, 'unlimited')
  })
})

t.test('a file system without room', async (t) => {
  const disk = newFolder(t)
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', disk], { encoding: 'utf8' })
  if (mounted.status !== 0) {
    t.comment(`NOT RUN, since this user may not mount: ${mounted.stderr}`)
    t.end()
    return
  }
  t.teardown(() => spawnSync('umount', ['-l', disk]))
  const filler = join(disk, 'filler')
  await fullDisk(t, await startStand(t, disk), 'ENOSPC', () => {
    spawnSync('dd', ['if=/dev/zero', `of=${filler}`, 'bs=4096', 'count=1000'])
    return () => rmSync(filler)
  })
})
