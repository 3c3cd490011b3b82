// Proxies in front of an origin, by http-proxy-3 or by ours, and what they tell.

import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { createServer } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { createProxyServer as createTheirs } from 'http-proxy-3'
import type { Test } from 'tap'
import type { ProxyServer, ServerOptions } from '../../src/http-proxy/index.ts'
import { createProxyServer } from '../../src/http-proxy/index.ts'
import { upgradeRequest } from './origin.ts'
import { connectTo } from './peer.ts'

/** What both have. */
export type Library = (options: ServerOptions) => ProxyServer

/** Without a listener for errors it would end the process of the tests when these end their connections. */
export const theirs: Library = (options) =>
  (createTheirs as unknown as Library)(options).on('error', () => {})

export const LIBRARIES: readonly (readonly [name: string, library: Library])[] = [
  ['http-proxy-3', theirs],
  ['headrace', createProxyServer],
]

/** A server whose upgrades go to the proxy, by `call` if that is given. */
export async function serveBy(
  t: Test,
  proxy: ProxyServer,
  call: (request: IncomingMessage, socket: Socket, head: Buffer) => void = proxy.ws,
  server = createServer(),
): Promise<string> {
  server.on('request', (request, response) => proxy.web(request, response))
  server.on('upgrade', (request, socket, head) => call(request, socket as Socket, head))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  return `127.0.0.1:${(server.address() as AddressInfo).port}`
}

export interface Told {
  readonly code: string
  readonly url: string
  readonly isSocket: boolean
  readonly answer: string
}

/** What the error listener is told, and what the client gets. */
export async function toldOf(
  t: Test,
  library: Library,
  options: ServerOptions,
  answer: (socket: Socket) => void = () => {},
): Promise<Told> {
  const proxy = library(options)
  let socketOfCall: Socket | null = null
  const address = await serveBy(t, proxy, (request, socket, head) => {
    socketOfCall = socket
    proxy.ws(request, socket, head)
  })
  const told = new Promise<Omit<Told, 'answer'>>((resolve) => {
    proxy.once('error', (error, request, socket) => {
      const { code = '' } = error as NodeJS.ErrnoException
      answer(socket as Socket)
      resolve({ code, url: request.url ?? '', isSocket: socket === socketOfCall })
    })
    proxy.on('error', () => {})
  })
  const client = await connectTo(t, address)
  client.write(upgradeRequest())
  return { ...(await told), answer: await client.all() }
}
