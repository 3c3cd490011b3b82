// A release that leaves: what it had accepted goes after its tunnels, also if one of its workers is not well.

import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import t from 'tap'
import { chatConfig, gone, workersOf } from './support/control.ts'
import { echo, startOrigin, upgradeRequest } from './support/origin.ts'
import { connectTo } from './support/peer.ts'
import type { Releases } from './support/releases.ts'
import { copyOfRelease, live, speaker, startPlayer, startReleases, talkers } from './support/releases.ts'

const TUNNELS = 20

t.test(
  'who has connected, and says what it wants when the new release is in charge, moves as well',
  async (t) => {
    const origin = await startPlayer(t)
    const fleet = await startReleases(t, chatConfig(origin.address, 'workers: 1\ndrainTimeout: 15s\n'))
    const [silent, half] = [await connectTo(t, fleet.address), await connectTo(t, fleet.address)]
    const head = upgradeRequest()
    half.write(head.slice(0, 40))
    // Whoever comes behind them shows that they are in.
    const all = await talkers(t, fleet, 1)
    const upgrading = fleet.upgrade()
    await fleet.says('upgrade: in charge')
    silent.write(head)
    half.write(head.slice(40))
    for (const one of [silent, half]) t.match(await one.until('\r\n\r\n'), /^HTTP\/1\.1 101/)
    t.match(await fleet.says('upgrade: nothing is left here'), [{ moved: 3, stayed: 0 }])
    t.match(await upgrading, { moved: 1 })
    t.equal(await fleet.firstEnded, 0)
    for (const one of [silent, half]) {
      one.write('still here')
      await one.until('still here')
    }
    await live(t, all)
  },
)

t.test('workers that have died, and die again, do not keep the next release away', async (t) => {
  const origin = await startPlayer(t)
  const { folder, script } = copyOfRelease(t)
  const [ill, dying] = ['ill', 'dying'].map((name) => join(folder, name)) as [string, string]
  const has = (file: string) =>
    `process.getBuiltinModule('node:fs').readFileSync(${JSON.stringify(file)}, 'utf8')`
  // Workers of the primary that is ill do not start any more; the one that is dying dies when it is asked for its tunnels.
  for (const file of [ill, dying]) writeFileSync(file, '')
  change(
    folder,
    'worker',
    'import ',
    (place) => `if (${has(ill)} === String(process.ppid)) process.exit(9)\n${place}`,
  )
  change(
    folder,
    'handover-giver',
    'async function offer() {',
    (place) => `${place} if (${has(dying)} === String(process.pid)) process.exit(9);`,
  )
  const fleet = await startReleases(t, chatConfig(origin.address, 'workers: 3\n'), { script })
  const all = await talkers(t, fleet, TUNNELS)
  const [, dead, next] = await workersOf(fleet)
  const well = (await fleet.says('tunnel accepted', TUNNELS)).filter(
    ({ worker }) => worker === 'worker-0',
  ).length
  writeFileSync(ill, String(fleet.pid))
  writeFileSync(dying, String(next?.pid))
  process.kill(dead?.pid ?? 0, 'SIGKILL')
  await fleet.says('a process has died')
  t.match(await fleet.upgrade(), { moved: well })
  await gone(next?.pid ?? 0)
  while (all.filter(({ end }) => end === null).length > well) await pause(10)
  await live(
    t,
    all.filter(({ end }) => end === null),
  )
  t.equal(await fleet.firstEnded, 0)
})

t.test('an old worker that hangs does not keep here what the others have accepted', async (t) => {
  let answer = () => {}
  const may = new Promise<void>((resolve) => {
    answer = resolve
  })
  const origin = await startOrigin(t, {
    async answer(peer) {
      if ((await peer.until('\r\n\r\n')).startsWith('GET /late')) await may
      await echo(peer)
    },
  })
  const config = chatConfig(origin.address, 'workers: 2\ndrainTimeout: 15s\n')
  const fleet = await startReleases(t, config.replace('name: origin', 'name: origin, firstByteTimeout: 60s'))
  const all = [...(await talkers(t, fleet, TUNNELS))]
  const late = Array.from({ length: TUNNELS }, () => speaker(t, fleet.address, { path: '/late' }))
  while (origin.count < 2 * TUNNELS) await pause(10)
  const [hung] = await workersOf(fleet)
  const upgrading = fleet.upgrade()
  await fleet.says('upgrade: in charge')
  process.kill(hung?.pid ?? 0, 'SIGSTOP')
  answer()
  const { moved } = await upgrading
  t.equal(moved, TUNNELS)
  const others = () => fleet.said('tunnel accepted').length - TUNNELS
  const isOver = () => fleet.said('upgrade: nothing is left here').length > 0
  while (!isOver() && (others() === 0 || (await movedIn(fleet)) < moved + others())) await pause(50)

  process.kill(hung?.pid ?? 0, 'SIGCONT')
  for (const one of await Promise.all(late)) {
    void one.talk(20)
    all.push(one)
  }
  t.match(await fleet.says('upgrade: nothing is left here'), [{ moved: 2 * TUNNELS, stayed: 0 }])
  await live(t, all)
  t.equal(await fleet.firstEnded, 0)
})

/** In the release that starts next. */
function change(folder: string, module: string, place: string, to: (place: string) => string): void {
  const path = join(folder, `dist/process/${module}.js`)
  const whole = readFileSync(path, 'utf8')
  if (!whole.includes(place)) throw new Error(`${module} has no ${place}`)
  writeFileSync(path, whole.replace(place, to))
}

/** How many tunnels the release that is in charge has got so far. */
async function movedIn(fleet: Releases): Promise<number> {
  const { text } = await fleet.control('/metrics')
  return Number(/^headrace_tunnels_moved_total(?:\{.*\})? (\d+)$/m.exec(text)?.[1] ?? 0)
}
