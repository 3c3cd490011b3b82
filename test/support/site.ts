// An origin as people have it, node's http server with ws, which tells whoever comes what it was asked; and its clients.

import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Test } from 'tap'
import type { ClientOptions } from 'ws'
import { WebSocketServer } from 'ws'
import { talkTo } from './websocket.ts'

/** What a site was asked: its first message to a WebSocket, its answer to anything else. */
export interface Asked {
  readonly site: string
  readonly method: string
  readonly url: string
  /** Names and values in turn, as they came. */
  readonly rawHeaders: readonly string[]
}

export interface Site {
  readonly address: string
  /** What /healthz answers; 200 at first. */
  health: number
  /** Nobody is accepted any more, and nobody is left. */
  stop(): Promise<void>
}

/** Echoes, and closes with the code that `close 4001 reason` asks for. Of subprotocols it speaks chat.v2. */
export async function startSite(t: Test, name: string): Promise<Site> {
  const told = ({ method = '', url = '', rawHeaders }: IncomingMessage) =>
    JSON.stringify({ site: name, method, url, rawHeaders } satisfies Asked)
  const server = createServer((request, response) => {
    if (request.url !== '/healthz') return void response.end(told(request))
    response.writeHead(site.health)
    response.end()
  })
  const sockets = new WebSocketServer({
    server,
    handleProtocols: (offered) => (offered.has('chat.v2') ? 'chat.v2' : false),
  })
  sockets.on('connection', (socket, request) => {
    socket.on('error', () => {})
    socket.on('message', (data, isBinary) => {
      const [, code, reason] = /^close ([0-9]+) (.*)$/.exec(isBinary ? '' : String(data)) ?? []
      if (code === undefined) socket.send(data, { binary: isBinary })
      else socket.close(Number(code), reason)
    })
    socket.send(told(request))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const site: Site = {
    address: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    health: 200,
    async stop() {
      if (!server.listening) return
      for (const socket of sockets.clients) socket.terminate()
      server.close()
      server.closeAllConnections()
      await once(server, 'close')
    },
  }
  t.teardown(() => site.stop())
  return site
}

/** What a client of a site has heard. */
export interface Visit {
  readonly asked: Asked
  readonly protocol: string
  readonly echoes: readonly string[]
  readonly closed: { readonly code: number; readonly reason: string }
}

/** A WebSocket from its upgrade to its close. Rejects with what ws says if it is refused. */
export async function visit(
  t: Test,
  address: string,
  path: string,
  options: ClientOptions = {},
): Promise<Visit> {
  const talker = await talkTo(t, address, path, { protocols: ['chat.v1', 'chat.v2'], ...options })
  const asked = JSON.parse(await talker.next()) as Asked
  talker.socket.send('grüß dich')
  talker.socket.send(Buffer.from([0, 255]))
  const echoes = [await talker.next(), await talker.next()]
  talker.socket.send('close 4001 enough')
  return { asked, protocol: talker.socket.protocol, echoes, closed: await talker.closed }
}

/** What a refused client is told, such as `Unexpected server response: 403`; '' if it was let in. */
export function refusal(
  t: Test,
  address: string,
  path: string,
  options: ClientOptions = {},
): Promise<string> {
  return talkTo(t, address, path, options).then(
    () => '',
    (error: Error) => error.message,
  )
}

/** The values of a field, by any letter case of its name. */
export function valuesOf({ rawHeaders }: Asked, name: string): string[] {
  return rawHeaders.filter(
    (_, at) => at % 2 === 1 && rawHeaders[at - 1]?.toLowerCase() === name.toLowerCase(),
  )
}
