// A real Redis of the test's own, on a free port; from Debian's redis-server.

import type { ChildProcess } from 'node:child_process'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { createServer } from 'node:net'
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

/** Killed with its test. */
export async function startRedis(t: Test, port: number): Promise<ChildProcess> {
  const words = [
    '--port',
    `${port}`,
    '--bind',
    '127.0.0.1',
    '--save',
    '',
    '--appendonly',
    'no',
    '--dir',
    t.testdir(),
  ]
  const child = spawn(REDIS, words, { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  for await (const chunk of child.stdout) if (String(chunk).includes('Ready to accept connections')) break
  child.stdout.resume()
  return child
}

/** In CI it must be there. */
export async function reasonToSkipRedis(): Promise<string | false> {
  if (process.env.CI !== undefined || (await isThere(REDIS))) return false
  return `${REDIS} is not here: run scripts/install-peers`
}
