// What goes wrong in the middle of a worker: its relay thread fails, or the system refuses to watch more descriptors. The
// tunnels that it meets end, all others go on, and so does the process.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import type { Test } from 'tap'
import t from 'tap'
import { libc } from '../src/linux/libc.ts'
import { selfSigned } from './support/certificates.ts'
import type { Fleet } from './support/control.ts'
import { ask, chatConfig, newFolder, workersOf } from './support/control.ts'
import { upgradeRequest } from './support/origin.ts'
import { connectTo } from './support/peer.ts'
import { PROGRAM } from './support/program.ts'
import { copyOfRelease, live, speaker, startPlayer, startReleases, talkers } from './support/releases.ts'
import { skipWithout } from './support/tools.ts'

function reasonToSkip(): string | false {
  try {
    libc()
    return false
  } catch (error) {
    return `there is no relay thread here: ${(error as Error).message}`
  }
}

const skip = process.env.CI === undefined ? reasonToSkip() : false

/**
 * A handler that can be asked for `/break`: then the relay thread of its own process has a mistake in it, as a debugger would
 * make one, at the next statement that it runs. Nothing else of it is different.
 */
const BREAKING = `import { Session } from 'node:inspector'

function breakRelay() {
  const session = new Session()
  session.connect()
  return new Promise((resolve) => {
    let id = 0
    let thread = ''
    const tell = (method, params = {}) => {
      id += 1
      session.post('NodeWorker.sendMessageToWorker', { sessionId: thread, message: JSON.stringify({ id, method, params }) })
    }
    session.on('NodeWorker.attachedToWorker', ({ params }) => {
      thread = params.sessionId
      tell('Debugger.enable')
      tell('Debugger.pause')
      resolve()
    })
    session.on('NodeWorker.receivedMessageFromWorker', ({ params }) => {
      const { method, params: event } = JSON.parse(params.message)
      if (method !== 'Debugger.paused') return
      const { callFrameId } = event.callFrames.find(({ functionName }) => functionName === 'turn')
      tell('Debugger.evaluateOnCallFrame', { callFrameId, expression: 'queue = null' })
      tell('Debugger.disable')
    })
    session.post('NodeWorker.enable', { waitForDebuggerOnStart: false })
  })
}

export default async (request) => {
  if (request.isUpgrade) return { kind: 'handoff', backend: 'origin' }
  await breakRelay()
  return { kind: 'respond', status: 200, headers: [], body: 'broken' }
}
`

/** Resolves with the name of the error that ends the connection, or ''. */
function endOf(socket: Socket): Promise<string> {
  let code = ''
  socket.on('error', (error: NodeJS.ErrnoException) => {
    code = error.code ?? error.message
  })
  return new Promise((resolve) => socket.once('close', () => resolve(code)))
}

/** Open descriptors of the process. */
const descriptorsOf = (pid: number) => readdirSync(`/proc/${pid}/fd`).length

