// What happens while some tunnels are the new release's already, some are on their way, and the others are still to come.

import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import type { Test } from 'tap'
import t from 'tap'
import type { Stand } from './support/batches.ts'
import { failing, listed, ONE, startStand, TUNNELS, TWO } from './support/batches.ts'
import { gone, workersOf } from './support/control.ts'
import { live, speaker } from './support/releases.ts'

/** It kills itself at that batch. */
const diesAt = (batch: number) => `if (count === ${batch}) process.kill(process.pid, 'SIGKILL')`

/** So many are over with a worker of the new release; all others talk as before, and the next one takes over. */
async function loses(t: Test, { fleet, all, mend }: Stand, count: number): Promise<void> {
  while (all.filter(({ end }) => end !== null).length < count) await pause(10)
  const rest = all.filter(({ end }) => end === null)
  t.equal(rest.length, TUNNELS - count)
  await live(t, rest)
  t.equal((await listed(fleet)).length, rest.length, 'what is over is not listed')
  mend()
  t.match(await fleet.upgrade(), { moved: rest.length, stayed: 0 })
  await live(t, rest)
}

t.test('a new worker that dies of the first tunnels takes no others along', async (t) => {
  const stand = await startStand(t)
  stand.breaks('', diesAt(1))
  const reason = await failing(stand.fleet)
  t.match(reason, 'has gone before it said begun')
  t.match(reason, `${ONE} tunnels were its own already, and end with it`)
  await loses(t, stand, ONE)
})

t.test(
  'a new worker that dies between two batches takes along what it has, and the rest goes on',
  async (t) => {
    const stand = await startStand(t)
    stand.breaks(diesAt(3))
    const reason = await failing(stand.fleet)
    t.match(reason, 'has gone before it said mine')
    t.match(reason, `${ONE + TWO} tunnels were its own already, and end with it`)
    await loses(t, stand, ONE + TWO)
  },
)

t.test('of several new workers another one takes what was to come to one that has died', async (t) => {
  const { fleet, all, breaks } = await startStand(t, 'workers: 2\n')
  // The one whose turn comes second, once.
  const [first, died] = ['first', 'died'].map((name) => JSON.stringify(join(fleet.folder, name)))
  breaks(`
    const { existsSync, readFileSync, writeFileSync } = process.getBuiltinModule('node:fs')
    if (!existsSync(${first})) writeFileSync(${first}, String(process.pid))
    if (count === 2 && readFileSync(${first}, 'utf8') !== String(process.pid) && !existsSync(${died})) {
      writeFileSync(${died}, '')
      process.kill(process.pid, 'SIGKILL')
    }`)
  const upgraded = await fleet.upgrade()
  while (all.filter(({ end }) => end !== null).length < ONE) await pause(10)
  t.match(upgraded, { moved: TUNNELS - ONE, stayed: 0 })
  await live(
    t,
    all.filter(({ end }) => end === null),
  )
  t.equal(await fleet.firstEnded, 0, 'the old release waits for nobody')
  while ((await workersOf(fleet)).some(({ state }) => state !== 'running')) await pause(10)
  // As many as it takes for each worker to have had some.
  const more = await Promise.all(Array.from({ length: 40 }, () => speaker(t, fleet.address)))
  await Promise.all(more.map((one) => one.say(64)))
})

t.test(
  'a tunnel that is on its way, or has gone, is listed, and an order to end it follows it',
  async (t) => {
    const { fleet, all, ids, gate } = await startStand(t)
    const { came, may } = gate()
    const [one, other] = ids
    const upgrading = fleet.upgrade()
    const end = async (id = '', how = '') => {
      const { status, json } = await fleet.control(`/tunnels/${id}?how=${how}`, { method: 'DELETE' })
      t.match({ status, json }, { status: 200, json: { ended: 1 } })
    }
    await came(1)
    await end(one, 'fin')
    const late = await speaker(t, fleet.address)
    may(1)
    await came(2)
    t.equal((await listed(fleet)).length, TUNNELS + 1)
    await end(other, 'reset')
    for (const count of [2, 3, 4]) may(count)
    t.match(await upgrading, { moved: TUNNELS, stayed: 0 }, 'what was opened meanwhile does not stay')
    const closed = await fleet.says('tunnel closed', 2)
    const words = { [one ?? '']: 'operator-fin-tunnel', [other ?? '']: 'operator-reset-tunnel' }
    t.strictSame(Object.fromEntries(closed.map(({ id, end }) => [id, end])), words)
    while (all.filter(({ end }) => end !== null).length < 2) await pause(10)
    // Whoever writes into a reset hears of it there.
    t.match(all.flatMap(({ end }) => end ?? []).sort(), ['end', /ECONNRESET|EPIPE/])
    t.match(await fleet.says('upgrade: nothing is left here'), [{ moved: TUNNELS + 1, stayed: 0 }])
    void late.talk(20)
    await live(t, [late, ...all.filter(({ end }) => end === null)])
  },
)

t.test(
  'a program that is to end while tunnels are moved ends them all in order, wherever they are',
  async (t) => {
    const { fleet, all, gate } = await startStand(t, 'workers: 1\ndrainTimeout: 1s\n')
    const { came, may } = gate()
    may(1)
    const upgrading = failing(fleet)
    await came(2)
    fleet.program.child.kill('SIGTERM')
    // Those that are still to come are being closed.
    while (all.every(({ end }) => end === null)) await pause(10)
    may(2)
    may(3)
    t.match(await upgrading, /the program is to end; 48 tunnels were its own already/)
    t.equal(await fleet.firstEnded, 0)
    const lines = await fleet.says('tunnel closed', TUNNELS)
    t.equal(new Set(lines.map(({ id }) => id)).size, TUNNELS, 'each of them once')
    while (all.some(({ end }) => end === null)) await pause(10)
    t.strictSame([...new Set(all.map(({ end }) => end))], ['end'])
    t.ok(all.every(({ checker: { size, wrongAt } }) => size > 0 && wrongAt === -1))
    for (const { pid } of fleet.said('upgrade: the new release starts')) await gone(Number(pid))
  },
)
