// Programs and sessions in the running program, with two workers: what lives in one of them is reached through both.

import { copyFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { Test } from 'tap'
import t from 'tap'
import type { Fleet } from './support/control.ts'
import { echoes, newFolder, openTunnel, startFleet, workersOf } from './support/control.ts'
import { echo, startOrigin } from './support/origin.ts'
import { startProgram } from './support/program.ts'
import type { Talker } from './support/websocket.ts'
import { talkTo } from './support/websocket.ts'

const PROGRAMS = resolve('test/programs')

/** `more` belongs to the service. */
function config(more: string): string {
  return `listeners: [{ address: "127.0.0.1:0" }]
workers: 2
drainTimeout: 0
services:
  - id: chat
    domains: ["*"]
    websockets: on
${more}`
}

const CHAT = config(`    program:
      worker: ./worker-chat.js
      env: { GREETING: hello }
      objects: { ROOMS: ChatRoom }
`)

function chatFolder(t: Test): string {
  const folder = newFolder(t)
  copyFileSync(join(PROGRAMS, 'worker-chat.js'), join(folder, 'worker-chat.js'))
  return folder
}

/** Opens so many sockets that both workers have some of them. */
async function gather(t: Test, { address }: Fleet, path: string, count = 12): Promise<Talker[]> {
  const talkers: Talker[] = []
  // One after the other, so that all hear the same of each other.
  for (let at = 0; at < count; at += 1) talkers.push(await talkTo(t, address, path))
  return talkers
}

async function connectionsOf(fleet: Fleet): Promise<number> {
  const { json } = await fleet.control('/usage')
  return (json as { readonly total: { readonly connections: number } }).total.connections
}

async function until(talker: Talker, text: string): Promise<void> {
  while ((await talker.next()) !== text) await null
}

t.test('a chat of a Worker with two rooms: each is one, whichever worker a client comes to', async (t) => {
  const fleet = await startFleet(t, CHAT, { folder: chatFolder(t) })
  const red = await gather(t, fleet, '/room/red/websocket?name=ada')
  const blue = await gather(t, fleet, '/room/blue/websocket?name=eve')
  red[0]?.socket.send('hello')
  blue[0]?.socket.send('moin')
  for (const one of red) await until(one, 'ada: hello')
  for (const one of blue) await until(one, 'eve: moin')

  const accepted = await fleet.says('tunnel accepted', 24)
  t.same([...new Set(accepted.map(({ worker }) => worker))].sort(), ['worker-0', 'worker-1'])
  t.ok(accepted.every(({ origin, backend }) => origin === 'local' && backend === 'local'))
  for (let count = 0; count < 6; count += 1) {
    const response = await fetch(`http://${fleet.address}/room/red`, { headers: { connection: 'close' } })
    t.same(await response.json(), { room: 'red', greeting: 'hello', here: 12, messages: 1 })
  }
  // Workers write it down four times a second.
  while ((await connectionsOf(fleet)) < 24) await null
  t.equal(await connectionsOf(fleet), 24, 'each is counted once')
  const listed = (await fleet.control('/tunnels')).json as { readonly total: number }
  t.equal(listed.total, 24)

  const ended = (await fleet.control('/tunnels?service=chat', { method: 'DELETE' })).json
  t.match(ended, { ended: 24 })
  for (const { closed } of [...red, ...blue]) t.match(await closed, { code: 1001 })
  const ends = await fleet.says('tunnel closed', 24)
  t.ok(ends.every(({ end }) => end === 'operator-fin-tunnel'))
})

t.test('a room lives again, empty, when its worker was killed', async (t) => {
  const fleet = await startFleet(t, CHAT, { folder: chatFolder(t) })
  const talkers = await gather(t, fleet, '/room/red/websocket?name=ada')
  const workers = await workersOf(fleet)
  // One of the two has the room: when it dies, all of its sockets end, wherever they came in.
  let isOver = false
  void Promise.all(talkers.map(({ closed }) => closed)).then(() => {
    isOver = true
  })
  for (const { pid } of workers) {
    if (isOver) break
    const count = fleet.said('a process was replaced').length
    process.kill(pid, 'SIGKILL')
    await fleet.says('a process was replaced', count + 1)
  }
  await Promise.all(talkers.map(({ closed }) => closed))
  const again = await gather(t, fleet, '/room/red/websocket?name=bob')
  again[0]?.socket.send('anybody?')
  for (const one of again) await until(one, 'bob: anybody?')
})

t.test("a handler's sessions, and a rejected promise that nobody notices", async (t) => {
  const handler = `import { serve, sessions } from '${resolve('dist/index.js')}'
export default (request) => {
  if (request.path === '/leak') Promise.reject(new Error('leaked'))
  if (request.path === '/leak') return serve(request, (socket) => socket.send('leaked'))
  return sessions.get(request.query.get('room')).join(request, (socket, room) => {
    const { address } = request.client
    for (const one of room.sockets) one.send(\`\${address} is number \${room.sockets.size}\`)
  })
}`
  const folder = newFolder(t, { 'edge.mjs': handler })
  const fleet = await startFleet(t, config('    handler: ./edge.mjs\n'), { folder })
  for (const room of ['a', 'b']) {
    const talkers = await gather(t, fleet, `/?room=${room}`)
    for (const one of talkers) await until(one, '127.0.0.1 is number 12')
  }
  const leaky = await talkTo(t, fleet.address, '/leak')
  t.equal(await leaky.next(), 'leaked')
  const [line] = await fleet.says('a promise was rejected')
  t.match(line, { error: /^leaked \(\/.*edge\.mjs:3:\d+\)$/ })
  t.match(await workersOf(fleet), [{ restarts: 0 }, { restarts: 0 }])
  t.equal(leaky.socket.readyState, leaky.socket.OPEN)

  fleet.program.child.kill('SIGTERM')
  t.match(await leaky.closed, { code: 1001 })
  t.match(await fleet.program.ended, { code: 0, stderr: '' })
})

t.test("the sample of Fastly's page runs without a config, on two workers", async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const folder = newFolder(t)
  const words = ['run', '--fastly', join(PROGRAMS, 'fastly-seed.js'), '--listen', '127.0.0.1:0']
  const backends = [
    '--backend',
    `ws_backend_name=${origin.address}`,
    '--backend',
    'non_ws_backend_name=127.0.0.1:1',
  ]
  const program = startProgram(t, [...words, ...backends], { cwd: folder })
  const [, address = ''] = /^headrace listens on (\S+)$/.exec(await program.line()) ?? []
  t.match(address, /^127\.0\.0\.1:\d+$/)
  const response = await fetch(`http://${address}/`)
  t.equal(response.status, 502)
  const clients = await Promise.all(Array.from({ length: 8 }, () => openTunnel(t, address)))
  for (const client of clients) t.ok(await echoes(client, 'through'))
  for (const client of clients) client.end()
  program.child.kill('SIGTERM')
  t.match(await program.ended, { code: 0 })
})

t.test('what is wrong with a program is told by check and by run, with its place', async (t) => {
  const folder = newFolder(t, {
    'main.js': "import { x } from 'fastly:secret-store'",
    'headrace.yaml': config('    program: { fastly: ./main.js }\n'),
  })
  for (const command of ['check', 'run']) {
    const { code, stderr } = await startProgram(t, [command, '--config', 'headrace.yaml'], { cwd: folder })
      .ended
    t.equal(code, 1)
    t.match(
      stderr,
      /^headrace\.yaml:8:16: services\[0\]\.program\.fastly: the program .*main\.js can't be loaded: Error: fastly:secret-store is not offered; there is fastly:websocket, fastly:env; mend the program\n$/,
    )
  }
})
