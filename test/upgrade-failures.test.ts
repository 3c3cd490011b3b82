// A new release that can't take over: the old one goes on as if nothing had been. And releases that are unlike.

import { copyFileSync, mkdirSync, readdirSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import t from 'tap'
import { chatConfig, gone, newFolder, openTunnel, workersOf } from './support/control.ts'
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
  const more = 'workers: 2\nupgrade: { startTimeout: 5s }\n'
  const fleet = await startReleases(t, chatConfig(origin.address, more), { script })
  const all = await talkers(t, fleet, TUNNELS)
  const breaks = async (file: string, code: string, reason: RegExp) => {
    const path = join(folder, 'dist', file)
    copyFileSync(path, `${path}.whole`)
    writeFileSync(path, code)
    t.match(await failsToUpgrade(t, fleet, all), reason, file)
    renameSync(`${path}.whole`, path)
  }
  await breaks('cli/headrace.js', 'process.exit(7)', /has ended by itself: exit code 7/)
  await breaks('cli/headrace.js', 'setInterval(() => {}, 1000)', /not ready within 5000 ms/)
  await breaks('process/worker.js', 'process.exit(9)', /worker-[01] has died \(exit code 9\)/)
  await breaks('process/control.js', 'throw new Error("no")', /control has died/)

  const config = join(fleet.folder, 'headrace.yaml')
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
  const fleet = await startReleases(t, chatConfig(origin.address))
  const all = await talkers(t, fleet, TUNNELS)
  const failing = failsToUpgrade(t, fleet, all)
  await fleet.says('upgrade: the new release is ready')
  const pid = Number(fleet.said('upgrade: the new release starts').at(-1)?.pid)
  for (const one of childrenOf({ child: { pid } as never }, 'worker')) process.kill(one, 'SIGSTOP')
  t.match(await failing, /has not said \w+ within 5000 ms/)
  await gone(pid)
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

t.test(
  'SIGUSR2 upgrades; the number of workers may change, and every socket is still accepted from',
  async (t) => {
    const origin = await startPlayer(t)
    const fleet = await startReleases(t, chatConfig(origin.address))
    const all = await talkers(t, fleet, TUNNELS)
    const config = (workers: number) =>
      writeFileSync(join(fleet.folder, 'headrace.yaml'), chatConfig(origin.address, `workers: ${workers}\n`))
    for (const [round, workers] of [3, 1, 2].entries()) {
      config(workers)
      const { pid = 0 } = fleet.said('upgrade: in charge').at(-1) ?? { pid: fleet.program.child.pid }
      process.kill(Number(pid), 'SIGUSR2')
      await fleet.says('upgrade: in charge', round + 1)
      await live(t, all)
      t.equal((await workersOf(fleet)).length, workers)
      // As many as it takes for each socket to have had some.
      const more = await Promise.all(Array.from({ length: 40 }, () => speaker(t, fleet.address)))
      await Promise.all(more.map((one) => one.say(64)))
      for (const { socket } of more) socket.end()
    }
    const last = Number(fleet.said('upgrade: in charge').at(-1)?.pid)
    t.teardown(() => {
      for (const one of childrenOf({ child: { pid: last } as never })) process.kill(one, 'SIGKILL')
      process.kill(last, 'SIGKILL')
    })
  },
)

t.test(
  'a new release may have other listeners: a new one, one less, and a Unix socket that stays',
  async (t) => {
    const origin = await startPlayer(t)
    const folder = newFolder(t)
    mkdirSync(join(folder, 'run'))
    const unix = `unix:${folder}/run/one.sock`
    const fleet = await startReleases(t, chatConfig(origin.address, 'workers: 2\n', ['127.0.0.1:0', unix]), {
      folder,
    })
    const [first = ''] = fleet.addresses
    const one = await speaker(t, first)
    writeFileSync(
      join(folder, 'headrace.yaml'),
      chatConfig(origin.address, 'workers: 2\n', [unix, '127.0.0.2:0']),
    )
    await fleet.upgrade()
    await fleet.firstEnded
    const [, added = ''] = (
      fleet.program.lines.filter((line) => line.startsWith('headrace listens on ')).at(-1) ?? ''
    )
      .replace('headrace listens on ', '')
      .split(', ')
    await (await speaker(t, added)).say(64)
    await one.say(64)
    t.equal(one.end, null, 'tunnels of a listener that is gone live on')
    await t.rejects(speaker(t, first), /ECONNREFUSED/)
    await openTunnel(t, unix)
  },
)

t.test('limits hold over a release: seats and permits go with their tunnels', async (t) => {
  const origin = await startPlayer(t)
  const config = chatConfig(origin.address)
    .replace('websockets: on', 'websockets: on\n    gate: { maxConnections: 4 }')
    .replace('name: origin', 'name: origin, maxConnections: 3')
  const fleet = await startReleases(t, config)
  const all = await Promise.all(Array.from({ length: 3 }, () => speaker(t, fleet.address)))
  for (let round = 0; round < 2; round += 1) {
    t.equal((await fleet.upgrade()).moved, 3)
    await t.rejects(speaker(t, fleet.address), { message: /^HTTP\/1\.1 503/ }, 'the backend is full')
  }
  const closed = fleet.said('tunnel closed').length
  all.pop()?.socket.end()
  await fleet.says('tunnel closed', closed + 1)
  const again = await speaker(t, fleet.address)
  await again.say(64)
  t.equal(again.end, null, 'what was free is free')
})

const OTHER_NODE = process.env.HEADRACE_OTHER_NODE

t.test(
  'a new release may run on another node',
  { skip: OTHER_NODE === undefined && 'HEADRACE_OTHER_NODE has no path of one' },
  async (t) => {
    const origin = await startPlayer(t)
    const more = `workers: 2\nupgrade: { node: ${OTHER_NODE} }\n`
    const fleet = await startReleases(t, chatConfig(origin.address, more))
    const all = await talkers(t, fleet, TUNNELS)
    const upgraded = await fleet.upgrade()
    t.equal(upgraded.moved, TUNNELS)
    t.not(upgraded.node, process.version)
    await live(t, all)
    // And back: what is told of a tunnel depends on no version.
    writeFileSync(
      join(fleet.folder, 'headrace.yaml'),
      chatConfig(origin.address, `workers: 2\nupgrade: { node: ${process.execPath} }\n`),
    )
    t.equal((await fleet.upgrade()).node, process.version)
    await live(t, all)
  },
)
