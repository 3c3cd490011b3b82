// A release that leaves: what it had accepted goes after its tunnels, also if one of its workers is not well.

import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import t from 'tap'
import { chatConfig, gone, workersOf } from './support/control.ts'
import { upgradeRequest } from './support/origin.ts'
import { connectTo } from './support/peer.ts'
import { copyOfRelease, live, startPlayer, startReleases, talkers } from './support/releases.ts'

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

/** In the release that starts next. */
function change(folder: string, module: string, place: string, to: (place: string) => string): void {
  const path = join(folder, `dist/process/${module}.js`)
  const whole = readFileSync(path, 'utf8')
  if (!whole.includes(place)) throw new Error(`${module} has no ${place}`)
  writeFileSync(path, whole.replace(place, to))
}
