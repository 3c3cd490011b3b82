// A new release that can't take over: the old one goes on as if nothing had been.

import { copyFileSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import t from 'tap'
import { chatConfig, gone, workersOf } from './support/control.ts'
import { childrenOf } from './support/program.ts'
import type { Releases } from './support/releases.ts'
import { copyOfRelease, live, speaker, startPlayer, startReleases, talkers } from './support/releases.ts'
import type { Speaker } from './support/stream.ts'

const TUNNELS = 60

/** The reason; and everything is as it was. */
async function failsToUpgrade(t: Test, fleet: Releases, all: readonly Speaker[]): Promise<string> {
  const before = await workersOf(fleet)
  const reason = await fleet.upgrade().then(
    () => 'it did not fail',
    (error: Error) => error.message,
  )
  await live(t, all)
  t.strictSame(await workersOf(fleet), before, 'the same workers go on')
  const another = await speaker(t, fleet.address)
  await another.say(64)
  another.socket.end()
  t.strictSame(
    readdirSync(join(fleet.folder, 'state')).filter((name) => name.startsWith('handover')),
    [],
  )
  return reason
}

t.test('a new release that is broken is given up, with the reason, however it is broken', async (t) => {
  const origin = await startPlayer(t)
  const { folder, script } = copyOfRelease(t)
  const fleet = await startReleases(t, chatConfig(origin.address), { script })
  const all = await talkers(t, fleet, TUNNELS)
  const breaks = async (file: string, code: string, reason: RegExp) => {
    const path = join(folder, 'dist', file)
    copyFileSync(path, `${path}.whole`)
    writeFileSync(path, code)
    t.match(await failsToUpgrade(t, fleet, all), reason, file)
    renameSync(`${path}.whole`, path)
  }
  const config = join(fleet.folder, 'headrace.yaml')
  const reload = async (more: string) => {
    writeFileSync(config, chatConfig(origin.address, more))
    t.match(await fleet.control('/reload', { method: 'POST' }), { status: 200 })
  }
  await breaks('cli/headrace.js', 'process.exit(7)', /has ended by itself: exit code 7/)
  // One that will never be ready: the others have the time that they take.
  await reload('workers: 2\nupgrade: { startTimeout: 1s }\n')
  await breaks('cli/headrace.js', 'setInterval(() => {}, 1000)', /not ready within 1000 ms/)
  await reload('workers: 2\n')
  await breaks('process/worker.js', 'process.exit(9)', /worker-[01] has died \(exit code 9\)/)
  await breaks('process/control.js', 'throw new Error("no")', /control has died/)

  copyFileSync(config, `${config}.whole`)
  writeFileSync(config, 'listeners: 3')
  t.match(await failsToUpgrade(t, fleet, all), /headrace\.yaml is not valid for the new release/)
  renameSync(`${config}.whole`, config)

  const upgraded = await fleet.upgrade()
  t.ok(upgraded.moved >= TUNNELS)
  await live(t, all)
})

t.test('a new release that dies before it has a tunnel changes nothing', async (t) => {
  const origin = await startPlayer(t)
  const steps = [
    'upgrade: the new release starts',
    'upgrade: the new release is ready',
    'upgrade: it knows the tunnels',
  ]
  for (const step of steps) {
    for (const module of ['headrace', 'worker']) {
      const fleet = await startReleases(t, chatConfig(origin.address))
      const all = await talkers(t, fleet, TUNNELS)
      const upgrading = fleet.upgrade().then(
        () => 'it did not fail',
        (error: Error) => error.message,
      )
      await fleet.says(step)
      const pid = Number(fleet.said('upgrade: the new release starts').at(-1)?.pid)
      let victims = module === 'worker' ? [] : [pid]
      while (victims.length === 0) victims = childrenOf({ child: { pid } as never }, module)
      const isLate = fleet.said('upgrade: the tunnels are its own').length > 0
      for (const one of victims) process.kill(one, 'SIGKILL')
      const reason = await upgrading
      t.comment(`${module} killed after "${step}": ${reason}`)
      // From then on its death is that of any program, and before that of whoever has some of them: see upgrade-windows.
      if (
        isLate ||
        /were its own already/.test(reason) ||
        fleet.said('upgrade: the tunnels are its own').length > 0
      )
        continue
      t.match(reason, /upgrade-failed/)
      await live(t, all)
      t.equal((await fleet.upgrade()).moved, TUNNELS, 'and the next one takes over')
      await live(t, all)
      for (const one of all) one.stop()
    }
  }
})

t.test('a new release that stops to answer while it gets tunnels is ended, and they go on', async (t) => {
  const origin = await startPlayer(t)
  const { folder, script } = copyOfRelease(t)
  const path = join(folder, 'dist/process/handover-taker.js')
  const whole = readFileSync(path, 'utf8')
  const fleet = await startReleases(t, chatConfig(origin.address), { script })
  const all = await talkers(t, fleet, TUNNELS)
  for (const [letter, answer] of [
    ['offer', 'taken'],
    ['batch', 'mine'],
  ]) {
    const stops = whole.replace(
      `case '${letter}':`,
      (place) => `${place} process.kill(process.pid, 'SIGSTOP')`,
    )
    t.not(stops, whole)
    writeFileSync(path, stops)
    t.match(await failsToUpgrade(t, fleet, all), new RegExp(`has not said ${answer} within 5000 ms`))
    await gone(Number(fleet.said('upgrade: the new release starts').at(-1)?.pid))
  }
})

t.test('a second upgrade while one runs is refused', async (t) => {
  const origin = await startPlayer(t)
  const fleet = await startReleases(t, chatConfig(origin.address))
  const first = fleet.upgrade()
  await fleet.says('upgrade: the new release starts')
  const second = await fleet.control('/upgrade', { method: 'POST' })
  t.match(second, { status: 409, json: { code: 'upgrade-running' } })
  t.equal((await first).workers, 2)
})
