// The program under test: `headrace run` with a config file, all of its processes wherever they come from, its commands, and
// what it says.

import type { ChildProcess } from 'node:child_process'
import { execFile, spawn } from 'node:child_process'
import { createWriteStream, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { Answer, Asking } from '../../test/support/control.ts'
import { ask } from '../../test/support/control.ts'
import { readIfThere } from '../accounting/kernel-threads.ts'
import { PROGRAM } from '../places.ts'

export type Role = 'primary' | 'worker' | 'control'

export interface Said {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

export interface Program {
  readonly log: string
  /** All that its processes have written to standard error. */
  readonly stderr: string
  /** The log lines so far. */
  readonly lines: readonly string[]
  /** Its living processes, those of releases before included. */
  pids(role?: Role): number[]
  /** Writes the config file. */
  configure(config: unknown): void
  command(...words: string[]): Promise<Said>
  /** Through the control socket. */
  control(path: string, asking?: Asking): Promise<Answer>
  /** What the first process of all ended with; null while it runs. */
  exit(): number | string | null
}

/** So that a process is found that belongs to nobody any more. */
const MARK = 'HEADRACE_SOAK'
const SCRIPT = fileURLToPath(PROGRAM)
const CONFIG = 'headrace.yaml'
const MODULES: Readonly<Record<Role, string>> = {
  primary: 'cli/headrace.js',
  worker: 'worker.js',
  control: 'control.js',
}

/** Resolves when it listens. `folder` has the config and is where everything is kept. */
export async function startProgram(folder: string, config: unknown): Promise<Program> {
  const mark = `${MARK}=${process.pid}.${Date.now()}`
  const log = join(folder, 'headrace.log')
  const configure = (next: unknown) => {
    // YAML has JSON in it; a text is written as it is.
    writeFileSync(join(folder, CONFIG), typeof next === 'string' ? next : JSON.stringify(next, null, 2))
  }
  configure(config)
  const [name = '', value = ''] = mark.split('=')
  const child = spawn(process.execPath, [SCRIPT, 'run', '--config', CONFIG], {
    cwd: folder,
    env: { PATH: process.env.PATH ?? '', [name]: value },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const lines: string[] = []
  let stderr = ''
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk.toString()
  })
  await listening(child, log, lines)
  return {
    log,
    lines,
    configure,
    get stderr() {
      return stderr
    },
    pids: (role) =>
      marked(mark).filter((pid) => role === undefined || commandOf(pid).includes(MODULES[role])),
    command: (...words) => run(folder, [...words, '--config', CONFIG]),
    control: (path, asking) => ask(`unix:${folder}/state/control.sock`, path, asking),
    exit: () => child.exitCode ?? child.signalCode,
  }
}

async function listening(child: ChildProcess, log: string, lines: string[]): Promise<void> {
  const file = createWriteStream(log)
  if (child.stdout === null) throw new TypeError('its output is not read')
  const source = createInterface({ input: child.stdout })
  await new Promise<void>((resolve, reject) => {
    source.on('line', (line) => {
      lines.push(line)
      file.write(`${line}\n`)
      if (line.startsWith('headrace listens on ')) resolve()
    })
    source.on('close', () => {
      file.end()
      reject(new Error(`headrace has ended before it listened, see ${log}`))
    })
  })
}

/** A command of the program, from its folder; it bears no mark. */
function run(folder: string, words: readonly string[]): Promise<Said> {
  return new Promise((resolve) => {
    execFile(
      process.execPath,
      [SCRIPT, ...words],
      { cwd: folder, timeout: 60_000 },
      (error, stdout, stderr) => {
        const code = error === null ? 0 : typeof error.code === 'number' ? error.code : -1
        resolve({ code, stdout, stderr })
      },
    )
  })
}

function marked(mark: string): number[] {
  return readdirSync('/proc').flatMap((name) => {
    if (!/^[0-9]+$/.test(name)) return []
    const isOurs = readIfThere(`/proc/${name}/environ`).split('\0').includes(mark)
    // A zombie has no environment.
    return isOurs ? [Number(name)] : []
  })
}

function commandOf(pid: number): string {
  return readIfThere(`/proc/${pid}/cmdline`).replaceAll('\0', ' ')
}

/** Numbers of descriptors; none if it has gone. */
export function descriptorsOf(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/fd`)
  } catch {
    return []
  }
}

/** The remote ports of the process's TCP connections: whose clients, and whose origins, it serves. */
export function remotePortsOf(pid: number): Set<number> {
  const inodes = new Set(targetsOf(pid))
  const rows = readFileSync('/proc/net/tcp', 'latin1').split('\n').slice(1)
  const ports = new Set<number>()
  for (const row of rows) {
    const [, , remote = '', , , , , , , inode] = row.trim().split(/\s+/)
    if (inodes.has(`socket:[${inode}]`)) ports.add(Number.parseInt(remote.split(':')[1] ?? '', 16))
  }
  return ports
}

/** What its descriptors are: `socket:[4711]`, `pipe:[4712]`, `/a/file`, … */
export function targetsOf(pid: number): string[] {
  return descriptorsOf(pid).map((fd) => targetOf(pid, fd))
}

function targetOf(pid: number, fd: string): string {
  try {
    return readlinkSync(`/proc/${pid}/fd/${fd}`)
  } catch {
    return ''
  }
}
