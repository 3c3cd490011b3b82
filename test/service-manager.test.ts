// The program under a service manager: what it tells it (sd_notify(3)), and the sockets that it takes from it
// (sd_listen_fds(3)).

import { existsSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import t from 'tap'
import { createNotify } from '../src/process/notify.ts'
import { selfSigned } from './support/certificates.ts'
import type { Fleet } from './support/control.ts'
import { chatConfig, echoes, gone, newFolder, openTunnel, startFleet, workersOf } from './support/control.ts'
import { ACTIVATING, listenFor, startManager } from './support/manager.ts'
import { echo, startOrigin, upgradeRequest } from './support/origin.ts'
import { connectTo } from './support/peer.ts'
import { childrenOf, PROGRAM, startProgram, WITHOUT_KOFFI } from './support/program.ts'
import { startReleases } from './support/releases.ts'
import { bySignal, edit } from './support/reloading.ts'

t.test(
  'a manager hears that it is ready, how many tunnels are open, that it lives, and that it stops',
  async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const folder = newFolder(t)
    const manager = startManager(t, join(folder, 'notify'))
    const environment = { NOTIFY_SOCKET: join(folder, 'notify'), WATCHDOG_USEC: '400000' }
    const fleet = await startFleet(t, chatConfig(origin.address), { folder, how: { environment } })
    await manager.tells(/^READY=1$/)
    await manager.tells(/^STATUS=0 tunnels open$/)
    await manager.tells(/^WATCHDOG=1$/)
    const [first, second] = [await fleet.open(), await fleet.open()]
    await manager.tells(/^STATUS=2 tunnels open$/)
    first.end()
    await first.ended
    await manager.tells(/^STATUS=1 tunnel open$/)

    fleet.program.child.kill('SIGTERM')
    await manager.tells(/^STOPPING=1$/)
    // 60 s for the drain, and 9 s for the ends of tunnels and processes.
    await manager.tells(/^EXTEND_TIMEOUT_USEC=69000000$/)
    await manager.tells(/^STATUS=draining, 1 tunnel open$/)
    t.ok(await echoes(second, 'still there'))
    second.end()
    t.match(await fleet.program.ended, { code: 0, stderr: '' })
    t.equal(manager.told.filter((line) => line === 'READY=1').length, 1)
  },
)

t.test('it is not called alive while a worker hangs, and is again after it', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const name = `@headrace-test-${process.pid}`
  const manager = startManager(t, name)
  const environment = { NOTIFY_SOCKET: name, WATCHDOG_USEC: '200000' }
  const fleet = await startFleet(t, chatConfig(origin.address), { how: { environment } })
  await manager.tells(/^WATCHDOG=1$/)
  const [{ pid } = { pid: 0 }] = await workersOf(fleet)
  process.kill(pid, 'SIGSTOP')
  const stoppedAt = manager.told.length
  t.match(await fleet.says('trouble'), [{ code: 'process-silent', error: /worker-0 did not answer/ }])
  const meanwhile = manager.told.slice(stoppedAt).filter((line) => line === 'WATCHDOG=1')
  t.ok(meanwhile.length <= 1, 'at most the one that was on its way')
  process.kill(pid, 'SIGCONT')
  const continuedAt = manager.told.length
  while (!manager.told.slice(continuedAt).includes('WATCHDOG=1')) await manager.tells(/^WATCHDOG=1$/)
  t.ok(await echoes(await fleet.open(), 'alive'))
})

t.test('a worker that dies and is replaced does not make it look dead', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const name = `@headrace-test-replaced-${process.pid}`
  const manager = startManager(t, name)
  const environment = { NOTIFY_SOCKET: name, WATCHDOG_USEC: '200000' }
  const fleet = await startFleet(t, chatConfig(origin.address), { how: { environment } })
  const [{ pid } = { pid: 0 }] = await workersOf(fleet)
  process.kill(pid, 'SIGKILL')
  await fleet.says('a process was replaced')
  const replacedAt = manager.told.length
  while (!manager.told.slice(replacedAt).includes('WATCHDOG=1')) await manager.tells(/^WATCHDOG=1$/)
  t.strictSame(fleet.said('trouble'), [])
})

