// http-proxy-3 as its manual has it: node's http server parses the head, `ws` hands the upgrade over. Like Headrace it
// tells the origin who the client is (xfwd).

import { once } from 'node:events'
import { createServer } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { createProxyServer } from 'http-proxy-3'
import { serveNodePeer } from './node-peer.ts'

serveNodePeer(async ({ origin, tls }) => {
  const proxy = createProxyServer({ target: `http://${origin}`, ws: true, xfwd: true })
  // A tunnel that is lost is missed by its client; that clients reset theirs at the end of a scenario is no news.
  proxy.on('error', () => {})
  const server = tls === null ? createServer() : createTlsServer({ cert: tls.certificate, key: tls.key })
  server.on('upgrade', (request, socket, head) => proxy.ws(request, socket, head))
  server.listen({ host: '127.0.0.1', port: 0, backlog: 4_096 })
  await once(server, 'listening')
  return `127.0.0.1:${(server.address() as AddressInfo).port}`
})
