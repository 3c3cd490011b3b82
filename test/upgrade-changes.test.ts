// A new release that is unlike the one before: other workers, other listeners, another node. And what holds over each.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { chatConfig, newFolder, openTunnel, workersOf } from './support/control.ts'
import { childrenOf } from './support/program.ts'
import { copyOfRelease, live, speaker, startPlayer, startReleases, talkers } from './support/releases.ts'

const TUNNELS = 60

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

/** From now on a new release takes no tunnels of the ones before. */
function speakOtherwise(folder: string): void {
  const path = join(folder, 'dist/process/handover-letters.js')
  const text = readFileSync(path, 'utf8')
  const other = text.replace(/HANDOVER_FORMAT = \d+/, 'HANDOVER_FORMAT = 0')
  if (other === text) throw new Error('the letters have no format')
  writeFileSync(path, other)
}

t.test('limits hold over a release: seats and permits go with their tunnels', async (t) => {
  const origin = await startPlayer(t)
  const config = chatConfig(origin.address)
    .replace('websockets: on', 'websockets: on\n    gate: { maxConnections: 4, expectedConnections: 2 }')
    .replace('name: origin', 'name: origin, maxConnections: 3')
  const { folder, script } = copyOfRelease(t)
  const fleet = await startReleases(t, config, { script })
  const all = await Promise.all(Array.from({ length: 3 }, () => speaker(t, fleet.address)))
  const answer = () =>
    speaker(t, fleet.address).then(
      () => 'open',
      ({ message }: Error) => message.split('\r\n')[0],
    )
  for (const [round, moved] of [
    [1, 3],
    // Those stay where they are.
    [2, 0],
  ] as const) {
    if (moved === 0) speakOtherwise(folder)
    const upgraded = fleet.upgrade()
    const answers = new Set<string | undefined>()
    // Also while both releases accept.
    while (fleet.said('upgrade: nothing is left here').length < round) answers.add(await answer())
    t.strictSame([...answers, await answer()], Array(2).fill('HTTP/1.1 503 Service Unavailable'))
    t.equal((await upgraded).moved, moved)
  }
  const closed = fleet.said('tunnel closed').length
  all.pop()?.socket.end()
  await fleet.says('tunnel closed', closed + 1)
  // The release before gives it back, through two processes.
  let answered = await answer()
  while (answered !== 'open') answered = await answer()
  t.match(await answer(), /503/, 'what was free is free, and no more than that')
  const spikes = () => ['more connections', 'connections as expected'].map((line) => fleet.said(line).length)
  t.strictSame(spikes(), [1, 0], 'a spike that goes on is not told again')
  for (const { socket } of all) socket.end()
  await fleet.says('connections as expected again')
  t.strictSame(spikes(), [1, 1])
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