t.test(
  'a relay thread that fails: its tunnels are reset, new ones go by stream, the process lives and can be replaced',
  { skip },
  async (t) => {
    const origin = await startPlayer(t)
    const { certificate, key } = await selfSigned({ names: ['chat.test'] })
    const folder = newFolder(t, { 'edge.mjs': BREAKING, 'cert.pem': certificate, 'key.pem': key })
    const config = chatConfig(origin.address, 'workers: 1\n')
      .replace('backends:', 'handler: ./edge.mjs\n    backends:')
      .replace(
        ' }]\nservices',
        ' }, { address: "127.0.0.1:0", tls: { certificate: cert.pem, key: key.pem } }]\nservices',
      )
    const fleet = await startReleases(t, config, { folder })
    const [, tls = ''] = fleet.addresses
    const [{ pid } = { pid: 0 }] = await workersOf(fleet)
    const before = descriptorsOf(pid)
    const secure = await speaker(t, tls, { isTls: true })
    const plain = await Promise.all(Array.from({ length: 20 }, () => speaker(t, fleet.address)))
    // What it was about to send is lost with it.
    const stalled = await speaker(t, fleet.address, { path: '/stall' })
    stalled.socket.write(Buffer.alloc(32 * 1024 * 1024))
    const ends = [...plain, stalled].map(({ socket }) => endOf(socket))
    t.match(await ask(fleet.address, '/break'), { status: 200, text: 'broken' })
    // It is asleep until something comes.
    plain[0]?.socket.write('wakes it')

    t.strictSame([...new Set(await Promise.all(ends))], ['ECONNRESET'])
    const lines = await fleet.says('tunnel closed', ends.length)
    t.strictSame(
      [...new Set(lines.map(({ end, engine }) => `${end} ${engine}`))],
      ['edge-error-tunnel epoll'],
    )
    await secure.say(64)
    const later = await Promise.all(Array.from({ length: 5 }, () => speaker(t, fleet.address)))
    for (const one of later) await one.say(100_000)
    t.match([secure, ...later], [{ end: null, checker: { wrongAt: -1 } }])
    const engines = (await fleet.says('tunnel accepted', 27)).slice(22).map(({ engine }) => engine)
    t.strictSame([...new Set(engines)], ['stream'])
    t.match((await fleet.control('/tunnels')).json, { total: 6 })
    t.match(await workersOf(fleet), [{ pid, restarts: 0, state: 'running' }])

    // A new release has a relay of its own; what this one moves by stream stays.
    t.match(await fleet.upgrade(), { moved: 0, stayed: 6 })
    // In this moment the release before may still accept one.
    let fresh = await speaker(t, fleet.address)
    for (let count = 28; ; count += 1) {
      await fresh.say(64)
      const [accepted] = (await fleet.says('tunnel accepted', count)).slice(-1)
      if (accepted?.engine === 'epoll') break
      fresh.socket.end()
      fresh = await speaker(t, fleet.address)
    }
    for (const one of [secure, ...later]) await one.say(64)
    const [last] = later
    for (const { socket } of [secure, ...later.slice(1)]) socket.end()
    // Nothing is left but what one tunnel has.
    while (descriptorsOf(pid) > before + 2) await pause(20)
    last?.socket.end()
    t.equal(await fleet.firstEnded, 0)
    fresh.socket.end()
    process.kill(fleet.pid, 'SIGTERM')
    const { stderr } = await fleet.program.ended
    t.match(stderr, /HeadraceWarning: the relay thread has failed, its tunnels were reset: TypeError/)
  },
)

t.test(
  'a relay thread that fails while some of its tunnels stand still: these go over, and the upgrade comes to its end',
  { skip },
  async (t) => {
    const origin = await startPlayer(t)
    const { folder: release, script } = copyOfRelease(t)
    const folder = newFolder(t, { 'edge.mjs': BREAKING })
    const config = chatConfig(origin.address, 'workers: 1\n').replace(
      'backends:',
      'handler: ./edge.mjs\n    backends:',
    )
    const fleet = await startReleases(t, config, { folder, script })
    const all = await talkers(t, fleet, 60)
    // The new release takes the second batch when it may.
    const path = join(release, 'dist/process/handover-taker.js')
    const may = join(release, 'may')
    const waiting = `case 'batch': {
      const count = (globalThis.batches ?? 0) + 1
      globalThis.batches = count
      if (count === 2) {
        console.log(JSON.stringify({ msg: 'the second batch has come' }))
        const { existsSync } = process.getBuiltinModule('node:fs')
        const word = new Int32Array(new SharedArrayBuffer(4))
        while (!existsSync(${JSON.stringify(may)})) Atomics.wait(word, 0, 0, 5)
      }
    }`
    writeFileSync(path, readFileSync(path, 'utf8').replace("case 'batch':", waiting))
    const upgrading = fleet.upgrade()
    await fleet.says('the second batch has come')
    t.match(await ask(fleet.address, '/break'), { status: 200 })
    // 16 have gone, 32 stand still, 12 were still to come.
    while (all.filter(({ end }) => end !== null).length < 12) await pause(10)
    writeFileSync(may, '')
    t.match(await upgrading, { moved: 48, stayed: 0 })
    const rest = all.filter(({ end }) => end === null)
    t.equal(rest.length, 48)
    await live(t, rest)
    t.equal(await fleet.firstEnded, 0)
  },
)

