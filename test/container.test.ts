// The program as the first process of a container: there is no other that would take care of signals and of the dead.

import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import t from 'tap'
import { selfSigned } from './support/certificates.ts'
import { chatConfig, echoes, newFolder, openTunnel, startFleet } from './support/control.ts'
import { echo, startOrigin, upgradeRequest } from './support/origin.ts'
import { connectTo } from './support/peer.ts'
import { childrenOf, PROGRAM, startProgram } from './support/program.ts'
import { edit } from './support/reloading.ts'
import { skipWithout } from './support/tools.ts'

/** A process namespace of its own, in which what follows is process 1 (unshare(1)). */
const CONTAINER = ['unshare', '--pid', '--fork', '--mount-proc', '--kill-child']

const isRoot = process.getuid?.() === 0
if (!isRoot && process.env.CI === 'true') throw new Error('process namespaces are for root')
const skip = isRoot ? skipWithout('unshare') : 'process namespaces are for root'

t.test(
  'as process 1 it stops on SIGTERM when its tunnels are over, and exits with 0',
  { skip },
  async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const fleet = await startFleet(t, chatConfig(origin.address), { how: { launcher: CONTAINER } })
    const [first = 0] = childrenOf(fleet.program)
    t.match(readFileSync(`/proc/${first}/status`, 'utf8'), /^NSpid:\t[0-9]+\t1$/m)
    const client = await fleet.open()
    process.kill(first, 'SIGTERM')
    await fleet.says('draining')
    t.ok(await echoes(client, 'still there'))
    client.end()
    t.match(await fleet.program.ended, { code: 0, stderr: '' })
  },
)

t.test(
  'as process 1 it takes notice of the deaths of orphans, and of its own workers',
  { skip },
  async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const fleet = await startFleet(t, chatConfig(origin.address), { how: { launcher: CONTAINER } })
    const [first = 0] = childrenOf(fleet.program)
    const own = childrenOf({ child: { pid: first } as never })
    t.equal(own.length, 3)
    // As `docker exec` does: each shell leaves a child behind, whose parent is process 1 from then on.
    for (let count = 0; count < 5; count += 1) {
      const shell = spawnSync('nsenter', [`--target=${first}`, '--pid', 'sh', '-c', 'sleep 0.1 & echo $!'])
      t.match(shell, { status: 0, stdout: /^[0-9]+\n$/ })
    }
    const [worker = 0] = childrenOf({ child: { pid: first } as never }, 'worker')
    process.kill(worker, 'SIGKILL')
    await fleet.says('a process was replaced')
    while (deadOf(first) > 0 || childrenOf({ child: { pid: first } as never }).length > 3) {
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    t.ok(await echoes(await fleet.open(), 'alive'))
  },
)

t.test(
  'as process 1 it stays over an upgrade, passes signals on, and ends as the new release does',
  { skip },
  async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const { certificate, key } = await selfSigned({ names: ['chat.test'] })
    const folder = newFolder(t, { 'cert.pem': certificate, 'key.pem': key })
    const secured = '{ address: "127.0.0.1:0", tls: { certificate: cert.pem, key: key.pem } }'
    const config = chatConfig(origin.address).replace(' }]\nservices', ` }, ${secured}]\nservices`)
    const fleet = await startFleet(t, config, { folder, how: { launcher: CONTAINER } })
    const [first = 0] = childrenOf(fleet.program)
    const [plain = '', tls = ''] = fleet.addresses
    const moves = await openTunnel(t, plain)
    const stays = await connectTo(t, tls, {})
    stays.write(upgradeRequest())
    await stays.until('\r\n\r\n')
    const upgraded = await fleet.control('/upgrade', { method: 'POST' })
    t.match(upgraded, { status: 200, json: { moved: 1, stayed: 1 } })

    // Process 1 still has a tunnel, and what it gets is for the other one.
    edit(fleet, 'services:', 'drainTimeout: 1h\nservices:')
    process.kill(first, 'SIGHUP')
    t.match(await fleet.says('reloaded'), [{ settings: ['drainTimeout'] }])
    const draining = fleet.said('draining').length
    process.kill(first, 'SIGTERM')
    t.match((await fleet.says('draining', draining + 1)).at(-1), { tunnels: 1, drainMs: 3_600_000 })
    for (const client of [moves, stays]) {
      t.ok(await echoes(client, 'still there'))
      client.end()
    }
    t.match(await fleet.program.ended, { code: 0, stderr: '' })
  },
)

/** Zombies that wait for this process, or children that live and are not node. */
function deadOf(pid: number): number {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').match(/[0-9]+/g) ?? []
  return children.filter((child) => !/node/.test(readFileSync(`/proc/${child}/cmdline`, 'utf8'))).length
}

t.test('as process 1 a signal ends its start, too', { skip }, async (t) => {
  // A handler that never comes up: without a listener for the signal it would wait for SIGKILL.
  const folder = newFolder(t, {
    'edge.mjs': "console.log('loads'); await new Promise((resolve) => setTimeout(resolve, 1e6))",
  })
  const config = chatConfig('127.0.0.1:1').replace('backends:', 'handler: ./edge.mjs\n    backends:')
  writeFileSync(`${folder}/headrace.yaml`, config)
  const program = startProgram(t, ['run', '--config', 'headrace.yaml'], { cwd: folder, launcher: CONTAINER })
  t.equal(await program.line(), 'loads')
  const [first = 0] = childrenOf(program)
  process.kill(first, 'SIGTERM')
  t.match(await program.ended, { code: 143 })
})

t.test('health is 0 while it takes connections, and says why it is not', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const fleet = await startFleet(t, chatConfig(origin.address))
  const health = async () => {
    const asked = spawn(
      'env',
      ['-u', 'NODE_OPTIONS', process.execPath, PROGRAM, 'health', '-c', 'headrace.yaml'],
      {
        cwd: fleet.folder,
      },
    )
    let said = ''
    for (const stream of [asked.stdout, asked.stderr])
      stream.on('data', (chunk: Buffer) => {
        said += chunk
      })
    const [code] = await once(asked, 'close')
    return [code, said]
  }
  t.strictSame(await health(), [0, 'ready\n'])
  const client = await fleet.open()
  fleet.program.child.kill('SIGTERM')
  await fleet.says('draining')
  t.strictSame(await health(), [1, 'headrace: not ready: draining\n'])
  client.end()
  await fleet.program.ended
  t.match(await health(), [1, /^headrace: not ready: nothing runs with the state directory /])
})
