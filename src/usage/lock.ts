// One process for each writer. Whoever wants a name publishes a lock file of its own and then looks for others: of two the
// later one sees the earlier one, and gives up, so that never both go on. The name of the file says who it is:
//
//   main.PID-START-PLACE.lock     START tells a process from a later one with its number; PLACE is the kernel's boot and
//                                 the process namespace in which the number means something
//
// What a dead process has left is removed. Of a process elsewhere (another container, another machine over a network)
// nothing is known but the time of its file, which a living one renews.

import { createHash } from 'node:crypto'
import { utimes } from 'node:fs'
import { open, readFile, readlink, rm, stat } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { HeadraceError } from '../errors.ts'
import { codeOf, namesIn } from './folder.ts'

/** How old the lock file of a process elsewhere must be for it to count as dead, in ms. */
export const LEASE_MS = 10_000

export interface Lock {
  /** Renews the time of the file; once a second is enough. */
  beat(): void
  release(): Promise<void>
}

/** Throws state-locked if another has it, or the error of the system. */
export async function hold(folder: string, name: string): Promise<Lock> {
  const own = `${name}.${await stamp()}.lock`
  const path = join(folder, own)
  try {
    await (await open(path, 'wx')).close()
  } catch (error) {
    if (codeOf(error) === 'EEXIST') throw locked(folder, name, 'this process itself')
    throw error
  }
  try {
    for (const other of await locksOf(folder, name)) {
      if (other === own) continue
      if (await isAlive(folder, other)) throw locked(folder, name, `process ${stampOf(other).pid}`)
      await rm(join(folder, other), { force: true })
    }
  } catch (error) {
    await rm(path, { force: true })
    throw error
  }
  return {
    beat() {
      const now = new Date()
      utimes(path, now, now, () => {})
    },
    release: () => rm(path, { force: true }),
  }
}

export async function isHeld(folder: string, name: string): Promise<boolean> {
  for (const lock of await locksOf(folder, name)) if (await isAlive(folder, lock)) return true
  return false
}

function locked(folder: string, name: string, holder: string): HeadraceError {
  return new HeadraceError('state-locked', `${folder}: the writer ${name} is ${holder}`)
}

async function locksOf(folder: string, name: string): Promise<string[]> {
  return (await namesIn(folder)).filter((file) => file.startsWith(`${name}.`) && file.endsWith('.lock'))
}

interface Stamp {
  readonly pid: number
  readonly start: string
  readonly place: string
}

function stampOf(lock: string): Stamp {
  const [, pid, start = '', place = ''] = /\.([0-9]+)-([0-9]+)-([0-9a-f]+)\.lock$/.exec(lock) ?? []
  return { pid: Number(pid), start, place }
}

async function stamp(): Promise<string> {
  const start = (await startOf(process.pid)) ?? Math.floor(performance.timeOrigin)
  return `${process.pid}-${start}-${await place()}`
}

/** When a process started, in the kernel's ticks (proc_pid_stat(5), field 22); null if it isn't there, or has ended. */
async function startOf(pid: number): Promise<string | null> {
  const text = await readFile(`/proc/${pid}/stat`, 'latin1').catch(() => '')
  const [state, ...fields] = text.slice(text.lastIndexOf(')') + 2).split(' ')
  return text === '' || state === 'Z' || state === 'X' ? null : (fields[18] ?? null)
}

async function place(): Promise<string> {
  const boot = await readFile('/proc/sys/kernel/random/boot_id', 'latin1').catch(() => hostname())
  const namespace = await readlink('/proc/self/ns/pid').catch(() => '')
  return createHash('sha256').update(`${boot} ${namespace}`).digest('hex').slice(0, 8)
}

async function isAlive(folder: string, lock: string): Promise<boolean> {
  const { pid, start, place: where } = stampOf(lock)
  if (where !== (await place())) return await isFresh(join(folder, lock))
  if (process.platform === 'linux') return (await startOf(pid)) === start
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return codeOf(error) === 'EPERM'
  }
}

async function isFresh(path: string): Promise<boolean> {
  try {
    return Date.now() - (await stat(path)).mtimeMs < LEASE_MS
  } catch {
    return false
  }
}