const isRoot = process.geteuid?.() === 0
const withoutStrace = isRoot ? skip || skipWithout('strace') : 'only root can trace the processes of others'

/** From now on the system refuses to watch anything more for these threads, until what is returned is called. */
async function refuseWatches(t: Test, threads: readonly string[]): Promise<() => Promise<void>> {
  const inject = ['-e', 'trace=epoll_ctl', '-e', 'inject=epoll_ctl:error=ENOSPC']
  const strace = spawn('strace', [...inject, ...threads.flatMap((thread) => ['-p', thread])], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  t.teardown(() => strace.kill('SIGKILL'))
  let said = ''
  while (said.split(' attached').length <= threads.length) {
    const [chunk] = await once(strace.stderr, 'data')
    said += chunk
  }
  strace.stderr.resume()
  return async () => {
    strace.kill('SIGINT')
    await once(strace, 'exit')
  }
}

async function startOne(t: Test) {
  const origin = await startPlayer(t)
  const fleet = await startReleases(t, chatConfig(origin.address, 'workers: 1\n'))
  const all = await talkers(t, fleet, 10)
  const [{ pid } = { pid: 0 }] = await workersOf(fleet)
  // Only the relay watches anything beside the main thread.
  const others = readdirSync(`/proc/${pid}/task`).filter((thread) => thread !== String(pid))
  return { fleet, all, others }
}

/** How a tunnel ends that has just been opened. */
async function refusalOf(t: Test, { address }: Fleet): Promise<string> {
  const one = await speaker(t, address).catch((error: Error) => error.message)
  if (typeof one === 'string') return one
  while (one.end === null) await pause(5)
  return one.end
}

/** The open ones go on, and so does whoever comes. */
async function goesOn(t: Test, fleet: Fleet, all: Awaited<ReturnType<typeof talkers>>): Promise<void> {
  await live(t, all)
  const another = await speaker(t, fleet.address)
  await another.say(100_000)
  t.match(another, { end: null, checker: { size: 100_000, wrongAt: -1 } })
  t.match(await workersOf(fleet), [{ restarts: 0, state: 'running' }])
}

t.test(
  'a tunnel that the system refuses to watch in the relay is reset, and says why; no other notices',
  { skip: withoutStrace },
  async (t) => {
    const { fleet, all, others } = await startOne(t)
    const over = await refuseWatches(t, others)
    for (let count = 1; count <= 3; count += 1) {
      // libuv says EOF where a RST has come together with bytes (uv__stream_io).
      t.match(await refusalOf(t, fleet), /ECONNRESET|end/)
      const lines = await fleet.says('tunnel closed', count)
      t.match(lines.at(-1), { end: 'edge-error-tunnel', error: 'ENOSPC' })
      await live(t, all)
    }
    await over()
    await goesOn(t, fleet, all)
  },
)

/** From this number on the system refuses to watch a descriptor (FEW_WATCHES). */
const LIMIT = 300

/**
 * For node's --require: in workers, epoll_ctl(2) has ENOSPC for whoever adds one of LIMIT or higher (seccomp(2)), as if its user had
 * as many watches as it may.
 */
const FEW_WATCHES = `const { createRequire } = require('node:module')
if (/worker\\.js$/.test(process.argv[1])) {
  const koffi = createRequire(${JSON.stringify(PROGRAM)})('koffi')
  const prctl = koffi.load('libc.so.6').func('int prctl(int, unsigned long, void *, unsigned long, unsigned long)')
  const [LOAD, EQUAL, ATLEAST, RETURN] = [0x20, 0x15, 0x35, 0x06]
  const [ALLOW, ENOSPC] = [0x7fff0000, 0x50000 | 28]
  const program = [
    [LOAD, 0, 0, 0], [EQUAL, 0, 5, ${process.arch === 'x64' ? 233 : 21}],
    [LOAD, 0, 0, 24], [EQUAL, 0, 3, 1],
    [LOAD, 0, 0, 32], [ATLEAST, 0, 1, ${LIMIT}],
    [RETURN, 0, 0, ENOSPC], [RETURN, 0, 0, ALLOW],
  ]
  const filter = Buffer.alloc(program.length * 8)
  for (const [at, [code, isSo, isNot, value]] of program.entries()) {
    filter.writeUInt16LE(code, at * 8)
    filter.set([isSo, isNot], at * 8 + 2)
    filter.writeUInt32LE(value, at * 8 + 4)
  }
  const whole = Buffer.alloc(16)
  whole.writeUInt16LE(program.length)
  whole.writeBigUInt64LE(BigInt(koffi.address(filter)), 8)
  const [NO_NEW_PRIVS, SECCOMP] = [38, 22]
  if (prctl(NO_NEW_PRIVS, 1, null, 0, 0) + prctl(SECCOMP, 2, whole, 0, 0) !== 0) throw new Error('no seccomp')
}`

/** A handler that, asked for `/fill`, takes all lower numbers, and gives them back when asked for anything else. */
const FILLING = `import { closeSync, openSync } from 'node:fs'
const taken = []
export default (request) => {
  if (request.isUpgrade) return { kind: 'handoff', backend: 'origin' }
  if (request.path === '/fill') do taken.push(openSync('/dev/null')); while (taken.at(-1) < ${LIMIT})
  else for (const fd of taken.splice(0)) closeSync(fd)
  return { kind: 'respond', status: 200, headers: [], body: request.path }
}
`

t.test(
  'a client that the system refuses to watch is closed; others wait; the log says once what is too few',
  { skip },
  async (t) => {
    const origin = await startPlayer(t)
    const folder = newFolder(t, { 'edge.mjs': FILLING, 'few.cjs': FEW_WATCHES })
    const config = chatConfig(origin.address, 'workers: 1\n').replace(
      'backends:',
      'handler: ./edge.mjs\n    backends:',
    )
    const script = `--require=${folder}/few.cjs`
    const fleet = await startReleases(t, config, { folder, script, words: [PROGRAM] })
    const all = await talkers(t, fleet, 10)
    const operator = await connectTo(t, fleet.address)
    operator.write('GET /fill HTTP/1.1\r\nHost: chat.test\r\n\r\n')
    await operator.until('/fill')
    const coming = Array.from({ length: 20 }, async () => {
      const client = await connectTo(t, fleet.address)
      client.write(upgradeRequest())
      return await client.until('\r\n\r\n').then(
        () => 'open',
        () => 'closed',
      )
    })
    const [trouble] = await fleet.says('trouble')
    t.match(trouble, {
      code: 'descriptors-exhausted',
      error: /accepting on .*: ENOSPC/,
      remedy: /fs\.epoll\.max_user_watches/,
    })
    await live(t, all)
    operator.write('GET /free HTTP/1.1\r\nHost: chat.test\r\n\r\n')
    await operator.until('/free')
    const outcomes = await Promise.all(coming)
    // One is, each time that accepting is tried; the rest has waited.
    t.ok(outcomes.includes('closed') && outcomes.includes('open'), outcomes.join())
    await goesOn(t, fleet, all)
    t.strictSame(fleet.said('request refused'), [], 'and nobody else was to blame')
    t.equal(fleet.said('trouble').length, 1)
  },
)
