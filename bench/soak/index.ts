// `npm run soak`: faults, one after the other, while checked traffic flows through the program. Ends with 1 if anything does
// not hold, and says with which seed to do it again. Linux only.

import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { selfSigned } from '../../test/support/certificates.ts'
import { checkEnd, checkLog, checkUsage, compareLevels, level, textOf } from './checks.ts'
import { mountDisk } from './disk.ts'
import { faults } from './faults.ts'
import type { Options } from './options.ts'
import { parseOptions, USAGE } from './options.ts'
import { startOrigin } from './origin.ts'
import type { Pair } from './pair.ts'
import { startProgram } from './program.ts'
import { randomOf } from './random.ts'
import { Rows } from './rows.ts'
import type { Stand } from './stand.ts'
import { mustOpen, WORKERS } from './stand.ts'
import { Traffic } from './traffic.ts'

/** A tunnel that nobody meant must not stand still for longer. */
const PAUSE_LIMIT_MS = 2_000
const SETTLE_MS = 500
const WARM_UP_MS = 1_500

const startedAt = performance.now()
const say = (line: string) => {
  console.log(`${((performance.now() - startedAt) / 1_000).toFixed(1).padStart(6)} s  ${line}`)
}

const HOST = '127.0.0.1'

async function freeAddress(): Promise<string> {
  const server = createServer().listen(0, HOST)
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return `${HOST}:${port}`
}

async function makeStand(options: Options, folder: string, fail: (what: string) => void): Promise<Stand> {
  const random = randomOf(options.seed + 1)
  const address = await freeAddress()
  const secure = await freeAddress()
  const spare = await freeAddress()
  const { certificate, key } = await selfSigned({ names: [HOST] })
  writeFileSync(join(folder, 'cert.pem'), certificate)
  writeFileSync(join(folder, 'key.pem'), key, { mode: 0o600 })
  const crowd: { pairs?: ReadonlyMap<number, Pair> } = {}
  const origin = await startOrigin((id) => crowd.pairs?.get(id))
  const disk = mountDisk(join(folder, 'state'))
  const backends = [{ name: 'origin', address: origin.address, firstByteTimeout: '1s' }]
  const config = (changes = {}) => ({
    listeners: [{ address }, { address: secure, tls: { certificate: 'cert.pem', key: 'key.pem' } }],
    services: [{ id: 'soak', domains: ['*'], websockets: 'on', backends }],
    workers: WORKERS,
    stateDirectory: './state',
    // Longer than what stays with a release that leaves is looked at.
    drainTimeout: '60s',
    log: { level: 'info' },
    ...changes,
  })
  const program = await startProgram(folder, config()).catch((error: unknown) => {
    if (typeof disk !== 'string') disk.unmount()
    throw error
  })
  const authority = { address: secure, authority: certificate }
  const traffic = new Traffic(address, authority, options.tunnels, randomOf(options.seed + 2), fail)
  crowd.pairs = traffic.pairs
  const means = { options, random, program, traffic, origin, disk, config, spare, fail, kills: [] }
  return means
}

/** Each fault in turn, in an order that changes, until the time is over; with `--smoke` each once. */
async function strikeAll(stand: Stand, rows: Rows): Promise<void> {
  const { options, traffic } = stand
  // Of its own: how often the others are asked depends on time.
  const order = randomOf(options.seed)
  const able = []
  for (const fault of faults) {
    const reason = (await fault.lacks?.(stand)) ?? null
    if (reason === null) able.push(fault)
    else rows.skip(fault.name, reason)
    if (reason !== null) say(`SKIPPED: ${fault.name}: ${reason}`)
  }
  const until = performance.now() + options.seconds * 1_000
  do {
    for (const fault of order.some(able, able.length)) {
      if (!options.isSmoke && performance.now() > until) return
      const before = traffic.bytes
      for (const pair of traffic.open) pair.forgetPauses()
      rows.begin(fault.name)
      say(fault.name)
      const affected = await fault.strike(stand)
      await traffic.settled()
      await sleep(SETTLE_MS)
      const pauseMs = longestPause(traffic)
      if (pauseMs > PAUSE_LIMIT_MS + rows.ownMs)
        stand.fail(`a tunnel stood still for ${Math.round(pauseMs)} ms`)
      rows.end({ affected, bytes: traffic.bytes - before, pauseMs })
    }
  } while (!options.isSmoke)
}

/** Of those that are still there; what was meant to stand still has forgotten it. */
function longestPause({ open }: Traffic): number {
  return Math.max(0, ...open.filter(({ excuse }) => excuse === null).map((pair) => pair.pauseMs()))
}

async function soak(stand: Stand, rows: Rows): Promise<void> {
  const { traffic, fail } = stand
  rows.begin('the start')
  await mustOpen(stand, 1, 5_000, 'the first')
  traffic.start()
  await traffic.settled()
  await sleep(WARM_UP_MS)
  await traffic.leave()
  const start = await level(stand)
  say(`at the start: ${textOf(start)}`)
  traffic.start()
  await strikeAll(stand, rows)
  rows.begin('the end')
  await traffic.leave()
  const end = await level(stand)
  say(`at the end:   ${textOf(end)}`)
  compareLevels(start, end, fail)
  await checkEnd(stand)
  say(await checkUsage(stand))
  checkLog(stand)
}

/** Also then nothing is left behind. */
function leaveOnSignal({ program, disk }: Stand): void {
  for (const signal of ['SIGINT', 'SIGTERM']) {
    process.once(signal, () => {
      for (const pid of program.pids()) process.kill(pid, 'SIGKILL')
      if (typeof disk !== 'string') disk.unmount()
      process.exit(1)
    })
  }
}

async function main(options: Options): Promise<number> {
  const folder = mkdtempSync(join(tmpdir(), 'headrace-soak-'))
  say(`seed ${options.seed}, log ${join(folder, 'headrace.log')}`)
  const delay = monitorEventLoopDelay({ resolution: 5 })
  delay.enable()
  const rows = new Rows(delay)
  const fail = (what: string) => {
    say(`FAILED: ${what}`)
    rows.fail(what)
  }
  const stand = await makeStand(options, folder, fail)
  leaveOnSignal(stand)
  try {
    await soak(stand, rows)
  } catch (error) {
    fail(error instanceof Error ? (error.stack ?? error.message) : String(error))
  }
  stand.traffic.stop()
  stand.origin.close()
  for (const pid of stand.program.pids()) process.kill(pid, 'SIGKILL')
  await stand.traffic.until(() => stand.program.pids().length === 0, 'killed processes are gone')
  delay.disable()
  console.log(`\n${rows.table()}\n`)
  if (typeof stand.disk !== 'string') stand.disk.unmount()
  if (rows.failures.length === 0) {
    rmSync(folder, { recursive: true })
    console.log(`all holds; seed ${options.seed}`)
    return 0
  }
  for (const what of rows.failures) console.log(`FAILED: ${what}`)
  console.log(`again: npm run soak -- --seed ${options.seed}; log: ${stand.program.log}`)
  return 1
}

try {
  const options = parseOptions(process.argv.slice(2))
  if (options === 'help') console.log(USAGE)
  else process.exitCode = await main(options)
} catch (error) {
  console.error(`${error instanceof Error ? error.message : error}\n${USAGE}`)
  process.exitCode = 2
}
