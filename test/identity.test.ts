// Root starts the program and the config names a user: who the processes are, whose the files are, and what nobody is
// made to do for somebody who left a link behind. These tests have to be root's.

import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import type { Test } from 'tap'
import t from 'tap'
import type { Fleet } from './support/control.ts'
import { chatConfig, echoes, gone, newFolder, openTunnel, startFleet, workersOf } from './support/control.ts'
import { echo, startOrigin } from './support/origin.ts'
import { childrenOf, PROGRAM, startProgram } from './support/program.ts'
import { live, startPlayer, startReleases, talkers } from './support/releases.ts'
import { bySignal, edit } from './support/reloading.ts'
import { skipWithout } from './support/tools.ts'

const NOBODY = 65_534
const skip = process.geteuid?.() !== 0 && 'only root can become somebody else'

/** A folder that everybody may go through, as a system's are. */
function openFolder(t: Test, files: Readonly<Record<string, string>> = {}): string {
  const folder = newFolder(t, files)
  chmodSync(folder, 0o755)
  return folder
}

interface Ids {
  readonly uid: readonly number[]
  readonly gid: readonly number[]
  readonly groups: readonly number[]
  readonly capabilities: string
}

/** Real, effective, saved and file system's (proc_pid_status(5)). */
function idsOf(pid: number | undefined): Ids {
  const text = readFileSync(`/proc/${pid}/status`, 'utf8')
  const field = (name: string) => new RegExp(`^${name}:[ \\t]*(.*)$`, 'm').exec(text)?.[1] ?? ''
  const numbers = (name: string) => (field(name).match(/[0-9]+/g) ?? []).map(Number)
  return {
    uid: numbers('Uid'),
    gid: numbers('Gid'),
    groups: numbers('Groups'),
    capabilities: field('CapEff'),
  }
}

const ALL_NOBODY: Ids = {
  uid: [NOBODY, NOBODY, NOBODY, NOBODY],
  gid: [NOBODY, NOBODY, NOBODY, NOBODY],
  groups: [],
  capabilities: '0000000000000000',
}

/** A port that only root may open. */
async function privilegedPort(): Promise<number> {
  for (let port = 1_023; port > 512; port -= 1) {
    const server = createServer()
    const isFree = await new Promise((resolve) => {
      server.on('error', () => resolve(false))
      server.listen(port, '127.0.0.1', () => resolve(true))
    })
    server.close()
    if (isFree) return port
  }
  throw new Error('no port is free')
}

/** All files below, with their owners. */
function ownersIn(folder: string): Map<string, number> {
  const owners = new Map<string, number>()
  for (const name of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
    owners.set(name, statSync(join(folder, name)).uid)
  }
  return owners
}

async function commandIn({ folder }: Pick<Fleet, 'folder'>, t: Test, ...words: string[]) {
  return await startProgram(t, [...words, '--config', 'headrace.yaml'], { cwd: folder }).ended
}

t.test('root opens the port, and whatever faces the network is nobody, for good', { skip }, async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const port = await privilegedPort()
  const folder = openFolder(t)
  const more = 'workers: 2\ndrainTimeout: 500ms\nuser: nobody\n'
  const config = chatConfig(origin.address, more, [`127.0.0.1:${port}`, `unix:${folder}/edge.sock`])
  const fleet = await startFleet(t, config, { folder })
  const [, unix = ''] = fleet.addresses
  for (const pid of childrenOf(fleet.program)) t.strictSame(idsOf(pid), ALL_NOBODY)
  t.equal(childrenOf(fleet.program).length, 3)
  t.match(idsOf(fleet.program.child.pid), {
    uid: [0, NOBODY, 0, NOBODY],
    gid: [0, NOBODY, 0, NOBODY],
    groups: [],
  })
  t.equal(idsOf(fleet.program.child.pid).capabilities, '0000000000000000')

  t.ok(await echoes(await fleet.open(), 'through a port of root'))
  t.ok(await echoes(await openTunnel(t, unix), 'through a socket'))
  t.match(statSync(join(folder, 'edge.sock')), { uid: NOBODY, gid: NOBODY })
  const [{ pid } = { pid: 0 }] = await workersOf(fleet)
  process.kill(pid, 'SIGKILL')
  await fleet.says('a process was replaced')
  for (const child of childrenOf(fleet.program)) t.strictSame(idsOf(child), ALL_NOBODY)

  t.match(await commandIn(fleet, t, 'websockets', 'off', 'chat'), { code: 0, stderr: '' })
  const owners = ownersIn(join(folder, 'state'))
  t.ok(owners.has('websockets.json') && owners.has('usage'), [...owners.keys()].join(' '))
  t.strictSame([...new Set(owners.values())], [NOBODY])
  t.equal(statSync(join(folder, 'state')).mode & 0o777, 0o700)
  t.equal(statSync(join(folder, 'state/control.sock')).mode & 0o077, 0, 'only its user opens it')
  fleet.program.child.kill('SIGTERM')
  t.match(await fleet.program.ended, { code: 0, stderr: '' })
  t.notOk(readdirSync(folder).includes('edge.sock'), 'nothing is left behind')
})

