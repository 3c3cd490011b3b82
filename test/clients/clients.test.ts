// Real clients through the tunnel: ws, socket.io, and Chromium, over TCP and TLS.

import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { Server as SocketIo } from 'socket.io'
import { io } from 'socket.io-client'
import t, { type Test } from 'tap'
import { WebSocket, WebSocketServer } from 'ws'
import { selfSigned, testAuthority } from '../support/certificates.ts'
import { startChromium, withoutChromium } from '../support/chromium.ts'
import type { Wanted } from '../support/tunnel.ts'
import { startTunnel } from '../support/tunnel.ts'

const MEGABYTE = 1024 * 1024

async function listening(t: Test, server: Server): Promise<string> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return `127.0.0.1:${(server.address() as { port: number }).port}`
}

/** Echoes; closes with the code that it is asked for by `close 4001 reason`. */
function echoing(server: Server): void {
  const sockets = new WebSocketServer({
    server,
    perMessageDeflate: { threshold: 0 },
    handleProtocols: (offered) => (offered.has('chat.v2') ? 'chat.v2' : false),
    maxPayload: 4 * MEGABYTE,
  })
  sockets.on('connection', (socket) => {
    socket.on('error', () => {})
    socket.on('message', (data, isBinary) => {
      const [, code, reason] = /^close ([0-9]+) (.*)$/.exec(isBinary ? '' : String(data)) ?? []
      if (code === undefined) socket.send(data, { binary: isBinary })
      else socket.close(Number(code), reason)
    })
  })
}

async function converse(t: Test, url: string): Promise<void> {
  const socket = new WebSocket(url, ['chat.v2', 'chat.v1'], {
    rejectUnauthorized: false,
    perMessageDeflate: { threshold: 0 },
  })
  await once(socket, 'open')
  t.equal(socket.protocol, 'chat.v2')
  t.match(socket.extensions, /permessage-deflate/)
  for (const bytes of [randomBytes(MEGABYTE), Buffer.alloc(MEGABYTE, 'squeeze me')]) {
    socket.send(bytes)
    const [answer] = (await once(socket, 'message')) as [Buffer]
    t.ok(bytes.equals(answer))
  }
  socket.send('grüß dich')
  t.equal(String((await once(socket, 'message'))[0]), 'grüß dich')
  socket.ping('are you there')
  t.equal(String((await once(socket, 'pong'))[0]), 'are you there')
  socket.send('close 4001 enough')
  const [code, reason] = (await once(socket, 'close')) as [number, Buffer]
  t.equal(code, 4001)
  t.equal(String(reason), 'enough')
}

const onlyUpgrades: Wanted = {}
const wholeSite: Wanted = {
  service: { routes: [{ match: { upgrade: 'websocket' }, handoff: 'origin' }, { send: 'origin' }] },
}

t.test('ws, over TCP and TLS, to origins over TCP and TLS', async (t) => {
  const pair = await selfSigned({ names: ['localhost'] })
  const listeners = [{ address: '127.0.0.1:0' }, { address: '127.0.0.1:0', tls: pair }]
  const plain = createServer()
  echoing(plain)
  const first = await startTunnel(t, await listening(t, plain), { ...onlyUpgrades, listeners })
  const trusted = await (await testAuthority()).issue({ names: ['origin.test'] })
  const secure = createTlsServer({ cert: trusted.certificate, key: trusted.key })
  echoing(secure)
  const backend = { tls: true, certHostname: 'origin.test' }
  const second = await startTunnel(t, await listening(t, secure), { backend, listeners })
  for (const { addresses, closed } of [first, second]) {
    for (const [at, scheme] of ['ws', 'wss'].entries()) {
      await converse(t, `${scheme}://${addresses[at]}/chat`)
      t.match((await closed()).end, /-fin-tunnel$/)
    }
  }
})

t.test('socket.io: polling first and then the upgrade, and WebSocket only', async (t) => {
  const http = createServer()
  const server = new SocketIo(http)
  server.on('connection', (socket) =>
    socket.on('say', (text, answer) => answer(`${text}, ${socket.conn.transport.name}`)),
  )
  t.teardown(() => server.close())
  const { address } = await startTunnel(t, await listening(t, http), wholeSite)
  for (const transports of [['polling', 'websocket'], ['websocket']]) {
    const socket = io(`http://${address}`, { transports, reconnection: false })
    t.teardown(() => socket.disconnect())
    await new Promise((resolve, reject) => {
      socket.on('connect', () => resolve(undefined))
      socket.on('connect_error', reject)
    })
    if (socket.io.engine.transport.name === 'polling') {
      await new Promise((resolve) => socket.io.engine.once('upgrade', resolve))
    }
    t.equal(await socket.emitWithAck('say', 'hello'), 'hello, websocket')
    socket.disconnect()
  }
})

/** Runs in the page. */
async function talk(
  url: string,
): Promise<{ same: boolean; extensions: string; code: number; reason: string }> {
  const socket = new WebSocket(url, 'chat.v2') as unknown as globalThis.WebSocket
  socket.binaryType = 'arraybuffer'
  await new Promise((resolve, reject) => {
    socket.onopen = resolve
    socket.onerror = reject
  })
  const sent = new Uint8Array(1024 * 1024)
  for (let at = 0; at < sent.length; at += 65_536) crypto.getRandomValues(sent.subarray(at, at + 65_536))
  const answer = new Promise<ArrayBuffer>((resolve) => {
    socket.onmessage = ({ data }) => resolve(data)
  })
  socket.send(sent)
  const received = new Uint8Array(await answer)
  const same = received.length === sent.length && received.every((byte, at) => byte === sent[at])
  const closed = new Promise<CloseEvent>((resolve) => {
    socket.onclose = resolve
  })
  socket.send('close 4002 until later')
  const { code, reason } = await closed
  return { same, extensions: socket.extensions, code, reason }
}

t.test('Chromium, over TCP and TLS', { skip: withoutChromium }, async (t) => {
  const http = createServer((_, response) => response.end('<!doctype html><title>a page</title>'))
  echoing(http)
  const pair = await selfSigned({ names: ['localhost'] })
  const listeners = [{ address: '127.0.0.1:0' }, { address: '127.0.0.1:0', tls: pair }]
  const { addresses } = await startTunnel(t, await listening(t, http), { ...wholeSite, listeners })
  const browser = await startChromium(t)
  for (const [at, [page, socket]] of [
    ['http', 'ws'],
    ['https', 'wss'],
  ].entries()) {
    const context = await browser.newContext({ ignoreHTTPSErrors: true })
    const tab = await context.newPage()
    await tab.goto(`${page}://${addresses[at]}/`)
    t.equal(await tab.title(), 'a page')
    const result = await tab.evaluate(talk, `${socket}://${addresses[at]}/chat`)
    t.same(result, { same: true, extensions: 'permessage-deflate', code: 4002, reason: 'until later' })
    await context.close()
  }
})
