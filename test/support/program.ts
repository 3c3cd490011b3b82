// The compiled program as a child process: what it says line by line, and how it ends.

import type { ChildProcess } from 'node:child_process'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { createInterface } from 'node:readline'
import type { Test } from 'tap'

export const PROGRAM = resolve('dist/cli/headrace.js')

/** A module for node's --require, as if koffi were not installed. */
export const WITHOUT_KOFFI = `const modules = require('node:module')
const load = modules._load
modules._load = (name, ...more) => {
  if (name === 'koffi') throw Object.assign(new Error('not here'), { code: 'MODULE_NOT_FOUND' })
  return load(name, ...more)
}`

export interface Running {
  readonly child: ChildProcess
  /** The next line on standard output. Rejects with what stands on standard error if there is none. */
  line(): Promise<string>
  /** All lines on standard output so far. */
  readonly lines: readonly string[]
  /** Resolves when the program has ended and all that it said was read. */
  readonly ended: Promise<{ code: number | null; signal: string | null; stdout: string; stderr: string }>
}

export interface How {
  readonly script?: string
  readonly cwd?: string
  readonly environment?: Readonly<Record<string, string>>
  /** What starts it, as words before its own; the default starts it directly. */
  readonly launcher?: readonly string[]
  /** What it inherits, as descriptors 3, 4, … */
  readonly descriptors?: readonly number[]
}

/** Starts it with these words; killed with its test if it has not ended by itself. */
export function startProgram(t: Test, words: readonly string[], how: How = {}): Running {
  const { script = PROGRAM, cwd, environment = {}, launcher = [], descriptors = [] } = how
  // tap would load its own modules into every node that a test starts: users have none of that.
  const [command = '', ...rest] = [...launcher, 'env', '-u', 'NODE_OPTIONS', process.execPath, script]
  const child = spawn(command, [...rest, ...words], {
    stdio: ['ignore', 'pipe', 'pipe', ...descriptors],
    env: { PATH: process.env.PATH ?? '', ...environment },
    ...(cwd === undefined ? {} : { cwd }),
  })
  t.teardown(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return
    killWhole({ child })
    await ended
  })
  const lines: string[] = []
  let stdout = ''
  let stderr = ''
  const { stdout: said, stderr: complained } = child
  if (said === null || complained === null) throw new Error('both are pipes')
  said.on('data', (chunk: Buffer) => {
    stdout += chunk
  })
  complained.on('data', (chunk: Buffer) => {
    stderr += chunk
  })
  const ended = once(child, 'close').then(([code, signal]) => ({ code, signal, stdout, stderr }))
  const source = createInterface({ input: said })
  const unread: string[] = []
  let tell = () => {}
  source.on('line', (line) => {
    lines.push(line)
    unread.push(line)
    tell()
  })
  ended.then(() => tell())
  return {
    child,
    lines,
    ended,
    async line() {
      while (unread.length === 0 && child.exitCode === null && child.signalCode === null) {
        await new Promise<void>((heard) => {
          tell = heard
        })
      }
      const line = unread.shift()
      if (line === undefined) throw new Error(`the program has ended: ${stderr}`)
      return line
    },
  }
}

/** The process ids of its children that run this module: `worker` or `control`; all of them without one. */
export function childrenOf({ child: { pid } }: Pick<Running, 'child'>, module = ''): number[] {
  const text = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
  const children = (text.match(/[0-9]+/g) ?? []).map(Number)
  return children.filter((one) => commandOf(one).includes(`${module}.js`))
}

/** '' if it has gone meanwhile. */
function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8')
  } catch {
    return ''
  }
}

/** As a machine that goes down: none of its processes can do anything about it. */
export function killWhole(program: Pick<Running, 'child'>): void {
  // A primary that lives would start its workers again.
  program.child.kill('SIGSTOP')
  for (const pid of childrenOf(program)) process.kill(pid, 'SIGKILL')
  program.child.kill('SIGKILL')
}
