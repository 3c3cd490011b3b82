// Tunnels of all kinds, through upgrades and reloads in turn: what any kernel engine's must come through unnoticed.

import { setTimeout as pause } from 'node:timers/promises'
import type { Test } from 'tap'
import { createAuthority } from './certificates.ts'
import { chatConfig, newFolder } from './control.ts'
import type { Player, Releases } from './releases.ts'
import { speaker, startPlayer, startReleases } from './releases.ts'
import { byRequest, edit } from './reloading.ts'
import { Checker, piece, type Speaker } from './stream.ts'

/** Tunnels of all kinds in front of a program, and what must have become of them in the end. */
interface Crowd {
  readonly talkers: Speaker[]
  readonly floods: Speaker[]
  readonly secure: readonly Speaker[]
  readonly stalled: readonly Speaker[]
  /** Their clients have sent FIN. */
  readonly ended: readonly Speaker[]
  /** Their origins have. */
  readonly left: readonly Speaker[]
  readonly all: readonly Speaker[]
  /** Some more that talk come, to the release that is in charge. */
  grow(): Promise<void>
  /** Resolves when those that talk have stopped to. */
  silent(): Promise<void>
}

const FLOODS = 6
const STALLED = 2
/** More than four sockets hold. */
const STALLED_BYTES = 64 * 1024 * 1024
const HALVES = 10
const SECURE = 10
const NEW_TALKERS = 10

async function openCrowd(t: Test, fleet: Releases, origin: Player, tunnels: number): Promise<Crowd> {
  const [plain = '', tls = ''] = fleet.addresses
  // So that their number is no load by itself.
  const talkMs = Math.max(250, tunnels / 4)
  const many = (count: number, path: string) =>
    Promise.all(Array.from({ length: count }, () => speaker(t, plain, { path })))
  const talkers: Speaker[] = []
  while (talkers.length < tunnels)
    talkers.push(...(await many(Math.min(50, tunnels - talkers.length), '/chat')))
  const floods = await many(FLOODS, '/bulk')
  const secure = await Promise.all(Array.from({ length: SECURE }, () => speaker(t, tls, { isTls: true })))
  const stalled = await many(STALLED, '/stall')
  for (const one of stalled) {
    for (let at = 0; at < STALLED_BYTES; at += 64 * 1024) one.socket.write(Buffer.from(piece(at, 64 * 1024)))
    one.sent = STALLED_BYTES
  }
  const ended = await many(HALVES, '/half-client')
  for (const one of ended) one.socket.end(Buffer.from(piece(0, 1_000)))
  for (const one of ended) one.sent = 1_000
  const halves = [...origin.halves]
  await Promise.all(halves.map(async ({ socket }) => void socket.resume()))
  const left = await many(HALVES, '/half-origin')
  for (const { socket } of origin.halves.slice(halves.length)) socket.end(Buffer.from(piece(0, 2_000)))
  const running = [
    ...talkers.map((one) => one.talk(talkMs)),
    ...secure.map((one) => one.talk(talkMs)),
    ...floods.map((one) => one.flood()),
  ]
  return {
    ...{ talkers, floods, secure, stalled, ended, left },
    get all() {
      return [...talkers, ...floods, ...secure, ...stalled, ...ended, ...left]
    },
    async grow() {
      const [more, bulk] = await Promise.all([many(NEW_TALKERS, '/chat'), many(1, '/bulk')])
      running.push(...more.map((one) => one.talk(talkMs)), ...bulk.map((one) => one.flood()))
      talkers.push(...more)
      floods.push(...bulk)
    },
    async silent() {
      for (const one of [...talkers, ...floods, ...secure]) one.stop()
      await Promise.all(running)
    },
  }
}

