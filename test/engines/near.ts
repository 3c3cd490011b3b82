// A process of its own with an engine: node near.js ENGINE. Whoever connects to its first port is a client, to its second
// an origin. Which of them are spliced, and all else, it is told over IPC (see near-process.ts).

import { readdirSync } from 'node:fs'
import type { Socket } from 'node:net'
import { createServer } from 'node:net'
import type { EngineChoice } from '../../src/engine/choose.ts'
import { chooseEngine } from '../../src/engine/choose.ts'
import type { SpliceEnd, Splicing } from '../../src/engine/engine.ts'
import { nodeTransport } from '../../src/transport/node.ts'

export type Command =
  /** Pairs of a client's and an origin's port. */
  | { readonly kind: 'splice'; readonly pairs: readonly (readonly [number, number])[] }
  | { readonly kind: 'state' | 'exit' | 'throw' | 'close' }
  /** Answered when so many tunnels have begun, or ended, since the process began. */
  | { readonly kind: 'begun' | 'ended'; readonly count: number }
  | { readonly kind: 'stop'; readonly how: 'fin' | 'reset' }

export interface State {
  readonly begun: number
  readonly ended: number
  /** How often each kind of end was told. */
  readonly ends: Readonly<Record<string, number>>
  readonly descriptors: number
  readonly rss: number
  /** Of the tunnels that are open. */
  readonly clientToOrigin: number
  readonly originToClient: number
}

const { engine } = chooseEngine(process.argv[2] as EngineChoice)
/** By the port of their far end. */
const clients = new Map<number, Socket>()
const origins = new Map<number, Socket>()
const partners = new Map<number, number>()
const open = new Set<Splicing>()
const ends: Record<string, number> = {}
let [listening, begun, ended] = [0, 0, 0]
let waiting: Command[] = []

const servers = [clients, origins].map((arrived) => {
  const options = { allowHalfOpen: true, pauseOnConnect: true, noDelay: true }
  const server = createServer(options, (socket) => {
    arrived.set(socket.remotePort ?? 0, socket)
    beginAll()
  })
  server.listen({ port: 0, host: '127.0.0.1', backlog: 4_096 }, () => {
    listening += 1
    if (listening === 2) process.send?.(servers.map((server) => server.address()))
  })
  return server
})

function beginAll(): void {
  for (const [clientPort, originPort] of partners) {
    const [client, origin] = [clients.get(clientPort), origins.get(originPort)]
    if (client === undefined || origin === undefined) continue
    partners.delete(clientPort)
    clients.delete(clientPort)
    origins.delete(originPort)
    begin(client, origin)
  }
}

function begin(client: Socket, origin: Socket): void {
  begun += 1
  const early = { fromClient: [], fromOrigin: [] }
  const owner = {
    spliceEnded({ who, how }: SpliceEnd) {
      open.delete(splicing)
      ended += 1
      const name = `${who}-${how}`
      ends[name] = (ends[name] ?? 0) + 1
      answerWaiting()
    },
  }
  const splicing = engine.splice(nodeTransport(client), nodeTransport(origin), early, owner)
  open.add(splicing)
  answerWaiting()
}

function answerWaiting(): void {
  const isReached = (command: Command) => 'count' in command && stateOf(command.kind) >= command.count
  const reached = waiting.filter(isReached)
  waiting = waiting.filter((command) => !isReached(command))
  for (const _ of reached) process.send?.(state())
}

function stateOf(kind: 'begun' | 'ended'): number {
  return kind === 'begun' ? begun : ended
}

function state(): State {
  ;(globalThis as { gc?: () => void }).gc?.()
  let [clientToOrigin, originToClient] = [0, 0]
  for (const splicing of open) {
    clientToOrigin += splicing.clientToOrigin
    originToClient += splicing.originToClient
  }
  const descriptors = readdirSync('/proc/self/fd').length
  return { begun, ended, ends, descriptors, rss: process.memoryUsage.rss(), clientToOrigin, originToClient }
}

process.on('message', (command: Command) => {
  switch (command.kind) {
    case 'splice':
      for (const [client, origin] of command.pairs) partners.set(client, origin)
      beginAll()
      return
    case 'state':
      process.send?.(state())
      return
    case 'begun':
    case 'ended':
      waiting.push(command)
      answerWaiting()
      return
    case 'stop':
      for (const splicing of open) splicing.stop(command.how)
      process.send?.(state())
      return
    case 'exit':
      process.exit()
      return
    case 'throw':
      setImmediate(() => {
        throw new Error('nobody catches it')
      })
      return
    case 'close':
      for (const server of servers) server.close()
      process.disconnect?.()
      return
  }
})
