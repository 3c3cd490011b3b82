// The moments in which both releases accept, or are about to, and it is open which of them will be in charge.

import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import type { Test } from 'tap'
import t from 'tap'
import { failing } from './support/batches.ts'
import { chatConfig, closed, gone } from './support/control.ts'
import { childrenOf } from './support/program.ts'
import type { Releases } from './support/releases.ts'
import {
  copyOfRelease,
  live,
  speaker,
  startPlayer,
  startReleases,
  talkers,
  waitIn,
} from './support/releases.ts'
import type { Speaker } from './support/stream.ts'

const SOME = 20
/** As many as it takes for each socket to have had some. */
const MANY = 40

/** The process of the new release. */
async function taker(fleet: Releases): Promise<number> {
  return Number((await fleet.says('upgrade: the new release starts')).at(-1)?.pid)
}

const workersIn = (pid: number) => childrenOf({ child: { pid } as never }, 'worker')

/** Nothing is left, and each client was told so in order. */
async function isOver(t: Test, fleet: Releases, all: readonly Speaker[], pid: number): Promise<void> {
  t.equal(await fleet.firstEnded, 0)
  await gone(pid)
  await closed(fleet.address)
  t.strictSame([...new Set(all.map(({ end }) => end))], ['end'])
  t.ok(all.every(({ checker: { size, wrongAt } }) => size > 0 && wrongAt === -1))
}

t.test('a program that is to end when all tunnels have moved ends them, and the new release', async (t) => {
  const origin = await startPlayer(t)
  const { folder, script } = copyOfRelease(t)
  const fleet = await startReleases(t, chatConfig(origin.address, 'drainTimeout: 1s\n'), { script })
  const all = await talkers(t, fleet, SOME)
  waitIn(folder, 'process/succession.js', 'async accept() {')
  const upgrading = failing(fleet)
  await fleet.says('it waits')
  const pid = await taker(fleet)
  fleet.program.child.kill('SIGTERM')
  t.match(await upgrading, /the program is to end/)
  await isOver(t, fleet, all, pid)
})

t.test('a stop while the new release comes into charge stops that one as well', async (t) => {
  const origin = await startPlayer(t)
  const { folder, script } = copyOfRelease(t)
  const fleet = await startReleases(t, chatConfig(origin.address, 'drainTimeout: 1s\n'), { script })
  const all = await talkers(t, fleet, SOME)
  const { goOn } = waitIn(folder, 'process/lifetime.js', 'async takeOver(state) {')
  fleet.upgrade().catch(() => {})
  await fleet.says('it waits')
  const pid = await taker(fleet)
  fleet.program.child.kill('SIGTERM')
  await fleet.says('draining')
  goOn()
  await fleet.says('draining', 2)
  await isOver(t, fleet, all, pid)
})

t.test('a second signal waits for no new release that hangs before it is in charge', async (t) => {
  const origin = await startPlayer(t)
  const { folder, script } = copyOfRelease(t)
  const fleet = await startReleases(t, chatConfig(origin.address, 'drainTimeout: 1s\n'), { script })
  const all = await talkers(t, fleet, SOME)
  waitIn(folder, 'process/lifetime.js', 'async takeOver(state) {')
  fleet.upgrade().catch(() => {})
  await fleet.says('it waits')
  const pid = await taker(fleet)
  fleet.program.child.kill('SIGTERM')
  await fleet.says('draining')
  const since = performance.now()
  fleet.program.child.kill('SIGTERM')
  await fleet.firstEnded
  await gone(pid)
  // It has 30 s to answer.
  t.ok(performance.now() - since < 20_000)
  while (all.some(({ end }) => end === null)) await pause(10)
  await closed(fleet.address)
})

t.test(
  'a worker of the new release that dies when the others accept is replaced by one that does',
  async (t) => {
    const origin = await startPlayer(t)
    const { folder, script } = copyOfRelease(t)
    const fleet = await startReleases(t, chatConfig(origin.address, 'workers: 2\n'), { script })
    const { goOn } = waitIn(folder, 'process/lifetime.js', 'async takeOver(state) {')
    fleet.upgrade().catch(() => {})
    await fleet.says('it waits')
    const [one = 0] = workersIn(await taker(fleet))
    process.kill(one, 'SIGKILL')
    await fleet.says('a process was replaced')
    goOn()
    await fleet.says('upgrade: nothing is left here')
    const more = await Promise.all(Array.from({ length: MANY }, () => speaker(t, fleet.address)))
    for (const client of more) await client.say(64)
  },
)

/** Of the processes of a release: what its ids begin with. */
const release = (id: unknown) => String(id).split('-')[0]

t.test('for a worker of the new release that dies before it is to accept no other one does', async (t) => {
  const origin = await startPlayer(t)
  const { folder, script } = copyOfRelease(t)
  const fleet = await startReleases(t, chatConfig(origin.address, 'workers: 2\n'), { script })
  await Promise.all(Array.from({ length: MANY }, () => speaker(t, fleet.address)))
  const before = (await fleet.says('tunnel accepted', MANY)).map(({ id }) => release(id))
  t.equal(new Set(before).size, 2)
  const { goOn } = waitIn(folder, 'process/lifetime.js', 'async accept() {')
  const upgrading = fleet.upgrade()
  await fleet.says('it waits')
  const [one = 0] = workersIn(await taker(fleet))
  process.kill(one, 'SIGKILL')
  await fleet.says('a process has died')
  let count = MANY
  for (; fleet.said('a process was replaced').length === 0; count += 1) await speaker(t, fleet.address)
  const after = (await fleet.says('tunnel accepted', count)).slice(MANY)
  t.ok(after.length > 0, `${after.length} came meanwhile`)
  t.strictSame(
    after.filter(({ id }) => !before.includes(release(id))),
    [],
  )
  goOn()
  await upgrading
})

t.test('a worker of the old release that starts meanwhile does not go on accepting', async (t) => {
  const origin = await startPlayer(t)
  const { folder, script } = copyOfRelease(t)
  writeFileSync(
    join(folder, 'edge.mjs'),
    `await new Promise((resolve) => setTimeout(resolve, 1_500))
     export default () => ({ kind: 'handoff', backend: 'origin' })`,
  )
  // What stays keeps the old release.
  const config = chatConfig(origin.address, 'workers: 2\nengine: stream\ndrainDelay: 1h\n')
  const handled = config.replace('backends:', `handler: ${folder}/edge.mjs\n    backends:`)
  const fleet = await startReleases(t, handled, { script })
  const stays = await talkers(t, fleet, SOME)
  const { goOn } = waitIn(folder, 'process/lifetime.js', 'async takeOver(state) {')
  fleet.upgrade().catch(() => {})
  await fleet.says('it waits')
  const [one = 0] = workersIn(fleet.pid)
  process.kill(one, 'SIGKILL')
  await gone(one)
  while (workersIn(fleet.pid).length < 2) await pause(5)
  goOn()
  await fleet.says('upgrade: nothing is left here')
  await fleet.says('a process was replaced')
  const { length } = await fleet.says('tunnel accepted', SOME)
  const old = new Set(fleet.said('tunnel accepted').map(({ id }) => release(id)))
  for (let count = 0; count < MANY; count += 1) await (await speaker(t, fleet.address)).say(64)
  const lines = (await fleet.says('tunnel accepted', length + MANY)).slice(length)
  // Those of the worker that has died are over.
  t.strictSame(
    lines.filter(({ id }) => old.has(release(id))),
    [],
  )
  t.strictSame(new Set(lines.map(({ id }) => release(id))).size, 2)
  await live(
    t,
    stays.filter(({ end }) => end === null),
  )
})
