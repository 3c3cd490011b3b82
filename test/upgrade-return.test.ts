// A new release that goes when it has got tunnels, and is not in charge yet: they come back. And rates go along.

import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import type { Test } from 'tap'
import t from 'tap'
import { chatConfig, workersOf } from './support/control.ts'
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

const TUNNELS = 60
const NEWCOMERS = 20

function configure(fleet: Releases, config: string): void {
  writeFileSync(join(fleet.folder, 'headrace.yaml'), config)
}

for (const [workers, change] of [
  [2, ''],
  [1, ', also from one worker to two'],
] as const) {
  t.test(`tunnels of a new release that dies before it is in charge come back${change}`, async (t) => {
    const origin = await startPlayer(t)
    const { folder, script } = copyOfRelease(t)
    const config = chatConfig(origin.address).replace(
      'websockets: on',
      `websockets: on\n    gate: { maxConnections: ${TUNNELS + 1} }`,
    )
    const fleet = await startReleases(t, config, { script })
    const all = await talkers(t, fleet, TUNNELS)
    const before = await workersOf(fleet)
    configure(fleet, config.replace('workers: 2', `workers: ${workers}`))
    const { mend } = waitIn(folder, 'process/succession.js', 'async accept() {')
    const upgrading = fleet.upgrade().then(
      () => 'it did not fail',
      (error: Error) => error.message,
    )
    await fleet.says('upgrade: the tunnels are its own')
    await live(t, all)
    process.kill(Number(fleet.said('upgrade: the new release starts').at(-1)?.pid), 'SIGKILL')
    const reason = await upgrading
    t.match(reason, /the new release has ended/)
    t.notMatch(reason, /end with it/)
    t.match(await fleet.says('upgrade: its tunnels are back'), [{ tunnels: TUNNELS }])
    await live(t, all)
    t.strictSame(await workersOf(fleet), before, 'the same workers go on')
    const last = await speaker(t, fleet.address)
    await t.rejects(speaker(t, fleet.address), { message: /^HTTP\/1\.1 503/ }, 'with the same seats')
    last.socket.end()
    await fleet.says('tunnel closed')

    mend()
    configure(fleet, config)
    t.match(await fleet.upgrade(), { moved: TUNNELS, stayed: 0 })
    await live(t, all)
    await finish(t, fleet, all, 1)
  })
}

t.test('what a new release has accepted before it dies goes on as well', async (t) => {
  const origin = await startPlayer(t)
  const { folder, script } = copyOfRelease(t)
  const fleet = await startReleases(t, chatConfig(origin.address), { script })
  const all = [...(await talkers(t, fleet, TUNNELS))]
  waitIn(folder, 'process/lifetime.js', 'async takeOver(state) {')
  // The admin API is let go before: whoever has asked there is not told.
  fleet.upgrade().catch(() => {})
  await fleet.says('upgrade: the tunnels are its own')
  // Both releases accept now, whichever comes first.
  const before = fleet.said('tunnel accepted').length
  for (let count = 0; count < NEWCOMERS; count += 1) all.push(await speaker(t, fleet.address))
  await fleet.says('tunnel accepted', before + NEWCOMERS)
  for (const one of all.slice(TUNNELS)) void one.talk(20)
  await live(t, all)
  process.kill(Number(fleet.said('upgrade: the new release starts').at(-1)?.pid), 'SIGKILL')
  t.match(await fleet.says('upgrade: given up'), [{ reason: /the new release has ended/ }])
  const [{ tunnels } = { tunnels: 0 }] = fleet.said('upgrade: its tunnels are back')
  t.ok(Number(tunnels) >= TUNNELS, `${tunnels} are back`)
  await live(t, all)
  const isSilent = () =>
    fleet.control('/healthz').then(
      () => false,
      () => true,
    )
  while (await isSilent()) await pause(20)
  await finish(t, fleet, all, 0)
})

/** All of them end in order; the usage is as if there had been one release. */
async function finish(t: Test, fleet: Releases, all: readonly Speaker[], others: number): Promise<void> {
  for (const one of all) one.stop()
  for (const { socket } of all) socket.end()
  for (const one of all) while (one.end === null) await pause(10)
  await fleet.says('tunnel closed', all.length + others)
  // The origin has sent back all that has reached it.
  const bytes = all.reduce((sum, { checker }) => sum + checker.size, 0)
  const wanted = { clientToOrigin: bytes, originToClient: bytes }
  let total = { connections: 0, bytes: { clientToOrigin: 0, originToClient: 0 } }
  // What was counted last is written a moment later.
  const isShort = () => Math.min(total.bytes.clientToOrigin, total.bytes.originToClient) < bytes
  for (let count = 0; count < 100 && isShort(); count += 1) {
    const { json } = await fleet.control('/usage')
    total = (json as { readonly total: typeof total }).total
    await pause(50)
  }
  t.match(total, { connections: all.length + others, bytes: wanted })
}

t.test('an upgrade opens no window of a rate, and takes none away', async (t) => {
  const origin = await startPlayer(t)
  const rate = '{ name: all, per: service, limit: 4, window: 600s }'
  const config = chatConfig(origin.address).replace(
    'websockets: on',
    `websockets: on\n    gate: { rates: [${rate}] }`,
  )
  const fleet = await startReleases(t, config)
  await speaker(t, fleet.address)
  await speaker(t, fleet.address)
  await fleet.upgrade()
  await speaker(t, fleet.address)
  await fleet.upgrade()
  await speaker(t, fleet.address)
  await t.rejects(speaker(t, fleet.address), { message: /^HTTP\/1\.1 429/ })
  await fleet.upgrade()
  await t.rejects(speaker(t, fleet.address), { message: /^HTTP\/1\.1 429/ })
})