/** Three upgrades and three reloads in turn, with so many that talk and some of all other kinds. */
export async function upgradeInTurn(t: Test, engine: 'auto' | 'sockmap', tunnels: number): Promise<void> {
  const origin = await startPlayer(t)
  const { certificate, key } = await (await createAuthority()).issue({ names: ['chat.test'] })
  const folder = newFolder(t, { 'cert.pem': certificate, 'key.pem': key })
  const more = `engine: ${engine}\nworkers: 2\ndrainTimeout: 10m\n`
  const config = chatConfig(origin.address, more)
    .replace(
      ' }]\nservices',
      ' }, { address: "127.0.0.1:0", tls: { certificate: cert.pem, key: key.pem } }]\nservices',
    )
    .replace('websockets: on', 'websockets: on\n    headers: { set: { X-Round: "0" } }')
  const fleet = await startReleases(t, config, { folder })
  const crowd = await openCrowd(t, fleet, origin, tunnels)
  const newcomers = startNewcomers(t, fleet.address)
  await pause(1_000)
  t.ok(
    crowd.stalled.every(({ socket }) => socket.writableLength > 0),
    'what stalls has filled all buffers',
  )

  let moved = 0
  for (let round = 1; round <= 3; round += 1) {
    const total = crowd.all.length
    const waits = startWaits(crowd)
    await pause(1_500)
    waits.over('usual')
    edit(fleet, `X-Round: "${round - 1}"`, `X-Round: "${round}"`)
    const reloaded = await byRequest(t, fleet)
    t.match(reloaded, { isDone: true, said: '"changed":["chat"]' })
    await pause(500)
    waits.over('reload')
    const upgrading = fleet.upgrade()
    await fleet.says('upgrade: the tunnels change over', round)
    waits.over('start of the release')
    const upgraded = await upgrading
    waits.over('change-over')
    await pause(1_500)
    waits.over('end of the one before')
    t.comment(
      `${upgraded.moved} tunnels: ${waits.text()}; paused p50 ${ms(upgraded.pauseMs.p50)}, p99 ${ms(upgraded.pauseMs.p99)}, max ${ms(upgraded.pauseMs.max)} ms`,
    )
    t.match(fleet.said('upgrade: the new release is in charge').at(-1), { pauseMs: upgraded.pauseMs })
    t.ok(upgraded.pauseMs.p99 > 0 && upgraded.pauseMs.p99 <= upgraded.pauseMs.max)
    t.equal(upgraded.stayed, round === 1 ? SECURE : 0, 'only TLS stays, with the release that has it')
    t.ok(upgraded.moved >= total - SECURE, `${upgraded.moved} of ${total} were moved`)
    moved += upgraded.moved
    t.equal(crowd.all.filter(({ end }) => end !== null && end !== 'end').length, 0, 'all are open')
    await crowd.grow()
  }
  const { opened, failures } = await newcomers.stop()
  t.ok(opened > 10, `${opened} connected meanwhile`)
  t.strictSame(failures, [], 'and none of them was refused')

  await crowd.silent()
  for (const one of [...crowd.talkers, ...crowd.floods, ...crowd.secure]) {
    if (one.checker.size !== one.sent || one.checker.wrongAt !== -1) {
      t.match(one, { checker: { size: one.sent, wrongAt: -1 } })
    }
  }
  t.ok(
    crowd.floods.slice(0, FLOODS).every(({ sent }) => sent > 1024 * 1024),
    'bulk was flowing',
  )
  await finishHalves(t, crowd, origin)
  await finishStalled(t, crowd, origin)
  for (const { socket } of crowd.all) socket.end()
  await checkUsage(t, fleet, crowd, opened, moved)
  t.equal(await fleet.firstEnded, 0, 'the first release leaves when its last tunnel is over')
}

/** What the answers to those that talk take, by what goes on. */
function startWaits({ talkers }: Crowd) {
  const texts: string[] = []
  for (const one of talkers) one.longestMs = 0
  return {
    over(what: string): void {
      const waits = talkers.map(({ longestMs }) => longestMs).sort((one, other) => one - other)
      for (const one of talkers) one.longestMs = 0
      const part = (share: number) => ms(waits[Math.ceil(waits.length * share) - 1] ?? 0)
      texts.push(`${what} p50 ${part(0.5)}, p99 ${part(0.99)}, max ${part(1)} ms`)
    },
    text: () => `longest answer of each: ${texts.join('; ')}`,
  }
}

const ms = (value: number) => value.toFixed(1)

/** Clients that come all the time: each opens a tunnel, hears one answer, and goes. */
function startNewcomers(t: Test, address: string) {
  let isOver = false
  let opened = 0
  const failures: string[] = []
  const come = async () => {
    while (!isOver) {
      try {
        const one = await speaker(t, address)
        await one.say(100)
        if (one.end !== null || one.checker.wrongAt !== -1) failures.push(`${one.end}`)
        one.socket.end()
        opened += 1
      } catch (error) {
        failures.push(String(error))
      }
      await pause(5)
    }
  }
  const coming = [come(), come(), come()]
  return {
    async stop() {
      isOver = true
      await Promise.all(coming)
      return { opened, failures }
    },
  }
}

