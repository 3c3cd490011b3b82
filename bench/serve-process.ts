// One process with two echoes of WebSocket messages: a handler that serves, and a plain server of the package ws.

import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { WebSocketServer } from 'ws'
import { createTunnel, serve } from '../src/index.ts'
import { answerCalls } from './process.ts'

export type Subject = 'serve' | 'ws'

export interface ServeCalls {
  /** The port of each. */
  start(): Promise<Readonly<Record<Subject, number>>>
  /** CPU time of this process so far, in µs. */
  spent(): number
}

answerCalls<ServeCalls>({
  async start() {
    const sockets = new WebSocketServer({ host: '127.0.0.1', port: 0, perMessageDeflate: false })
    sockets.on('connection', (socket) => {
      socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }))
    })
    await once(sockets, 'listening')
    const tunnel = createTunnel({
      services: [
        {
          id: 'echo',
          domains: ['*'],
          websockets: 'on',
          handler: (request) =>
            serve(request, (socket) => {
              socket.addEventListener('message', ({ data }) => socket.send(data as string))
            }),
        },
      ],
    })
    const { addresses } = await tunnel.listen([{ address: '127.0.0.1:0' }])
    const port = Number(addresses[0]?.split(':').at(-1))
    return { serve: port, ws: (sockets.address() as AddressInfo).port }
  },
  spent() {
    const { user, system } = process.cpuUsage()
    return user + system
  },
})