t.test(
  'a state folder that was root’s becomes the user’s, and no link in it is followed',
  { skip },
  async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const folder = openFolder(t, {
      secret: 'of root',
      'headrace.yaml': chatConfig(origin.address, 'workers: 1\n'),
    })
    // What a program without a user has left, and commands of root.
    for (const value of ['off', 'on']) {
      t.match(await commandIn({ folder }, t, 'websockets', value, 'chat'), { code: 0 })
    }
    const state = join(folder, 'state')
    mkdirSync(join(state, 'usage/2026-11'), { recursive: true })
    writeFileSync(join(state, 'usage/2026-11/note'), '')
    symlinkSync(join(folder, 'secret'), join(state, 'link'))
    symlinkSync(folder, join(state, 'usage/folder'))
    linkSync(join(folder, 'secret'), join(state, 'twin'))
    const fleet = await startFleet(
      t,
      chatConfig(origin.address, 'workers: 1\nuser: 65534\ngroup: daemon\n'),
      { folder },
    )
    t.ok(await echoes(await fleet.open(), 'alive'))
    t.match(statSync(join(state, 'usage/2026-11/note')), { uid: NOBODY, gid: 1 })
    t.match(statSync(join(state, 'websockets.json')), { uid: NOBODY })
    for (const safe of ['.', 'secret', 'headrace.yaml']) t.equal(statSync(join(folder, safe)).uid, 0, safe)
    t.match(idsOf(fleet.program.child.pid), { gid: [0, 1, 0, 1] })
  },
)

/** Starts what follows so that everybody may connect to its Unix sockets. */
const FOR_ALL = ['sh', '-c', 'umask 0; exec "$@"', 'sh']

/** What connecting to a Unix socket as the user 1, which is not the program's, comes to: '' or the error's code. */
function asDaemon(path: string): string {
  const code = `require('node:net').connect(process.argv[1]).on('error', (error) => process.exit(void console.log(error.code))).on('connect', () => process.exit())`
  const words = ['--reuid=1', '--regid=1', '--clear-groups', process.execPath, '-e', code, path]
  const { stdout } = spawnSync('setpriv', words, { encoding: 'utf8', env: { PATH: process.env.PATH } })
  return stdout.trim()
}

/** What a program that was killed leaves behind. */
function leaveStale(path: string): void {
  const code = `require('node:net').createServer().listen(process.argv[1], () => process.kill(process.pid, 'SIGKILL'))`
  spawnSync(process.execPath, ['-e', code, path], { env: { PATH: process.env.PATH } })
  chownSync(path, NOBODY, NOBODY)
}