/** The direction that is still open goes on over all releases, and its FIN comes behind it. */
async function finishHalves(t: Test, { ended, left }: Crowd, origin: Player): Promise<void> {
  const ofClients = origin.halves.slice(0, ended.length)
  for (const { socket } of ofClients) socket.end(Buffer.from(piece(0, 3_000)))
  for (const one of ended) {
    while (one.end === null) await pause(10)
    t.match(one, { end: 'end', checker: { size: 3_000, wrongAt: -1 } })
  }
  const ofOrigins = origin.halves.slice(ended.length)
  const checkers = ofOrigins.map(({ socket }) => {
    const checker = new Checker()
    socket.on('data', (chunk: Buffer) => checker.take(chunk))
    return checker
  })
  for (const one of left) {
    t.match(one, { end: 'end', checker: { size: 2_000, wrongAt: -1 } })
    one.socket.write(Buffer.from(piece(0, 5_000)))
    one.sent = 5_000
  }
  for (const checker of checkers) {
    while (checker.size < 5_000) await pause(10)
    t.match(checker, { size: 5_000, wrongAt: -1 })
  }
}

/** What was on its way for all that time arrives. */
async function finishStalled(t: Test, { stalled }: Crowd, origin: Player): Promise<void> {
  const checkers = origin.stalled.map(({ socket }) => {
    const checker = new Checker()
    socket.on('data', (chunk: Buffer) => checker.take(chunk))
    socket.on('end', () => socket.end())
    socket.resume()
    return checker
  })
  for (const checker of checkers) {
    while (checker.size < STALLED_BYTES) await pause(10)
    t.match(checker, { size: STALLED_BYTES, wrongAt: -1 })
  }
  t.equal(checkers.length, stalled.length)
}

/** As if there had been one release: each connection once, minutes rounded up once for each, every byte. */
async function checkUsage(
  t: Test,
  fleet: Releases,
  crowd: Crowd,
  newcomers: number,
  moved: number,
): Promise<void> {
  const connections = crowd.all.length + newcomers
  const lines = await fleet.says('tunnel closed', connections)
  const minutes = lines.reduce(
    (sum, { durationMs }) => sum + Math.max(1, Math.ceil(Number(durationMs) / 60_000)),
    0,
  )
  const clientToOrigin = crowd.all.reduce((sum, { sent }) => sum + sent, 0) + newcomers * 100
  const originToClient = crowd.all.reduce((sum, { checker }) => sum + checker.size, 0) + newcomers * 100
  t.equal(lines.length, connections)
  const wanted = { connections, minutes, bytes: { clientToOrigin, originToClient } }
  let total: typeof wanted | undefined
  // Bytes are told before the minutes of a connection that has ended.
  const isTold = () =>
    total?.bytes.clientToOrigin === clientToOrigin &&
    total.bytes.originToClient === originToClient &&
    total.minutes === minutes
  for (let count = 0; count < 100 && !isTold(); count += 1) {
    if (count > 0) await pause(50)
    const { json } = await fleet.control('/usage')
    total = (json as { readonly total: typeof wanted }).total
  }
  t.match(total, wanted)
  // What the releases before have counted last is told when they leave.
  const bytes = clientToOrigin + originToClient
  let text = ''
  for (let count = 0; count < 100 && sumOf(text, 'headrace_bytes_total') !== bytes; count += 1) {
    text = (await fleet.control('/metrics')).text
    await pause(50)
  }
  t.equal(sumOf(text, 'headrace_bytes_total'), bytes, 'metrics go on as well')
  t.equal(sumOf(text, 'headrace_tunnels_opened_total'), connections)
  t.ok(sumOf(text, 'headrace_tunnels_moved_total') >= moved)
}

/** Of all series of a metric. */
function sumOf(text: string, name: string): number {
  const found = [...text.matchAll(new RegExp(`^${name}(?:{[^}]*})? ([0-9.e+]+)$`, 'gm'))]
  return found.reduce((sum, [, value]) => sum + Number(value), 0)
}
