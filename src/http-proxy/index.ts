// http-proxy's WebSockets through Headrace: its calls, options and events, as far as they are about WebSockets.
//
//   import { createProxyServer } from 'headrace/http-proxy'
//
//   const proxy = createProxyServer({ target: 'ws://localhost:9014' })
//   server.on('upgrade', (request, socket, head) => proxy.ws(request, socket, head))
//
// Plain HTTP stays with http-proxy. docs/http-proxy.md is the list of what is the same and what is not.

import { createProxyServer, ProxyServer } from './proxy-server.ts'

export type { ErrorCallback, ProxyServerEvents } from './events.ts'
export type { ProxyTarget, ProxyTargetDetailed, ProxyTargetUrl, ServerOptions } from './options.ts'
export type { ProxyRequest } from './proxy-request.ts'
export type { ProxySocket, ProxySocketEvents, SwitchingResponse } from './proxy-socket.ts'
export { createProxyServer, createProxyServer as createProxy, createProxyServer as createServer, ProxyServer }
export default ProxyServer
