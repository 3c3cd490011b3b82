// An origin that never answers.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import type { Test } from 'tap'

/** A port where nothing answers: its process never accepts, and its queue is full. */
export async function blackHole(t: Test, host = '127.0.0.1'): Promise<number> {
  const script = `require('net').createServer().listen({ host: '${host}', port: 0, backlog: 1 }, function () {
    require('fs').writeSync(1, String(this.address().port))
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
  })`
  const child = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  const [port] = (await once(child.stdout, 'data')) as [Buffer]
  const fillers = Array.from({ length: 4 }, () => connect(Number(port), host).on('error', () => {}))
  t.teardown(() => {
    for (const filler of fillers) filler.destroy()
  })
  await Promise.race(fillers.map((filler) => once(filler, 'connect')))
  return Number(port)
}
