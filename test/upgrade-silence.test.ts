// A live upgrade in which a worker hangs: one of the new release when it has got some tunnels, or one of the old release.

import { setTimeout as pause } from 'node:timers/promises'
import type { Test } from 'tap'
import t from 'tap'
import type { Stand } from './support/batches.ts'
import { failing, listed, ONE, startStand, TUNNELS, TWO } from './support/batches.ts'
import { gone, workersOf } from './support/control.ts'
import { live, speaker } from './support/releases.ts'
import type { Speaker } from './support/stream.ts'

const GIVEN = ONE + TWO

/** Those that talk again within a moment, and the others. */
async function divided(all: readonly Speaker[]): Promise<readonly [Speaker[], Speaker[]]> {
  const before = all.map(({ checker }) => checker.size)
  const talks = (_: Speaker, at: number) => (all[at]?.checker.size ?? 0) > (before[at] ?? 0)
  while (all.filter(talks).length < TUNNELS - GIVEN) await pause(10)
  return [all.filter(talks), all.filter((one, at) => !talks(one, at))]
}

/** An upgrade whose new worker has got two batches, and waits with the third. */
async function giveTwo({ fleet, gate }: Stand) {
  const { came, may } = gate()
  for (const count of [1, 2]) may(count)
  const upgrading = failing(fleet)
  return { upgrading, may, pid: await came(3) }
}

/** The next release takes over with all of them, when what has hung has gone. */
async function moves(t: Test, { fleet, all, mend }: Stand, hanging: number): Promise<void> {
  await gone(hanging)
  mend()
  const living = all.filter(({ end }) => end === null)
  t.match(await fleet.upgrade(), { moved: living.length, stayed: 0 })
  await live(t, living)
}

t.test(
  'tunnels of a new worker that is stopped come back when it goes on, and the rest goes on at once',
  async (t) => {
    const stand = await startStand(t)
    const { fleet, all } = stand
    const { upgrading, pid, may } = await giveTwo(stand)
    process.kill(pid, 'SIGSTOP')
    const reason = await upgrading
    t.match(reason, new RegExp(`\\(process ${pid}\\) has not said mine within 5000 ms`))
    t.match(
      reason,
      `${GIVEN} tunnels are with its process ${pid}, which hangs: they come back when it goes on`,
    )
    t.match(fleet.said('upgrade: given up'), [{ level: 'error' }])
    const [talking, waiting] = await divided(all)
    await live(t, talking)
    t.equal((await listed(fleet)).length, TUNNELS - GIVEN)
    const late = await speaker(t, fleet.address)
    await late.say(64)
    late.socket.end()

    t.match(await failing(fleet), `process ${pid} of the release that was given up hangs, and has tunnels`)
    // What it has not said that it takes is not its own any more.
    may(3)
    process.kill(pid, 'SIGCONT')
    await live(t, waiting)
    while ((await listed(fleet)).length < TUNNELS) await pause(10)
    t.match((await fleet.says('upgrade: its tunnels are back'))[0], { tunnels: ONE })
    await live(t, all)
    await moves(t, stand, pid)
  },
)

t.test('tunnels of a new worker in an endless loop go on, and end with it', async (t) => {
  const stand = await startStand(t)
  const { all } = stand
  const { upgrading, pid } = await giveTwo(stand)
  t.match(await upgrading, `${GIVEN} tunnels are with its process ${pid}, which hangs`)
  await live(t, all)
  process.kill(pid, 'SIGKILL')
  while (all.filter(({ end }) => end !== null).length < GIVEN) await pause(10)
  await live(
    t,
    all.filter(({ end }) => end === null),
  )
  await moves(t, stand, pid)
})

t.test('of several new workers one that hangs ends the upgrade, and the others give all back', async (t) => {
  const stand = await startStand(t, 'workers: 2\ndrainTimeout: 10m\n')
  const { fleet, all } = stand
  const { came, may } = stand.gate()
  // Each has some thirty: the first worker gives all to the first new one, the second gives a batch and no more.
  may(1)
  const upgrading = failing(fleet)
  const pid = await came(2)
  process.kill(pid, 'SIGSTOP')
  t.match(await upgrading, new RegExp(`${ONE} tunnels are with its process ${pid}, which hangs`))
  process.kill(pid, 'SIGCONT')
  may(2)
  await live(t, all)
  await moves(t, stand, pid)
})

t.test(
  'the worker of the old release that hangs keeps its tunnels, and the new release accepts',
  async (t) => {
    const stand = await startStand(t, 'workers: 2\ndrainTimeout: 10m\n')
    const { fleet, all } = stand
    const [{ pid } = { pid: 0 }] = await workersOf(fleet)
    const accepted = await fleet.says('tunnel accepted', TUNNELS)
    const stayed = accepted.filter(({ worker }) => worker === 'worker-0').length
    process.kill(pid, 'SIGSTOP')
    await fleet.says('a worker is silent')
    t.match(await fleet.upgrade(), { moved: TUNNELS - stayed })
    const late = await Promise.all(Array.from({ length: 20 }, () => speaker(t, fleet.address)))
    for (const one of late) await one.say(64)
    t.equal((await listed(fleet)).length, TUNNELS - stayed + late.length)
    process.kill(pid, 'SIGCONT')
    await live(t, all)
    while ((await listed(fleet)).length < TUNNELS + late.length) await pause(10)
  },
)

t.test('a worker of the old release that hangs while it gives does not hold the upgrade up', async (t) => {
  const stand = await startStand(t, 'workers: 1\ndrainTimeout: 10m\n')
  const { fleet, all } = stand
  const { came, may } = stand.gate()
  may(1)
  const upgrading = fleet.upgrade()
  const [{ pid } = { pid: 0 }] = await workersOf(fleet)
  await came(2)
  process.kill(pid, 'SIGSTOP')
  for (const count of [2, 3, 4]) may(count)
  await upgrading
  await (await speaker(t, fleet.address)).say(64)
  process.kill(pid, 'SIGCONT')
  await live(t, all)
  t.match(
    await fleet.says('upgrade: nothing is left here'),
    [{ stayed: 0 }],
    'it gives the rest when it goes on',
  )
})
