// Programs that take over from one another, and an origin that does what the path of a request says.

import { once } from 'node:events'
import { copyFileSync, cpSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import type { Socket } from 'node:net'
import { connect } from 'node:net'
import { join, resolve } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import type { Test } from 'tap'
import type { Upgraded } from '../../src/operations.ts'
import type { Fleet, FleetOptions } from './control.ts'
import { newFolder, startFleet } from './control.ts'
import type { Origin } from './origin.ts'
import { startOrigin, switching, upgradeRequest } from './origin.ts'
import type { Peer } from './peer.ts'
import { placeOf } from './peer.ts'
import { childrenOf } from './program.ts'
import { Speaker } from './stream.ts'

export interface Releases extends Fleet {
  /** Rejects with what the program says is wrong. */
  upgrade(): Promise<Upgraded>
  /** Of the one that is in charge. */
  readonly pid: number
  /** Resolves with the exit code of the first one. */
  readonly firstEnded: Promise<number | null>
}

export async function startReleases(t: Test, config: string, options: FleetOptions = {}): Promise<Releases> {
  const fleet = await startFleet(t, config, options)
  const { child } = fleet.program
  const pids = [child.pid ?? 0]
  const firstEnded = once(child, 'exit').then(([code]) => code as number | null)
  t.teardown(() => {
    for (const pid of pids) killTree(pid)
  })
  const own = {
    // Whoever takes over speaks where the first one did, also when that one has gone.
    async says(message: string, count = 1) {
      while (fleet.said(message).length < count) await new Promise((resolve) => setTimeout(resolve, 5))
      return fleet.said(message)
    },
    async upgrade() {
      const { status, json, text } = await fleet.control('/upgrade', { method: 'POST' })
      if (status !== 200) throw new Error(text)
      const upgraded = json as Upgraded
      pids.push(upgraded.pid)
      return upgraded
    },
    get pid() {
      return pids.at(-1) ?? 0
    },
    firstEnded,
  }
  // What changes is asked for each time: Object.assign would ask once.
  return Object.create(fleet, Object.getOwnPropertyDescriptors(own)) as Releases
}

/** A program with all that it has started, as far as it goes. */
export function killTree(pid: number): void {
  try {
    process.kill(pid, 'SIGSTOP')
    for (const one of childrenOf({ child: { pid } as never })) killTree(one)
    process.kill(pid, 'SIGKILL')
  } catch {
    // It has gone.
  }
}

export interface Player extends Origin {
  /** Those that were asked for `/half…`, `/stall…`: nobody answers there. */
  readonly halves: Peer[]
  readonly stalled: Peer[]
}

/** Sends back what it gets; `/half` waits to be played, `/stall` does not even read. */
export async function startPlayer(t: Test): Promise<Player> {
  const halves: Peer[] = []
  const stalled: Peer[] = []
  const play = async (peer: Peer) => {
    const head = await peer.until('\r\n\r\n').catch(() => '')
    if (head === '') return
    peer.socket.removeAllListeners('data')
    if (head.startsWith('GET /half')) halves.push(peer)
    else if (head.startsWith('GET /stall')) {
      peer.socket.pause()
      stalled.push(peer)
    } else peer.socket.pipe(peer.socket)
    peer.write(switching(head))
  }
  const origin = await startOrigin(t, { answer: (peer) => void play(peer) })
  return Object.assign(Object.create(origin) as Origin, { halves, stalled })
}

/** A client behind its 101. */
export async function speaker(
  t: Test,
  address: string,
  { path = '/chat', isTls = false }: { readonly path?: string; readonly isTls?: boolean } = {},
): Promise<Speaker> {
  const plain = connect({
    ...(placeOf(address) as { host: string; port: number }),
    noDelay: true,
    allowHalfOpen: true,
  })
  const socket: Socket = isTls ? connectTls({ socket: plain, rejectUnauthorized: false }) : plain
  t.teardown(() => plain.destroy())
  socket.write(upgradeRequest({}, path))
  let head = Buffer.alloc(0)
  while (!head.includes('\r\n\r\n')) {
    const [chunk] = (await once(socket, 'data')) as [Buffer]
    head = Buffer.concat([head, chunk])
  }
  if (!head.toString('latin1').startsWith('HTTP/1.1 101')) throw new Error(head.toString('latin1'))
  return new Speaker(socket)
}

/** A copy of the program in a folder of its own, which a test may change. */
export function copyOfRelease(t: Test): { readonly folder: string; readonly script: string } {
  const folder = newFolder(t)
  cpSync(resolve('dist'), join(folder, 'dist'), { recursive: true })
  copyFileSync(resolve('package.json'), join(folder, 'package.json'))
  symlinkSync(resolve('node_modules'), join(folder, 'node_modules'))
  return { folder, script: join(folder, 'dist/cli/headrace.js') }
}

export interface Waiting {
  goOn(): void
  /** The next release does not wait. */
  mend(): void
}

/** From now on the primary of a new release says `it waits`, and does so, where this function of the copy begins. */
export function waitIn(folder: string, file: string, begin: string): Waiting {
  const path = join(folder, 'dist', file)
  const whole = readFileSync(path, 'utf8')
  if (!whole.includes(begin)) throw new Error(`${file} has no ${begin}`)
  const word = join(folder, 'go-on')
  const waiting = `
    console.log(JSON.stringify({ msg: 'it waits' }))
    const { existsSync } = process.getBuiltinModule('node:fs')
    while (!existsSync(${JSON.stringify(word)})) await new Promise((resolve) => setTimeout(resolve, 5))`
  writeFileSync(path, whole.replace(begin, `${begin} {${waiting} }`))
  return { goOn: () => writeFileSync(word, ''), mend: () => writeFileSync(path, whole) }
}

/** Clients that talk all the time. */
export async function talkers(t: Test, fleet: Releases, count: number): Promise<readonly Speaker[]> {
  const all = await Promise.all(Array.from({ length: count }, () => speaker(t, fleet.address)))
  for (const one of all) void one.talk(20)
  return all
}

/** All of them still talk, and nothing was lost. */
export async function live(t: Test, all: readonly Speaker[]): Promise<void> {
  const before = all.map(({ checker }) => checker.size)
  while (all.some(({ checker, end }, at) => end === null && checker.size === before[at])) await pause(10)
  t.strictSame(
    all.filter(({ end, checker }) => end !== null || checker.wrongAt !== -1),
    [],
  )
}
