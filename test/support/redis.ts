// A real Redis of the test's own, on a free port; from Debian's redis-server.

import type { ChildProcess } from 'node:child_process'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import type { Readable } from 'node:stream'
import { setTimeout as wait } from 'node:timers/promises'
import type { Test } from 'tap'

const REDIS = 'redis-server'

async function isThere(command: string): Promise<boolean> {
  const child = spawn(command, ['--version'], { stdio: 'ignore' })
  return await new Promise((resolve) => {
    child.on('error', () => resolve(false))
    child.on('exit', (code) => resolve(code === 0))
  })
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

export interface StartedRedis {
  readonly child: ChildProcess
  readonly port: number
}

/** Killed with its test. Without a port it takes one, and another if somebody was faster. */
export async function startRedis(t: Test, port = 0): Promise<StartedRedis> {
  for (let attempt = 0; attempt < 10; attempt += 1) {
    const wanted = port === 0 ? await freePort() : port
    const child = spawn(REDIS, [...WORDS, '--port', `${wanted}`], { stdio: ['ignore', 'pipe', 'inherit'] })
    t.teardown(() => child.kill('SIGKILL'))
    if (await isReady(child.stdout)) return { child, port: wanted }
  }
  throw new Error(`${REDIS} does not start`)
}

/** Nothing is kept. */
const WORDS = ['--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', tmpdir()]

async function isReady(output: Readable): Promise<boolean> {
  let said = ''
  return await new Promise((resolve) => {
    output.on('data', (chunk: Buffer) => {
      said += chunk
      if (said.includes('Ready to accept connections')) resolve(true)
    })
    output.on('end', () => resolve(false))
  })
}

/**
 * On a busy machine an answer of Redis may come too late, and is done without: what is to be seen is tried with up to
 * five keys, and resolves with the first result that is as it should be, or the last.
 */
export async function undisturbed<Result>(
  attempt: (key: string) => Promise<Result>,
  isRight: (result: Result) => boolean,
): Promise<Result> {
  let result = await attempt('192.0.2.1')
  for (let at = 2; at <= 5 && !isRight(result); at += 1) {
    // Until it is asked again.
    await wait(1_100)
    result = await attempt(`192.0.2.${at}`)
  }
  return result
}

/** In CI it must be there. */
export async function reasonToSkipRedis(): Promise<string | false> {
  if (process.env.CI !== undefined || (await isThere(REDIS))) return false
  return `${REDIS} is not here: run scripts/install-peers`
}