t.test('what concerns the manager is not in the environment of its children', async (t) => {
  const folder = newFolder(t)
  const manager = startManager(t, join(folder, 'notify'))
  const environment = {
    NOTIFY_SOCKET: join(folder, 'notify'),
    WATCHDOG_USEC: '30000000',
    LISTEN_FDS: '1',
    LISTEN_FDNAMES: 'another',
    LISTEN_PID: '1',
    KEPT: 'yes',
  }
  const fleet = await startFleet(t, chatConfig('127.0.0.1:1'), { folder, how: { environment } })
  await manager.tells(/^READY=1$/)
  const children = childrenOf(fleet.program)
  t.equal(children.length, 3)
  for (const pid of children) {
    const names = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0')
    t.ok(names.includes('KEPT=yes'))
    t.strictSame(
      names.filter((one) => /^(NOTIFY|WATCHDOG|LISTEN)_/.test(one)),
      [],
    )
  }
})

t.test('a manager that can not be told stops nothing, and the log says so once', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const folder = newFolder(t)
  const environment = { NOTIFY_SOCKET: join(folder, 'nobody'), WATCHDOG_USEC: '100000' }
  const fleet = await startFleet(t, chatConfig(origin.address), { folder, how: { environment } })
  t.ok(await echoes(await fleet.open(), 'works'))
  const [trouble] = await fleet.says('trouble')
  t.match(trouble, { code: 'notify-failed', error: /nobody: ENOENT/ })
  // Each time that it would be told, the services of each worker are asked: far more than one was missed by then.
  for (let round = 0; round < 20; round += 1) await fleet.control('/services')
  t.equal(fleet.said('trouble').length, 1)
})

t.test(
  'a reload is told with its time, a new main process by its number; a watchdog may be for another',
  async (t) => {
    const folder = newFolder(t)
    const path = join(folder, 'notify')
    const manager = startManager(t, path)
    const environment = { NOTIFY_SOCKET: path, WATCHDOG_USEC: '3000000', WATCHDOG_PID: '7', OTHER: 'stays' }
    const before = process.hrtime.bigint() / 1_000n
    const notify = createNotify(environment, 7, (error) => t.fail(error.message))
    t.strictSame(environment, { OTHER: 'stays' })
    t.equal(notify.watchdogMs, 3_000)
    t.strictSame(notify.environment, { NOTIFY_SOCKET: path, WATCHDOG_USEC: '3000000' })
    notify.reloading()
    notify.ready()
    notify.mainPid(4_711)
    await manager.tells(/^MAINPID=4711$/)
    const [reloading, time = '', ...more] = manager.told
    t.strictSame([reloading, ...more], ['RELOADING=1', 'READY=1', 'MAINPID=4711'])
    const at = BigInt(time.replace('MONOTONIC_USEC=', ''))
    t.ok(at >= before && at <= process.hrtime.bigint() / 1_000n, 'of the clock that never jumps')

    const other = createNotify(
      { NOTIFY_SOCKET: path, WATCHDOG_USEC: '3000000', WATCHDOG_PID: '8' },
      7,
      () => {},
    )
    t.equal(other.watchdogMs, null)
    const alone = createNotify({ WATCHDOG_USEC: '3000000' }, 7, () => {})
    t.match(alone, { isHeard: false, watchdogMs: null, environment: {} })
  },
)

/** With the descriptors as a service manager passes them. */
function activated(
  t: Test,
  config: string,
  sockets: readonly { descriptor: number }[],
  names: string,
  folder: string,
) {
  return startFleet(t, config, {
    folder,
    how: {
      launcher: ACTIVATING,
      descriptors: sockets.map(({ descriptor }) => descriptor),
      environment: { LISTEN_FDS: String(sockets.length), LISTEN_FDNAMES: names },
    },
  })
}