t.test(
  'a Unix socket that comes by a reload or an upgrade is like one of the start, and nothing of it is left',
  { skip },
  async (t) => {
    const origin = await startPlayer(t)
    const folder = openFolder(t)
    // One of the system's, and one of the user's own.
    for (const name of ['run', 'own']) mkdirSync(join(folder, name))
    chownSync(join(folder, 'own'), NOBODY, NOBODY)
    leaveStale(join(folder, 'run/late.sock'))
    const names = ['run/first', 'run/late', 'own/late', 'run/last', 'own/last']
    const [first = '', ...later] = names.map((name) => `unix:${folder}/${name}.sock`)
    const more = 'workers: 2\nuser: nobody\n'
    const fleet = await startReleases(t, chatConfig(origin.address, more, ['127.0.0.1:0', first]), {
      folder,
      how: { launcher: FOR_ALL },
    })
    const wanted = { uid: NOBODY, gid: NOBODY, mode: statSync(join(folder, 'run/first.sock')).mode }
    t.equal(wanted.mode & 0o777, 0o777)
    const isLikeTheFirst = async (address = '') => {
      const path = address.slice('unix:'.length)
      t.match(statSync(path), wanted, path)
      t.equal(asDaemon(path), '')
      t.ok(await echoes(await openTunnel(t, address), 'through a socket'))
    }
    const add = (addresses: readonly string[]) =>
      edit(
        fleet,
        ' }]\nservices',
        `${addresses.map((one) => ` }, { address: "${one}"`).join('')} }]\nservices`,
      )
    add(later.slice(0, 2))
    t.match(await bySignal(t, fleet), { isDone: true, said: /late\.sock/ })
    for (const address of later.slice(0, 2)) await isLikeTheFirst(address)
    for (const { pid } of await workersOf(fleet)) process.kill(pid, 'SIGKILL')
    await fleet.says('a process was replaced', 2)
    for (const address of later.slice(0, 2)) await isLikeTheFirst(address)

    add(later.slice(2))
    await fleet.upgrade()
    for (const address of later) await isLikeTheFirst(address)
    // Two signals of one kind at once may be one.
    process.kill(fleet.pid, 'SIGTERM')
    process.kill(fleet.pid, 'SIGINT')
    await gone(fleet.pid)
    const left = ['run', 'own'].flatMap((name) => readdirSync(join(folder, name)))
    t.strictSame(left, [], 'nothing is left behind')
  },
)

t.test(
  'a program of root is upgraded: tunnels move, and whatever faces the network is nobody still',
  { skip },
  async (t) => {
    const origin = await startPlayer(t)
    const folder = openFolder(t)
    const more = 'workers: 2\nuser: nobody\n'
    const address = `127.0.0.1:${await privilegedPort()}`
    const fleet = await startReleases(t, chatConfig(origin.address, more, [address]), { folder })
    const all = await talkers(t, fleet, 20)
    for (let round = 1; round <= 2; round += 1) {
      t.match(await fleet.upgrade(), { moved: all.length, stayed: 0 })
      await live(t, all)
      const children = childrenOf({ child: { pid: fleet.pid } as never })
      t.equal(children.length, 3)
      for (const pid of children) t.strictSame(idsOf(pid), ALL_NOBODY)
      t.match(idsOf(fleet.pid), { uid: [0, NOBODY, 0, NOBODY], gid: [0, NOBODY, 0, NOBODY], groups: [] })
    }
    t.equal(await fleet.firstEnded, 0)
    // It still may what only root may.
    const another = `127.0.0.1:${await privilegedPort()}`
    edit(fleet, ' }]\nservices', ` }, { address: "${another}" }]\nservices`)
    process.kill(fleet.pid, 'SIGHUP')
    t.match(await fleet.says('reloaded'), [{ listeners: { added: [another] } }])
    t.ok(await echoes(await openTunnel(t, another), 'through another port of root'))
    await live(t, all)
    t.strictSame([...new Set(ownersIn(join(folder, 'state')).values())], [NOBODY])
  },
)

t.test('commands that write do it as the user, and tokens are found by the program', { skip }, async (t) => {
  const folder = openFolder(t)
  const more = `workers: 1\nuser: nobody\nadmin: { address: "127.0.0.1:0", tokens: state/tokens.json }\n`
  const fleet = await startFleet(t, chatConfig('127.0.0.1:1', more), { folder })
  const created = await commandIn(fleet, t, 'token', 'create', '--name', 'ada', '--role', 'user')
  t.match(created, { code: 0, stdout: /^headrace_/ })
  t.match(statSync(join(folder, 'state/tokens.json')), { uid: NOBODY })
  const [{ address } = { address: '' }] = await fleet.says('admin API listens')
  const headers = { Authorization: `Bearer ${created.stdout.trim()}` }
  t.equal((await fetch(`http://${address}/tunnels`, { headers })).status, 200)
})

