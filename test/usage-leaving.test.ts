// Processes that leave while the disk of their usage is full: they wait for it as long as whoever waits for them, and say
// exactly what they could not write. The disk is a small one of its own, the processes are the program's.

import { readFileSync, statSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import type { Test } from 'tap'
import t from 'tap'
import type { Disk } from '../bench/soak/disk.ts'
import { mountDisk } from '../bench/soak/disk.ts'
import { nothing } from '../src/usage/amounts.ts'
import type { Batch } from '../src/usage/journal.ts'
import { createJournal } from '../src/usage/journal.ts'
import { monthOf } from '../src/usage/minutes.ts'
import { readMonth } from '../src/usage/month.ts'
import { readUsage } from '../src/usage/usage.ts'
import { chatConfig, echoes, gone, newFolder, workersOf } from './support/control.ts'
import { echo, startOrigin } from './support/origin.ts'
import type { Peer } from './support/peer.ts'
import { childrenOf } from './support/program.ts'
import type { Releases } from './support/releases.ts'
import { startReleases } from './support/releases.ts'
import { skipWithout } from './support/tools.ts'

const TUNNELS = 20
const WORDS = 'x'.repeat(100)

const isRoot = process.getuid?.() === 0
const skip = isRoot ? skipWithout('mount') : 'nobody but root may mount a disk'
/** See test/container.test.ts. */
const CONTAINER = ['unshare', '--pid', '--fork', '--mount-proc', '--kill-child']

interface Stand {
  readonly fleet: Releases
  readonly disk: Disk
  /** So many tunnels, each of which has sent WORDS and got them back. */
  talk(count?: number): Promise<readonly Peer[]>
}

/** The disk is full from before the first tunnel. */
async function startStand(t: Test, more = '', launcher: readonly string[] = []): Promise<Stand> {
  const folder = newFolder(t)
  const disk = mountDisk(join(folder, 'state'))
  if (typeof disk === 'string') throw new Error(disk)
  t.teardown(() => disk.unmount())
  const origin = await startOrigin(t, { answer: echo })
  const config = chatConfig(origin.address, `workers: 2\n${more}`)
  const fleet = await startReleases(t, config, { folder, how: { launcher } })
  disk.fill()
  return {
    fleet,
    disk,
    talk: async (count = TUNNELS) =>
      await Promise.all(
        Array.from({ length: count }, async () => {
          const client = await fleet.open()
          if (!(await echoes(client, WORDS))) throw new Error('another echo')
          return client
        }),
      ),
  }
}

async function end(clients: readonly Peer[]): Promise<void> {
  for (const client of clients) client.end()
  for (const client of clients) await client.closed
}

interface Sums {
  readonly connections: number
  readonly minutes: number
  readonly clientToOrigin: number
  readonly originToClient: number
}

/** What so many tunnels cost. */
function costOf(count: number): Sums {
  const bytes = count * WORDS.length
  return { connections: count, minutes: count, clientToOrigin: bytes, originToClient: bytes }
}

async function written({ folder }: Releases): Promise<Sums> {
  const { total, skipped, troubles } = await readUsage(join(folder, 'state'), monthOf(Date.now()))
  if (skipped.foreign + skipped.torn > 0) throw new Error(troubles.join(', '))
  return { connections: total.connections, minutes: total.minutes, ...bytesOf(total.bytes) }
}

/** As `expected`, but that on a slow machine a tunnel that began at `since`, in ms, may have begun more minutes. */
async function isWritten(t: Test, fleet: Releases, expected: Sums, since: number): Promise<void> {
  const sums = await written(fleet)
  const most = expected.minutes * Math.ceil((performance.now() - since) / 60_000)
  t.ok(sums.minutes >= expected.minutes && sums.minutes <= most, `${sums.minutes} minutes`)
  t.strictSame({ ...sums, minutes: expected.minutes }, expected)
}

function bytesOf({ clientToOrigin, originToClient }: Omit<Sums, 'connections' | 'minutes'>) {
  return { clientToOrigin, originToClient }
}

const LOST =
  /: [0-9]{4}-[0-9]{2} chat: ([0-9]+) connections, ([0-9]+) minutes, ([0-9]+) \+ ([0-9]+) bytes, heads of [0-9]+ \+ [0-9]+: is lost$/

/** What the log says that is lost. */
function lost(fleet: Releases): Sums {
  const sums = [0, 0, 0, 0]
  for (const { code, error } of fleet.said('trouble')) {
    if (code !== 'usage-lost') continue
    const numbers = (LOST.exec(String(error)) ?? []).slice(1).map(Number)
    if (numbers.length !== sums.length) throw new Error(String(error))
    for (const [at, number] of numbers.entries()) sums[at] = (sums[at] ?? 0) + number
  }
  const [connections = 0, minutes = 0, clientToOrigin = 0, originToClient = 0] = sums
  return { connections, minutes, clientToOrigin, originToClient }
}

function plus(one: Sums, other: Sums): Sums {
  const names = ['connections', 'minutes', 'clientToOrigin', 'originToClient'] as const
  return Object.fromEntries(names.map((name) => [name, one[name] + other[name]])) as never
}

/** The ids of the processes that have said that they wait, when there are so many. */
async function waiting(fleet: Releases, count: number): Promise<readonly number[]> {
  const pids = () =>
    fleet.said('trouble').flatMap(({ code, error }) => {
      const [, pid] = /: ENOSPC: process ([0-9]+) waits for the disk before it ends/.exec(String(error)) ?? []
      return code === 'usage-unwritten' && pid !== undefined ? [Number(pid)] : []
    })
  while (pids().length < count) await pause(10)
  return pids()
}

function workers(pid: number): number[] {
  return childrenOf({ child: { pid } as never }, 'worker')
}

const NOTHING = costOf(0)

for (const engine of ['auto', 'stream']) {
  t.test(
    `a release that leaves waits for its disk; nothing is lost, nothing twice (engine: ${engine})`,
    { skip },
    async (t) => {
      const { fleet, disk, talk } = await startStand(t, `engine: ${engine}\n`)
      const own = workers(fleet.pid)
      const first = fleet.pid
      const since = performance.now()
      const short = await talk()
      const long = await talk()
      await end(short)
      await fleet.upgrade()
      const late = await talk()
      for (const client of long) t.ok(await echoes(client, WORDS))
      await end(long)
      t.strictSame([...(await waiting(fleet, 2))].sort(), own.sort(), 'the workers of the release before')
      t.match((await fleet.control('/workers')).json, { before: { pid: first } })
      t.strictSame(await written(fleet), NOTHING)
      // Nobody waits for it: the next one takes over meanwhile.
      const { pid } = await fleet.upgrade()
      await end(late)
      disk.free()
      t.equal(await fleet.firstEnded, 0)
      process.kill(pid, 'SIGTERM')
      await gone(pid)
      const bytes = TUNNELS * WORDS.length
      const twice = { ...NOTHING, clientToOrigin: bytes, originToClient: bytes }
      await isWritten(t, fleet, plus(costOf(3 * TUNNELS), twice), since)
      t.strictSame(lost(fleet), NOTHING)
    },
  )
}

t.test(
  'a stop waits for the disk within drainTimeout, and writes when there is room',
  { skip },
  async (t) => {
    const { fleet, disk, talk } = await startStand(t, 'drainTimeout: 10m\n')
    await end(await talk())
    fleet.program.child.kill('SIGTERM')
    await waiting(fleet, 2)
    t.match(fleet.said('trouble').at(-1)?.error, / before it ends, for (600|599) s at most$/)
    disk.free()
    t.match(await fleet.program.ended, { code: 0, stderr: '' })
    t.strictSame(await written(fleet), costOf(TUNNELS))
    t.strictSame(lost(fleet), NOTHING)
  },
)

t.test('what a stop could not write until drainTimeout was over is said exactly', { skip }, async (t) => {
  const { fleet, disk, talk } = await startStand(t, 'drainTimeout: 2s\n')
  disk.free()
  await end(await talk())
  while ((await written(fleet)).connections < TUNNELS) await pause(20)
  disk.fill()
  // A journal goes on in the page that it has begun: some of it may be written.
  const open = await talk()
  fleet.program.child.kill('SIGTERM')
  t.match(await fleet.program.ended, { code: 0, stderr: '' })
  for (const client of open) await client.ended
  disk.free()
  t.strictSame(plus(await written(fleet), lost(fleet)), costOf(2 * TUNNELS))
})

t.test('a second signal does not wait for the disk either', { skip }, async (t) => {
  const { fleet, disk, talk } = await startStand(t, 'drainTimeout: 10m\n')
  await end(await talk())
  fleet.program.child.kill('SIGTERM')
  await waiting(fleet, 2)
  fleet.program.child.kill('SIGTERM')
  t.match(await fleet.program.ended, { code: 0, stderr: '' })
  disk.free()
  t.strictSame(lost(fleet), costOf(TUNNELS))
  t.strictSame(await written(fleet), NOTHING)
})

t.test(
  'a worker that is recycled waits for the disk, and is replaced when it has written',
  { skip },
  async (t) => {
    const { fleet, disk, talk } = await startStand(t)
    await end(await talk())
    const [, old] = await workersOf(fleet)
    await fleet.control('/drain', { method: 'POST', body: { worker: 'worker-1', timeoutMs: 600_000 } })
    t.strictSame(await waiting(fleet, 1), [old?.pid])
    await end(await talk())
    disk.free()
    await fleet.says('a process was replaced')
    fleet.program.child.kill('SIGTERM')
    await fleet.program.ended
    t.strictSame(await written(fleet), costOf(2 * TUNNELS))
    t.strictSame(lost(fleet), NOTHING)
  },
)

t.test(
  'workers whose primary was killed wait as long as they drain, and end by a signal',
  { skip },
  async (t) => {
    const { fleet, talk } = await startStand(t, 'drainTimeout: 10m\n')
    await end(await talk())
    const own = workers(fleet.pid)
    fleet.program.child.kill('SIGKILL')
    await waiting(fleet, 2)
    for (const pid of own) process.kill(pid, 'SIGTERM')
    for (const pid of own) await gone(pid)
    t.strictSame(lost(fleet), costOf(TUNNELS))
  },
)

t.test('whoever stops the release in charge stops what is left of the one before', { skip }, async (t) => {
  const { fleet, talk } = await startStand(t, 'drainTimeout: 2s\nengine: stream\n')
  const stays = await talk()
  const { pid } = await fleet.upgrade()
  await end(stays)
  await waiting(fleet, 2)
  process.kill(pid, 'SIGTERM')
  t.equal(await fleet.firstEnded, 0)
  await gone(pid)
  t.strictSame(lost(fleet), costOf(TUNNELS))
})

t.test(
  'a signal for the first process of a container reaches both releases, while one waits for the disk',
  { skip: skip || skipWithout('unshare') },
  async (t) => {
    const { fleet, disk, talk } = await startStand(t, 'drainTimeout: 10m\n', CONTAINER)
    const [first = 0] = childrenOf(fleet.program)
    const since = performance.now()
    t.match(readFileSync(`/proc/${first}/status`, 'utf8'), /^NSpid:\t[0-9]+\t1$/m)
    await end(await talk())
    await fleet.control('/upgrade', { method: 'POST' })
    await waiting(fleet, 2)
    const late = await talk()
    process.kill(first, 'SIGTERM')
    await fleet.says('draining', 2)
    await end(late)
    await waiting(fleet, 4)
    disk.free()
    t.match(await fleet.program.ended, { code: 0, stderr: '' })
    await isWritten(t, fleet, costOf(2 * TUNNELS), since)
    t.strictSame(lost(fleet), NOTHING)
  },
)

// A journal alone.

const MONTH = '2026-11'
const SERVICES = 200

/** A full disk on which one page is free, and a batch that is longer than that. */
function nearlyFull(t: Test): { folder: string; disk: Disk; batch: Batch } {
  const folder = join(newFolder(t), 'disk')
  const disk = mountDisk(folder)
  if (typeof disk === 'string') throw new Error(disk)
  t.teardown(() => disk.unmount())
  disk.fill()
  const filler = join(folder, 'filler')
  truncateSync(filler, statSync(filler).size - 4_096)
  const deltas = Array.from({ length: SERVICES }, (_, at) => ({
    service: `service-${at}`,
    amounts: { ...nothing(), connections: 1 },
  }))
  return { folder, disk, batch: { month: MONTH, deltas } }
}

async function servicesIn(folder: string) {
  const { services, skipped } = await readMonth(folder, MONTH)
  return { names: [...services.keys()], ...skipped }
}

function namesOf(batches: readonly Batch[]): string[] {
  return batches.flatMap(({ deltas }) => deltas.map(({ service }) => service))
}

t.test(
  'of a batch that was written in part, each line is in the file or not written',
  { skip },
  async (t) => {
    const { folder, disk, batch } = nearlyFull(t)
    const all = namesOf([batch])
    const journal = createJournal(folder, 'main')
    journal.put(batch)
    await t.rejects(journal.flush(), { code: 'ENOSPC' })
    const { names } = await servicesIn(folder)
    t.ok(names.length > 10 && names.length < SERVICES, `${names.length} lines`)
    t.strictSame([...names, ...namesOf(journal.unwritten)], all)
    disk.free()
    await journal.flush()
    t.strictSame(journal.unwritten, [])
    await journal.close()
    t.strictSame(await servicesIn(folder), { names: all, torn: 0, foreign: 0 })
  },
)

t.test('a journal that is closed in the middle of a batch keeps whole lines', { skip }, async (t) => {
  const { folder, batch } = nearlyFull(t)
  const journal = createJournal(folder, 'main')
  journal.put(batch)
  await t.rejects(journal.flush(), { code: 'ENOSPC' })
  await journal.close()
  const { names, ...skipped } = await servicesIn(folder)
  t.strictSame(skipped, { torn: 0, foreign: 0 })
  t.ok(names.length > 10 && names.length < SERVICES, `${names.length} lines`)
  t.strictSame([...names, ...namesOf(journal.unwritten)], namesOf([batch]))
  t.strictSame(journal.uncertain, [])
})