t.test(
  'listeners take the sockets of a manager, by address and by name, and all workers share them',
  async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const folder = newFolder(t)
    const [tcp, named, unix] = [listenFor(t), listenFor(t), listenFor(t, `unix:${folder}/chat.sock`)]
    const listeners = [tcp.address, 'systemd:web', '127.0.0.1:0', `unix:${folder}/chat.sock`]
    const config = chatConfig(origin.address, 'workers: 2\n', listeners)
    const fleet = await activated(t, config, [unix, tcp, named], 'chat.socket:chat.socket:web', folder)
    const [first, second, opened, fourth] = fleet.addresses
    t.strictSame([first, second, fourth], [tcp.address, named.address, unix.address])
    for (const address of [first, second, opened, fourth]) {
      t.ok(await echoes(await openTunnel(t, address ?? ''), `through ${address}`))
    }
    // As many as it takes for each to have had some, of a socket that has no turns.
    const workers = () => new Set(fleet.said('tunnel accepted').map(({ worker }) => worker))
    while (workers().size < 2) {
      const seen = fleet.said('tunnel accepted').length
      await Promise.all(Array.from({ length: 20 }, () => fleet.open()))
      await fleet.says('tunnel accepted', seen + 20)
    }
    t.strictSame(listenersOf(fleet, 'control'), [], 'the control process has none of them')
  },
)

/** The inodes of the sockets that descriptors from 4 on of a child are, and that the test has, too. */
function listenersOf(fleet: Fleet, module: string): string[] {
  const own = new Set(socketsOf(process.pid))
  return childrenOf(fleet.program, module).flatMap((pid) => socketsOf(pid).filter((one) => own.has(one)))
}

function socketsOf(pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
    try {
      const target = readlinkSync(`/proc/${pid}/fd/${fd}`)
      return target.startsWith('socket:') && Number(fd) > 2 ? [target] : []
    } catch {
      return []
    }
  })
}

t.test('a client that comes between two lives of the program waits, and is served by the next', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const folder = newFolder(t)
  const socket = listenFor(t)
  const config = chatConfig(origin.address, 'workers: 2\n', [socket.address])
  const before = await activated(t, config, [socket], 'web', folder)
  const client = await before.open()
  t.ok(await echoes(client, 'before'))
  client.end()
  before.program.child.kill('SIGTERM')
  t.match(await before.program.ended, { code: 0 })
  const early = openTunnel(t, socket.address)
  await activated(t, config, [socket], 'web', folder)
  t.ok(await echoes(await early, 'after'))
})

t.test('a worker that dies is replaced on a socket of the manager, and nobody is refused', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const folder = newFolder(t)
  const socket = listenFor(t)
  const config = chatConfig(origin.address, 'workers: 1\n', [socket.address])
  const fleet = await activated(t, config, [socket], 'web', folder)
  const [{ pid } = { pid: 0 }] = await workersOf(fleet)
  process.kill(pid, 'SIGKILL')
  t.ok(await echoes(await fleet.open(), 'alive'))
})

t.test(
  'it hears of a reload, from its beginning to its end; a socket that it has given is not left',
  async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const folder = newFolder(t)
    const socket = listenFor(t)
    const manager = startManager(t, join(folder, 'notify'))
    const fleet = await startFleet(t, chatConfig(origin.address, '', [socket.address, '127.0.0.1:0']), {
      folder,
      how: {
        launcher: ACTIVATING,
        descriptors: [socket.descriptor],
        environment: { LISTEN_FDS: '1', LISTEN_FDNAMES: 'web', NOTIFY_SOCKET: join(folder, 'notify') },
      },
    })
    await manager.tells(/^READY=1$/)
    edit(fleet, '"127.0.0.1:0"', '"127.0.0.2:0"')
    const startedAt = Number(process.hrtime.bigint() / 1_000n)
    t.match(await bySignal(t, fleet), { isDone: true })
    await manager.tells(/^RELOADING=1$/)
    const [, at = ''] = (await manager.tells(/^MONOTONIC_USEC=/)).split('=')
    t.ok(Number(at) > startedAt)
    await manager.tells(/^READY=1$/)
    t.ok(await echoes(await openTunnel(t, socket.address), 'where it was'))

    edit(fleet, `{ address: "${socket.address}" }, `, '')
    const { isDone, said } = await bySignal(t, fleet)
    t.equal(isDone, false)
    t.match(said, `listeners: no listener takes ${socket.address}, which the service manager has opened`)
    await manager.tells(/^RELOADING=1$/)
    await manager.tells(/^READY=1$/)
    t.ok(await echoes(await openTunnel(t, socket.address), 'still where it was'))
  },
)