t.test(
  'what can not be: nobody who becomes somebody else, users and groups that are not there',
  { skip },
  async (t) => {
    const folder = openFolder(t)
    const startAs = async (more: string, ...launcher: string[]) => {
      writeFileSync(join(folder, 'headrace.yaml'), chatConfig('127.0.0.1:1', `workers: 1\n${more}`))
      const [command = process.execPath, ...words] = [
        ...launcher,
        process.execPath,
        PROGRAM,
        'run',
        '-c',
        'headrace.yaml',
      ]
      const env = { PATH: process.env.PATH ?? '' }
      const { status, stderr, stdout } = spawnSync(command, words, { cwd: folder, env, encoding: 'utf8' })
      return { status, stderr, stdout }
    }
    const asDaemon = ['setpriv', '--reuid=1', '--regid=1', '--clear-groups']
    t.match(await startAs('user: nobody\n', ...asDaemon), {
      status: 3,
      stdout: '',
      stderr:
        /cannot run as the user that the config names: only root can become nobody, and this is user 1\nhint: start it as root/,
    })
    t.match(await startAs('user: nosuchuser\n'), { status: 3, stderr: /there is no user nosuchuser/ })
    t.match(await startAs('user: nobody\ngroup: nosuchgroup\n'), {
      status: 3,
      stderr: /there is no group nosuchgroup/,
    })
    t.match(await startAs('user: 4242\n'), {
      status: 3,
      stderr: /no entry that says its group: name a group/,
    })
    // The state is where the user can't go.
    chmodSync(folder, 0o700)
    t.match(await startAs('user: nobody\n'), {
      status: 3,
      stderr: /the state directory cannot be used: .*EACCES/,
    })
  },
)

t.test('a user who starts it as itself needs no root', { skip }, async (t) => {
  const folder = openFolder(t, { 'headrace.yaml': chatConfig('127.0.0.1:1', 'workers: 1\nuser: daemon\n') })
  mkdirSync(join(folder, 'state'), { mode: 0o777 })
  chmodSync(join(folder, 'state'), 0o777)
  const words = [
    '--reuid=1',
    '--regid=1',
    '--clear-groups',
    process.execPath,
    PROGRAM,
    'check',
    '-c',
    'headrace.yaml',
  ]
  const { status, stdout } = spawnSync('setpriv', words, { cwd: folder, encoding: 'utf8' })
  t.match({ status, stdout }, { status: 0, stdout: /: ok/ })
})

/** The lines of calls that make or change a file, or open one for writing. */
function writesIn(trace: string): string[] {
  return trace
    .split('\n')
    .filter((line) => !/ (readlink|readlinkat)\(/.test(line))
    .filter((line) => !/ open(at|at2)?\(/.test(line) || /O_WRONLY|O_RDWR|O_CREAT|O_TRUNC/.test(line))
    .filter((line) => /^[0-9]+ +[a-z0-9]+\(/.test(line))
}

const withoutStrace = skip || skipWithout('strace')

t.test(
  'the program writes to no file that is not in its state folder',
  { skip: withoutStrace },
  async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const folder = openFolder(t)
    const trace = join(folder, 'trace')
    const more = `workers: 2\ndrainTimeout: 1s\nuser: nobody\nadmin: { address: "127.0.0.1:0", tokens: state/tokens.json }\n`
    writeFileSync(join(folder, 'headrace.yaml'), chatConfig(origin.address, more))
    const calls =
      'trace=/^(open|creat|mkdir|mknod|rename|link|symlink|unlink|rmdir|truncate|[fl]?chown|f?chmod)'
    const launcher = ['strace', '-f', '-qq', '-y', '-e', calls, '-o', trace]
    const fleet = await startFleet(t, chatConfig(origin.address, more), { folder, how: { launcher } })
    t.ok(await echoes(await fleet.open(), 'traced'))
    t.match(await commandIn(fleet, t, 'websockets', 'off', 'chat'), { code: 0 })
    t.match(await commandIn(fleet, t, 'drain', '--wait'), { code: 0 })
    await fleet.program.ended
    const written = writesIn(readFileSync(trace, 'utf8'))
    t.ok(written.length > 10, `${written.length} calls`)
    const state = join(folder, 'state')
    // The control process is in the state folder, since a socket's name is short (unix(7)).
    const isOwn = (line: string) =>
      line.includes(`"${state}`) || line.includes(`<${state}`) || line.includes('"control.sock"')
    t.strictSame(
      written.filter((line) => !isOwn(line)),
      [],
    )
  },
)
