// Serve: texts there and back to a handler that serves, beside a plain server of ws in the same process. Rounds take turns, and
// the next message leaves as soon as one is back; so the process under test is what is busy.

import { once } from 'node:events'
import type { Socket } from 'node:net'
import { connect } from 'node:net'
import type { Result } from './figures.ts'
import { figure } from './figures.ts'
import { startProcess } from './process.ts'
import type { Surroundings } from './scenario.ts'
import type { ServeCalls, Subject } from './serve-process.ts'

const SIZES = {
  full: { rounds: 15, roundMs: 400, connections: 32 },
  smoke: { rounds: 2, roundMs: 100, connections: 4 },
} as const

const BYTES = 64
/** What `serve` has to reach, in messages per second of the plain server. */
const LEAST_RATIO = 0.9

const KEY = 'dGhlIHNhbXBsZSBub25jZQ=='
const SUBJECTS: readonly Subject[] = ['serve', 'ws']

/** Of a client, masked with zeros, and as it comes back (RFC 6455 section 5.2). */
const TEXT = Buffer.alloc(BYTES, 'x')
const ASKED = Buffer.concat([Buffer.from([0x81, 0x80 | BYTES, 0, 0, 0, 0]), TEXT])
const ANSWERED = Buffer.concat([Buffer.from([0x81, BYTES]), TEXT])

interface Round {
  readonly perSecond: number
  readonly cpuUs: number
}

export async function serve({ options, progress, failed }: Surroundings): Promise<Result[]> {
  const { rounds, roundMs, connections } = options.smoke ? SIZES.smoke : SIZES.full
  progress(`serve: ${BYTES} B there and back on ${connections} connections, ${rounds} rounds`)
  const child = await startProcess<ServeCalls>('serve', new URL('./serve-process.js', import.meta.url))
  try {
    const ports = await child.call('start')
    const clients = {
      serve: await openAll(ports.serve, connections),
      ws: await openAll(ports.ws, connections),
    }
    const played: Record<Subject, Round[]> = { serve: [], ws: [] }
    // The first round of each is for the compiler.
    for (let at = 0; at <= rounds; at += 1) {
      for (const subject of SUBJECTS) {
        const before = await child.call('spent')
        const count = await play(clients[subject], roundMs)
        const spent = (await child.call('spent')) - before
        if (at > 0) played[subject].push({ perSecond: (count * 1_000) / roundMs, cpuUs: spent / count })
      }
    }
    for (const socket of [...clients.serve, ...clients.ws]) socket.destroy()
    const ratios = played.serve.map(({ perSecond }, at) => perSecond / (played.ws[at]?.perSecond ?? 0))
    const ratio = figure('messages/s, of ws', ratios)
    if (!options.smoke && ratio.median < LEAST_RATIO) failed(`serve has ${ratio.median.toFixed(2)} of ws`)
    return SUBJECTS.map((subject) => ({
      scenario: 'serve',
      title: `serve: ${BYTES} B there and back on ${connections} connections`,
      parameters: { bytes: BYTES, connections },
      subject,
      figures: [
        figure(
          'messages/s',
          played[subject].map(({ perSecond }) => perSecond),
        ),
        figure(
          'CPU µs per message',
          played[subject].map(({ cpuUs }) => cpuUs),
        ),
        ...(subject === 'serve' ? [ratio] : []),
      ],
    }))
  } finally {
    await child.stop()
  }
}

async function openAll(port: number, count: number): Promise<Socket[]> {
  return await Promise.all(Array.from({ length: count }, () => open(port)))
}

async function open(port: number): Promise<Socket> {
  const socket = connect({ port, host: '127.0.0.1', noDelay: true })
  await once(socket, 'connect')
  socket.write(
    `GET / HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: ${KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n`,
  )
  const [head] = (await once(socket, 'data')) as [Buffer]
  if (!head.toString().startsWith('HTTP/1.1 101')) throw new Error(`no 101: ${head}`)
  return socket
}

/** Resolves with how many messages came back. Rejects if one is wrong, or a connection ends. */
async function play(sockets: readonly Socket[], ms: number): Promise<number> {
  const deadline = performance.now() + ms
  const counts = await Promise.all(sockets.map((socket) => pingPong(socket, deadline)))
  return counts.reduce((sum, one) => sum + one, 0)
}

/** No promise for each message: the load must cost less than what it measures. */
function pingPong(socket: Socket, deadline: number): Promise<number> {
  return new Promise((resolve, reject) => {
    let count = 0
    let seen = 0
    const finish = (error: Error | null) => {
      socket.off('data', heard)
      socket.off('close', ended)
      if (error === null) resolve(count)
      else reject(error)
    }
    const ended = () => finish(new Error('a connection has ended'))
    const heard = (chunk: Buffer) => {
      if (!chunk.equals(ANSWERED.subarray(seen, seen + chunk.length)))
        return finish(new Error('a wrong message'))
      seen += chunk.length
      if (seen < ANSWERED.length) return
      seen = 0
      count += 1
      if (performance.now() < deadline) socket.write(ASKED)
      else finish(null)
    }
    socket.on('data', heard)
    socket.on('close', ended)
    socket.write(ASKED)
  })
}