t.test(
  'an upgrade is told as the new main process, which goes on with the sockets and leaves them in place',
  async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const folder = newFolder(t)
    const [tcp, unix] = [listenFor(t), listenFor(t, `unix:${folder}/chat.sock`)]
    const manager = startManager(t, join(folder, 'notify'))
    const config = chatConfig(origin.address, 'workers: 2\n', ['systemd:web', unix.address])
    const sockets = [tcp.descriptor, unix.descriptor]
    const fleet = await startReleases(t, config, {
      folder,
      how: {
        launcher: ACTIVATING,
        descriptors: sockets,
        environment: {
          LISTEN_FDS: '2',
          LISTEN_FDNAMES: 'web:chat',
          NOTIFY_SOCKET: join(folder, 'notify'),
          WATCHDOG_USEC: '400000',
        },
      },
    })
    await manager.tells(/^READY=1$/)
    const client = await openTunnel(t, tcp.address)
    const { pid, moved } = await fleet.upgrade()
    t.equal(moved, 1)
    await manager.tells(new RegExp(`^MAINPID=${pid}$`))
    t.equal(await fleet.firstEnded, 0)
    // What comes from now on comes of the new one.
    await manager.tells(/^STATUS=1 tunnel open$/)
    await manager.tells(/^WATCHDOG=1$/)
    t.ok(await echoes(client, 'moved'))
    for (const { address } of [tcp, unix]) t.ok(await echoes(await openTunnel(t, address), 'as before'))

    edit(fleet, `, { address: "${unix.address}" }`, '')
    process.kill(pid, 'SIGHUP')
    const [{ problems } = {}] = await fleet.says('not reloaded')
    t.match(problems, [/no listener takes unix:.*chat\.sock, which the service manager has opened/])
    const failed = await fleet.upgrade().then(
      () => 'it did not fail',
      (error: Error) => error.message,
    )
    t.match(failed, /no listener takes unix:.*chat\.sock, which the service manager has opened/)
    process.kill(pid, 'SIGTERM')
    await manager.tells(/^STOPPING=1$/)
    process.kill(pid, 'SIGINT')
    await gone(pid)
    t.ok(existsSync(join(folder, 'chat.sock')), 'its name is not the program’s to remove')
  },
)

t.test('the main process does not end before what stays with the release before it', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const { certificate, key } = await selfSigned({ names: ['chat.test'] })
  const folder = newFolder(t, { 'cert.pem': certificate, 'key.pem': key })
  const config = chatConfig(origin.address).replace(
    ' }]\nservices',
    ', tls: { certificate: cert.pem, key: key.pem } }]\nservices',
  )
  const fleet = await startReleases(t, config, { folder })
  const stays = await connectTo(t, fleet.address, {})
  stays.write(upgradeRequest())
  await stays.until('\r\n\r\n')
  const { pid, stayed } = await fleet.upgrade()
  t.equal(stayed, 1)
  t.match((await fleet.control('/metrics')).text, /^headrace_tunnels_left 1$/m)
  process.kill(pid, 'SIGTERM')
  await fleet.says('drained')
  // Whoever has started it ends all that is left when it ends (systemd.kill(5), KillMode=mixed).
  for (let count = 0; count < 20; count += 1) {
    t.ok(await echoes(stays, `still there ${count}`))
    t.match(await fleet.control('/readyz'), { status: 503, json: { status: 'draining' } })
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  stays.end()
  t.equal(await fleet.firstEnded, 0)
  await gone(pid)
})

