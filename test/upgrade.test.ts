// Live upgrade: a new release takes over the listeners and the open tunnels, and nobody at either end notices.
// HEADRACE_SOAK says how many tunnels; 5000 need 20,000 descriptors.
import t from 'tap'
import { chatConfig, workersOf } from './support/control.ts'
import { upgradeInTurn } from './support/crowd.ts'
import { speaker, startPlayer, startReleases } from './support/releases.ts'

t.test('an open tunnel outlives its release', async (t) => {
  const origin = await startPlayer(t)
  const fleet = await startReleases(t, chatConfig(origin.address))
  const one = await speaker(t, fleet.address)
  await one.say(64)
  const before = await workersOf(fleet)
  const first = fleet.pid
  const upgraded = await fleet.upgrade()
  t.match(upgraded, { moved: 1, stayed: 0, workers: 2 })
  t.not(upgraded.pid, first)
  await one.say(64)
  t.match(one, { end: null, checker: { size: 128, wrongAt: -1 } })
  t.equal(await fleet.firstEnded, 0, 'the old release leaves by itself')
  const after = await workersOf(fleet)
  t.match(after, [{ state: 'running' }, { state: 'running' }])
  t.notOk(after.some(({ pid }) => before.some((other) => other.pid === pid)))
  await one.say(64)
  const late = await speaker(t, fleet.address)
  await late.say(64)
  t.match(late, { end: null, checker: { size: 64, wrongAt: -1 } })
  one.socket.end()
  await fleet.says('tunnel closed')
  t.match(fleet.said('tunnel closed'), [
    { end: 'client-fin-tunnel', bytes: { clientToOrigin: 192, originToClient: 192 } },
  ])
})

t.test(
  'three upgrades and three reloads in turn under traffic of all kinds: none is dropped, no byte is wrong',
  { timeout: 300_000 },
  (t) => upgradeInTurn(t, 'auto', Number(process.env.HEADRACE_SOAK ?? 1_000)),
)
