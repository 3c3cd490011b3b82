// The examples for WebSockets of http-proxy-3's README and of http-proxy's, but for one line: files of test/programs, each run by
// two workers of node's cluster, with real clients and a real target. Their ports are those of the READMEs.

import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { WebSocketServer } from 'ws'
import { startProgram } from './support/program.ts'
import type { Talker } from './support/websocket.ts'
import { talkTo } from './support/websocket.ts'

const PROGRAMS = resolve('test/programs')
const CLUSTER = resolve('build/test/support/cluster.js')
const CLIENTS = 8

/** How often a port that another run of these tests has is asked for again, in ms. */
const AGAIN_MS = 200

/** A target that sends everything back. */
async function startTarget(t: Test, port: number): Promise<void> {
  for (;;) {
    const server = new WebSocketServer({ port, host: '127.0.0.1' })
    const isListening = once(server, 'listening').then(() => true)
    if (await isListening.catch(({ code }) => code !== 'EADDRINUSE')) {
      server.on('connection', (socket) => socket.on('message', (data) => socket.send(data.toString())))
      t.teardown(() => {
        for (const client of server.clients) client.terminate()
        return new Promise((closed) => server.close(closed))
      })
      return
    }
    await setTimeout(AGAIN_MS)
  }
}

/** Says something, and resolves with whether it came back; if not, the connection is over. */
async function isAlive({ socket, next, closed }: Talker, text: string): Promise<boolean> {
  socket.send(text)
  return await Promise.race([next().then((answer) => answer === text), closed.then(() => false)])
}

const README = join(dirname(createRequire(import.meta.url).resolve('http-proxy-3')), '../../README.md')

t.test('the programs are the examples of http-proxy-3, but for the line that imports it', (t) => {
  const text = readFileSync(README, 'utf8')
  const [, section = ''] = /\n#### Proxying WebSockets\n([\s\S]*?)\n####? /.exec(text) ?? []
  const examples = [...section.matchAll(/```js\n([\s\S]*?)```/g)].map(([, code = '']) => code)
  const program = (name: string) => readFileSync(join(PROGRAMS, name), 'utf8')
  const [listening = '', upgrading = ''] = examples
  t.equal(program('http-proxy-listen.js'), `import httpProxy from "headrace/http-proxy";\n\n${listening}`)
  t.equal(program('http-proxy-upgrade.js'), upgrading.replace('"http-proxy-3"', '"headrace/http-proxy"'))
  t.end()
})

for (const [name, targetPort, port] of [
  ['http-proxy-listen.js', 9014, 8014],
  ['http-proxy-upgrade.js', 9015, 8015],
  ['http-proxy-new.cjs', 9015, 8015],
] as const) {
  t.test(`${name} carries real clients on two workers, and one that dies takes only its own`, async (t) => {
    await startTarget(t, targetPort)
    const program = startProgram(t, [join(PROGRAMS, name), '2'], { script: CLUSTER })
    const pids = [await program.line(), await program.line()].map((line) => Number(line.split(' ')[1]))
    const talkers: Talker[] = []
    for (let number = 0; number < CLIENTS; number += 1) {
      const talker = await talkTo(t, `127.0.0.1:${port}`, `/room?number=${number}`)
      t.ok(await isAlive(talker, `hello ${number}`))
      talkers.push(talker)
    }
    const answer = await fetch(`http://127.0.0.1:${port}/`)
    t.equal(answer.status, 426)
    t.match(await answer.text(), /keep http-proxy for plain HTTP/)
    process.kill(pids[0] ?? 0, 'SIGKILL')
    const alive = await Promise.all(talkers.map((talker) => isAlive(talker, 'still there?')))
    const left = alive.filter((one) => one).length
    t.ok(left > 0 && left < CLIENTS, `${left} of ${CLIENTS} are left`)
  })
}