t.test('sockets and listeners that do not fit are an error that says what was passed', async (t) => {
  const folder = newFolder(t)
  const [socket, other] = [listenFor(t), listenFor(t)]
  const asked = chatConfig('127.0.0.1:1', 'workers: 1\n', ['systemd:web'])
  const taken = chatConfig('127.0.0.1:1', 'workers: 1\n', [socket.address, 'systemd:api'])
  const cases: [string, string, { descriptor: number }[], string, RegExp][] = [
    ['unused', chatConfig('127.0.0.1:1'), [socket], 'web', /no listener takes web \(127\.0\.0\.1:[0-9]+\)/],
    ['not there', asked, [socket], 'api', /asks for the socket web, and those passed are api \(127/],
    ['none', asked, [], '', /asks for the socket web, and none was passed/],
    ['two', asked, [socket, other], 'web:web', /several have that name: those passed are web \(.*\), web \(/],
    ['twice', taken, [socket], 'api', /two listeners ask for the socket api/],
    ['a file', asked, [{ descriptor: 0 }], 'web', /descriptor 3 \(web\) is no listening stream socket/],
  ]
  for (const [what, config, sockets, names, message] of cases) {
    await t.test(what, async (t) => {
      const started = activated(t, config, sockets, names, folder)
      await t.rejects(started, { message })
      await t.rejects(started, { message: /hint: let each \.socket unit have a listener/ })
    })
  }
  const program = startProgram(t, ['run', '--config', join(folder, 'headrace.yaml')], { cwd: folder })
  t.equal((await program.ended).code, 3)
})

t.test('without koffi it runs, says once that nobody can be told, and takes no socket', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const folder = newFolder(t, { 'without-koffi.cjs': WITHOUT_KOFFI })
  const whole = { folder, script: `--require=${folder}/without-koffi.cjs`, words: [PROGRAM] }
  const environment = { NOTIFY_SOCKET: join(folder, 'notify'), WATCHDOG_USEC: '100000' }
  const fleet = await startFleet(t, chatConfig(origin.address), { ...whole, how: { environment } })
  t.ok(await echoes(await fleet.open(), 'works'))
  t.match(await fleet.says('trouble'), [{ code: 'notify-failed', error: /koffi can't be loaded/ }])

  const socket = listenFor(t)
  const how = {
    launcher: ACTIVATING,
    descriptors: [socket.descriptor],
    environment: { LISTEN_FDS: '1', LISTEN_FDNAMES: 'web' },
  }
  const asked = startFleet(t, chatConfig(origin.address, '', ['systemd:web']), { ...whole, how })
  await t.rejects(asked, { message: /do not fit the listeners: they can't be used here: .*koffi/ })
})

const ACTIVATE = '/usr/bin/systemd-socket-activate'
const isMissing = existsSync(ACTIVATE) ? false : `${ACTIVATE} is missing: scripts/install-peers installs it`
if (isMissing !== false && process.env.CI === 'true') throw new Error(isMissing)

t.test(
  'systemd-socket-activate starts it on the first connection, which it serves',
  { skip: isMissing },
  async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const folder = newFolder(t)
    const path = join(folder, 'chat.sock')
    const config = chatConfig(origin.address, 'workers: 2\n', ['systemd:web'])
    writeFileSync(join(folder, 'headrace.yaml'), config)
    const launcher = [ACTIVATE, '--listen', path, '--fdname', 'web']
    const program = startProgram(t, ['run', '--config', 'headrace.yaml'], { cwd: folder, launcher })
    while (!existsSync(path)) await new Promise(setImmediate)
    const client = await openTunnel(t, `unix:${path}`)
    t.ok(await echoes(client, 'hello'))
    while (!program.lines.includes(`headrace listens on unix:${path}`)) await program.line()
  },
)
