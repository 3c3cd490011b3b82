// What the program asks of the system in its life, seen with strace(1): nothing that deploy/systemd and docs/hardening.md do
// not allow; and its primary, which may be root, takes nothing from the network.

import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import t from 'tap'
import { selfSigned } from './support/certificates.ts'
import { ask, chatConfig, echoes, gone, newFolder, openTunnel, workersOf } from './support/control.ts'
import { childrenOf, startProgram } from './support/program.ts'
import type { Releases } from './support/releases.ts'
import { speaker, startPlayer, startReleases } from './support/releases.ts'
import { byRequest, edit } from './support/reloading.ts'
import { skipWithout } from './support/tools.ts'

const BULK = 4 * 1024 * 1024

/** Node asks for it, is told EPERM, and does without: docs/hardening.md. */
const REFUSED = ['pkey_alloc']

interface Call {
  readonly thread: string
  readonly name: string
  readonly text: string
}

/** Of a file that `strace -f -yy -o` has written. */
function callsIn(trace: string): Call[] {
  return [...trace.matchAll(/^([0-9]+) +(?:<\.\.\. )?([a-z0-9_]+)(?:\(| resumed).*$/gm)].map(
    ([text, thread = '', name = '']) => ({ thread, name, text }),
  )
}

/** The system calls of a group as systemd knows it, of the groups in it, too. */
function groupOf(name: string): string[] {
  const { stdout } = spawnSync('systemd-analyze', ['syscall-filter', name], { encoding: 'utf8' })
  const words = [...stdout.matchAll(/^ {4}([@a-z0-9_-]+)$/gm)].map(([, word = '']) => word)
  return words.flatMap((word) => (word.startsWith('@') ? groupOf(word) : [word]))
}

/** What the unit lets through. */
function allowedBy(unit: string): Set<string> {
  const allowed = new Set<string>()
  for (const [, not, group = ''] of unit.matchAll(/^SystemCallFilter=(~?)(@[a-z-]+)$/gm)) {
    for (const call of groupOf(group)) {
      if (not === '~') allowed.delete(call)
      else allowed.add(call)
    }
  }
  return allowed
}

/** All that it does in its life, once: clients of all kinds, operators, deaths, a reload, an upgrade, the end. */
async function live(t: Test, fleet: Releases): Promise<void> {
  const [plain = '', tls = '', unix = ''] = fleet.addresses
  for (const [address, isTls] of [
    [plain, false],
    [tls, true],
  ] as const) {
    const bulk = await speaker(t, address, { isTls })
    void bulk.flood()
    while (bulk.checker.size < BULK) await new Promise((resolve) => setTimeout(resolve, 20))
    bulk.stop()
  }
  t.ok(await echoes(await openTunnel(t, unix), 'through a socket'))
  const [{ address: admin } = {}] = await fleet.says('admin API listens')
  for (const path of ['/metrics', '/tunnels', '/usage', '/'])
    t.equal((await ask(`${admin}`, path)).status, 200)
  const { folder } = fleet
  for (const words of [
    ['websockets', 'off', 'chat'],
    ['websockets', 'on', 'chat'],
    ['drain', '--worker', 'worker-1', '--timeout', '100ms', '--wait'],
  ]) {
    const { code } = await startProgram(t, [...words, '--config', 'headrace.yaml'], { cwd: folder }).ended
    t.equal(code, 0, words.join(' '))
  }
  const [{ pid } = { pid: 0 }] = await workersOf(fleet)
  process.kill(pid, 'SIGKILL')
  await fleet.says('a process was replaced', 2)
  edit(fleet, ' }]\nservices', ` }, { address: "127.0.0.2:0" }]\nservices`)
  t.match(await byRequest(t, fleet), { isDone: true })
  const moves = await openTunnel(t, plain)
  t.match(await fleet.upgrade(), { workers: 2 })
  t.ok(await echoes(moves, 'moved'))
}

const isRoot = process.geteuid?.() === 0
const skip = isRoot
  ? skipWithout('strace') || skipWithout('systemd-analyze')
  : 'only root can trace what root starts'

t.test('it asks for nothing that its unit does not let through', { skip, timeout: 220_000 }, async (t) => {
  const origin = await startPlayer(t)
  const { certificate, key } = await selfSigned({ names: ['chat.test'] })
  const folder = newFolder(t, { 'cert.pem': certificate, 'key.pem': key })
  const trace = join(folder, 'trace')
  const more = 'workers: 2\ndrainTimeout: 1s\nadmin: { address: "127.0.0.1:0" }\n'
  const config = chatConfig(origin.address.replace('127.0.0.1', 'localhost'), more).replace(
    ' }]\nservices',
    ` }, { address: "127.0.0.1:0", tls: { certificate: cert.pem, key: key.pem } }, { address: "unix:${folder}/edge.sock" }]\nservices`,
  )
  const fleet = await startReleases(t, config, {
    folder,
    how: { launcher: ['strace', '-f', '-qq', '-yy', '-o', trace] },
  })
  const [primary = 0] = childrenOf(fleet.program)
  await live(t, fleet)
  const threads = [primary, fleet.pid].flatMap((pid) => threadsOf(pid))
  process.kill(fleet.pid, 'SIGTERM')
  await gone(fleet.pid)
  await fleet.program.ended

  const calls = callsIn(readFileSync(trace, 'utf8'))
  const names = [...new Set(calls.map(({ name }) => name))].sort()
  t.ok(names.length > 50 && names.includes('splice') && names.includes('sendmsg'), names.join(' '))
  const unit = readFileSync('deploy/systemd/headrace.service', 'utf8')
  const allowed = allowedBy(unit)
  t.strictSame(
    names.filter((name) => !allowed.has(name) && !REFUSED.includes(name)),
    [],
  )
  const [, families = ''] = /^RestrictAddressFamilies=(.*)$/m.exec(unit) ?? []
  const opened = new Set(calls.flatMap(({ text }) => /\bsocket\((AF_[A-Z0-9]+)/.exec(text)?.[1] ?? []))
  t.strictSame(
    [...opened].filter((family) => !families.split(' ').includes(family)),
    [],
  )
  const listed = readFileSync('docs/hardening.md', 'utf8')
  const isListed = (name: string) => new RegExp(`\\b${name}\\b`).test(listed)
  if (process.arch === 'x64' && process.version.startsWith('v20.')) {
    t.strictSame(
      names.filter((name) => !isListed(name)),
      [],
    )
  }

  const own = calls.filter(({ thread }) => threads.includes(thread))
  t.ok(own.length > 1_000, `${own.length} calls of the primaries`)
  const taken = own.filter(
    ({ name, text }) => /^(accept|recv|read)/.test(name) && /<(TCP|UDP)/.test(text.split(' = ')[0] ?? ''),
  )
  t.strictSame(
    taken.map(({ text }) => text),
    [],
    'the primary takes nothing from the network',
  )
})

function threadsOf(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/task`)
  } catch {
    return []
  }
}
