// The near ends in a process of their own (near.ts), and far ends that connect to it.

import type { ChildProcess } from 'node:child_process'
import { fork } from 'node:child_process'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { connect } from 'node:net'
import type { Test } from 'tap'
import type { Engine } from '../../src/engine/engine.ts'
import type { Command, State } from './near.ts'

export interface NearProcess {
  readonly child: ChildProcess
  /** Resolves with the process's exit code, or the signal that ended it, and what it wrote to standard error. */
  readonly exited: Promise<{ readonly how: number | string | null; readonly stderr: string }>
  /** One question at a time. */
  ask(command: Command): Promise<State>
  tell(command: Command): void
  /** So many new tunnels, which have begun. */
  open(count: number): Promise<Tunnel[]>
}

export interface Tunnel {
  readonly client: Socket
  readonly origin: Socket
}

const CONNECTING_AT_ONCE = 100

export async function startNear(t: Test, { name }: Engine): Promise<NearProcess> {
  // Without tap's own modules, which users have not either.
  const { NODE_OPTIONS: _, ...env } = process.env
  const child = fork(new URL('./near.js', import.meta.url), [name], {
    execArgv: ['--expose-gc'],
    env,
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  })
  t.teardown(() => child.kill('SIGKILL'))
  let stderr = ''
  child.stderr?.on('data', (chunk: Buffer) => {
    stderr += chunk
  })
  const exited = once(child, 'close').then(([code, signal]) => ({ how: code ?? signal, stderr }))
  const answer = async <Answer>() => {
    const gone = exited.then(({ how, stderr }) => {
      throw new Error(`the near process has ended: ${how} ${stderr}`)
    })
    const [message] = await Promise.race([once(child, 'message'), gone])
    return message as Answer
  }
  const [clients, origins] = (await answer<{ port: number }[]>()).map(({ port }) => port) as [number, number]
  const tell = (command: Command) => void child.send(command)
  const ask = (command: Command) => {
    tell(command)
    return answer<State>()
  }
  const sockets: Socket[] = []
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
  })
  async function reach(port: number): Promise<Socket> {
    const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true, noDelay: true })
    socket.on('error', () => {})
    sockets.push(socket)
    await once(socket, 'connect')
    return socket
  }
  let count = 0
  async function open(more: number): Promise<Tunnel[]> {
    const tunnels: Tunnel[] = []
    while (tunnels.length < more) {
      const batch = Array.from({ length: Math.min(CONNECTING_AT_ONCE, more - tunnels.length) }, async () => {
        const [client, origin] = await Promise.all([reach(clients), reach(origins)])
        return { client, origin }
      })
      tunnels.push(...(await Promise.all(batch)))
    }
    const portOf = ({ localPort = 0 }: Socket) => localPort
    tell({ kind: 'splice', pairs: tunnels.map(({ client, origin }) => [portOf(client), portOf(origin)]) })
    count += more
    await ask({ kind: 'begun', count })
    return tunnels
  }
  return { child, exited, ask, tell, open }
}
