// Socket.IO and SignalR, in node and in Chromium, through the program with two workers to two origins that know nothing of each
// other: whatever a client asks must reach the one that it began with. What happens without that stands beside it.

import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { HubConnection } from '@microsoft/signalr'
import { HttpTransportType, HubConnectionBuilder, LogLevel } from '@microsoft/signalr'
import type { ManagerOptions, Socket, SocketOptions } from 'socket.io-client'
import { io } from 'socket.io-client'
import t, { type Test } from 'tap'
import { testAuthority } from '../support/certificates.ts'
import { startChromium, withoutChromium } from '../support/chromium.ts'
import { newFolder, startFleet } from '../support/control.ts'
import type { LiveSite } from '../support/live-site.ts'
import { startLiveSite } from '../support/live-site.ts'

/** So many that luck does not bring all of them through without stickiness: one in a million at best. */
const MANY = 20

interface Edge {
  readonly sites: readonly LiveSite[]
  /** By HTTP and by HTTPS. */
  readonly http: string
  readonly https: string
}

/** The program with two workers in front of two sites; `director`: what it has besides its name and backends. */
async function startEdge(t: Test, director: string): Promise<Edge> {
  const sites = [await startLiveSite(t, 'a'), await startLiveSite(t, 'b')]
  const folder = newFolder(t)
  const { certificate, key } = await (await testAuthority()).issue({ names: ['localhost', '127.0.0.1'] })
  writeFileSync(join(folder, 'cert.pem'), certificate)
  writeFileSync(join(folder, 'key.pem'), key)
  const { addresses } = await startFleet(
    t,
    `listeners:
  - address: 127.0.0.1:0
  - address: 127.0.0.1:0
    tls: { certificate: cert.pem, key: key.pem }
workers: 2
drainTimeout: 0
services:
  - id: live
    domains: ["*"]
    websockets: on
    backends:
${sites.map(({ name, address }) => `      - { name: ${name}, address: "${address}", firstByteTimeout: 2m }\n`).join('')}
    directors:
      - { name: pool, backends: [a, b]${director} }
    routes:
      - { match: { upgrade: websocket }, handoff: pool }
      - { send: pool }
`,
    { folder },
  )
  const [tcp = '', tls = ''] = addresses
  return { sites, http: `http://${tcp}`, https: `https://${tls.replace('127.0.0.1', 'localhost')}` }
}

const STICKY = ', sticky: { cookie: headrace }'

type SocketIoOptions = Partial<ManagerOptions & SocketOptions>

/** In node it is withCredentials that makes it keep cookies, as browsers do by themselves for their own site. */
function socketIo(t: Test, url: string, options: SocketIoOptions = {}): Socket {
  const socket = io(url, {
    transports: ['polling', 'websocket'],
    withCredentials: true,
    reconnection: false,
    forceNew: true,
    ...options,
  })
  t.teardown(() => socket.disconnect())
  return socket
}

/** Polls, upgrades, and asks who is there: `a by websocket`, or why not. */
async function askSocketIo(socket: Socket): Promise<string> {
  const { engine } = socket.io
  const failure = await new Promise<string | null>((resolve) => {
    engine.on('upgrade', () => resolve(null))
    engine.on('upgradeError', ({ message }) => resolve(`no upgrade: ${message}`))
    socket.on('connect_error', ({ message }) => resolve(`no connection: ${message}`))
    socket.on('disconnect', (reason) => resolve(`disconnected: ${reason}`))
  })
  const answer = failure ?? (await socket.timeout(10_000).emitWithAck('whoAreYou').catch(String))
  socket.disconnect()
  return answer
}

interface SignalROptions {
  readonly transport: HttpTransportType
  /** Reconnects until it succeeds. */
  readonly isPersistent?: boolean
}

function signalR(t: Test, url: string, { transport, isPersistent = false }: SignalROptions): HubConnection {
  const builder = new HubConnectionBuilder().withUrl(url, { transport }).configureLogging(LogLevel.None)
  if (isPersistent) builder.withAutomaticReconnect({ nextRetryDelayInMilliseconds: () => 20 })
  const connection = builder.build()
  t.teardown(() => connection.stop())
  return connection
}

/** Negotiates, connects, and asks who is there. */
async function askSignalR(connection: HubConnection): Promise<string> {
  try {
    await connection.start()
    return await connection.invoke<string>('whoAreYou')
  } catch (error) {
    return `no connection: ${(error as Error).message}`
  } finally {
    await connection.stop()
  }
}

const TRANSPORTS = [
  HttpTransportType.WebSockets,
  HttpTransportType.ServerSentEvents,
  HttpTransportType.LongPolling,
] as const

/** How many answers there are of each kind. */
function tally(answers: readonly string[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const answer of answers) counts[answer] = (counts[answer] ?? 0) + 1
  return counts
}

function together(count: number, act: (at: number) => Promise<string>): Promise<string[]> {
  return Promise.all(Array.from({ length: count }, (_, at) => act(at)))
}

t.test('without stickiness: some clients fail, of either library, whatever the transport', async (t) => {
  const { http } = await startEdge(t, '')
  const ofSocketIo = await together(MANY, () => askSocketIo(socketIo(t, http)))
  t.ok(
    ofSocketIo.some((answer) => /^(no |disconnected)/.test(answer)),
    JSON.stringify(tally(ofSocketIo)),
  )
  for (const transport of TRANSPORTS) {
    const answers = await together(MANY, () => askSignalR(signalR(t, `${http}/hub`, { transport })))
    t.ok(
      answers.some((answer) => answer.startsWith('no connection')),
      `${HttpTransportType[transport]}: ${JSON.stringify(tally(answers))}`,
    )
  }
})

t.test(
  'with the cookie Socket.IO polls, upgrades and speaks with one backend, over TCP and TLS',
  async (t) => {
    const { http, https } = await startEdge(t, STICKY)
    for (const url of [http, https]) {
      const answers = await together(MANY, () => askSocketIo(socketIo(t, url)))
      const { 'a by websocket': a = 0, 'b by websocket': b = 0, ...others } = tally(answers)
      t.strictSame(others, {})
      t.ok(a > 0 && b > 0, `${a} and ${b}`)
    }
  },
)

t.test(
  'so do all whose first request has what the hash goes by, and who shares it shares a backend',
  async (t) => {
    const { http } = await startEdge(t, ', policy: hash, hash: { query: room }')
    const rooms = Array.from({ length: MANY }, (_, at) => `room-${at % 10}`)
    const answers = await Promise.all(
      rooms.map((room) => askSocketIo(socketIo(t, http, { query: { room } }))),
    )
    for (const answer of answers) t.match(answer, /^[ab] by websocket$/)
    t.strictSame(answers.slice(0, 10), answers.slice(10), 'a room is in one place')
    t.equal(new Set(answers).size, 2)
    for (const transport of TRANSPORTS) {
      const found = await Promise.all(
        rooms.map((room) => askSignalR(signalR(t, `${http}/hub?room=${room}`, { transport }))),
      )
      t.strictSame(
        found.map((answer) => answer[0]),
        answers.map((answer) => answer[0]),
        `${HttpTransportType[transport]}: ${JSON.stringify(tally(found))}`,
      )
    }
  },
)

t.test(
  'a hash of what the origin makes up comes too late: sid and id are not in the first request',
  async (t) => {
    const bySid = await startEdge(t, ', policy: hash, hash: { query: sid }')
    const answers = await together(MANY, () => askSocketIo(socketIo(t, bySid.http)))
    t.ok(
      answers.some((answer) => /^(no |disconnected)/.test(answer)),
      JSON.stringify(tally(answers)),
    )
    const byId = await startEdge(t, ', policy: hash, hash: { query: id }')
    const found = await together(MANY, () =>
      askSignalR(signalR(t, `${byId.http}/hub`, { transport: HttpTransportType.LongPolling })),
    )
    t.ok(
      found.some((answer) => answer.startsWith('no connection')),
      JSON.stringify(tally(found)),
    )
  },
)

for (const transport of TRANSPORTS) {
  const name = HttpTransportType[transport]
  t.test(`with the cookie SignalR negotiates and speaks with one backend: ${name}`, async (t) => {
    const { http, https } = await startEdge(t, STICKY)
    for (const url of [http, https]) {
      const answers = await together(MANY, () => askSignalR(signalR(t, `${url}/hub`, { transport })))
      const { [`a by ${name}`]: a = 0, [`b by ${name}`]: b = 0, ...others } = tally(answers)
      t.strictSame(others, {})
      t.ok(a > 0 && b > 0, `${a} and ${b}`)
    }

    const connection = signalR(t, `${https}/hub`, { transport })
    await connection.start()
    for (const text of ['hello', 'grüß dich']) {
      const heard = new Promise((resolve) => connection.on('heard', resolve))
      await connection.invoke('shout', text)
      t.equal(await heard, text)
      connection.off('heard')
    }
    await t.rejects(connection.invoke('fail', 'not today'), { message: /not today/ })
    await t.rejects(connection.invoke('nothing'), { message: /Unknown hub method 'nothing'/ })
    const closed = new Promise((resolve) => connection.onclose(resolve))
    await connection.send('leave')
    t.equal(await closed, undefined, 'without an error')
  })

  t.test(`a backend is killed: its clients go to the other one, and stay there: ${name}`, async (t) => {
    const { http, sites } = await startEdge(t, STICKY)
    const connections = Array.from({ length: 6 }, () =>
      signalR(t, `${http}/hub`, { transport, isPersistent: true }),
    )
    const first = await Promise.all(
      connections.map(async (one) => {
        await one.start()
        return await one.invoke<string>('whoAreYou')
      }),
    )
    const lost = sites.find((site) => first[0]?.startsWith(site.name)) as LiveSite
    const other = lost.name === 'a' ? 'b' : 'a'
    const orphans = connections.filter((_, at) => first[at]?.startsWith(lost.name))
    const back = orphans.map((one) => new Promise((resolve) => one.onreconnected(resolve)))
    await lost.kill()
    await Promise.all(back)
    // With the old cookie they would go back to it.
    await startLiveSite(t, lost.name, lost.address)
    for (const one of connections) {
      for (let count = 0; count < 3; count += 1) {
        t.equal(await one.invoke('whoAreYou'), `${other} by ${name}`)
      }
      await one.stop()
    }
  })
}

t.test('a backend is killed: Socket.IO comes back elsewhere, polling first again', async (t) => {
  const { http, sites } = await startEdge(t, STICKY)
  const options = { reconnection: true, reconnectionDelay: 10, reconnectionDelayMax: 50 }
  const sockets = Array.from({ length: 6 }, () => socketIo(t, http, options))
  const isUp = (socket: Socket) =>
    new Promise((resolve) => {
      if (socket.io.engine.transport.name === 'websocket') resolve(null)
      else socket.io.engine.once('upgrade', resolve)
    })
  await Promise.all(sockets.map(isUp))
  const ask = (socket: Socket): Promise<string> => socket.emitWithAck('whoAreYou')
  const first = await Promise.all(sockets.map(ask))
  const lost = sites.find(({ name }) => first[0]?.startsWith(name)) as LiveSite
  const other = lost.name === 'a' ? 'b' : 'a'
  const orphans = sockets.filter((_, at) => first[at]?.startsWith(lost.name))
  const back = orphans.map(
    (socket) =>
      new Promise((resolve) => {
        socket.on('connect', () => isUp(socket).then(resolve))
      }),
  )
  await lost.kill()
  await Promise.all(back)
  await startLiveSite(t, lost.name, lost.address)
  for (const socket of sockets) t.equal(await ask(socket), `${other} by websocket`)
})

interface InPage {
  io(url: string, options: object): Socket
  readonly signalR: typeof import('@microsoft/signalr')
}

/** Runs in a page: `url` is '' for its own origin. Socket.IO first, then SignalR with each transport. */
async function converse(url: string): Promise<string[]> {
  const { io, signalR } = globalThis as unknown as InPage
  const socket = io(url || location.origin, {
    transports: ['polling', 'websocket'],
    withCredentials: true,
    reconnection: false,
  })
  const failure = await new Promise<string | null>((resolve) => {
    socket.io.engine.on('upgrade', () => resolve(null))
    socket.io.engine.on('upgradeError', ({ message }) => resolve(`no upgrade: ${message}`))
    socket.on('connect_error', ({ message }) => resolve(`no connection: ${message}`))
    socket.on('disconnect', (reason) => resolve(`disconnected: ${reason}`))
  })
  const answers = [failure ?? ((await socket.emitWithAck('whoAreYou')) as string)]
  socket.disconnect()
  for (const transport of [1, 2, 4]) {
    const connection = new signalR.HubConnectionBuilder()
      .withUrl(`${url}/hub`, { transport })
      .configureLogging(signalR.LogLevel.None)
      .build()
    try {
      await connection.start()
      answers.push(await connection.invoke('whoAreYou'))
      await connection.stop()
    } catch (error) {
      answers.push(`no connection: ${error}`)
    }
  }
  return answers
}

const EVERY_WAY = (name: string) =>
  ['websocket', 'WebSockets', 'ServerSentEvents', 'LongPolling'].map((way) => `${name} by ${way}`)

t.test(
  'Chromium: each visitor stays with one backend, in every way',
  { skip: withoutChromium },
  async (t) => {
    const browser = await startChromium(t)
    const visit = async (url: string) => {
      const context = await browser.newContext({ ignoreHTTPSErrors: true })
      const page = await context.newPage()
      await page.goto(url)
      const answers = await page.evaluate(converse, '')
      const cookies = await context.cookies()
      await context.close()
      return { answers, cookies }
    }
    const { http, https } = await startEdge(t, STICKY)
    const names = new Set<string>()
    for (const url of [http, https]) {
      for (let count = 0; count < 6; count += 1) {
        const { answers, cookies } = await visit(url)
        const [name = ''] = answers[0] ?? ''
        names.add(name)
        t.strictSame(answers, EVERY_WAY(name))
        t.match(cookies, [
          { name: 'headrace', path: '/', httpOnly: true, sameSite: 'Lax', secure: url === https },
        ])
        t.equal(cookies.length, 1)
      }
    }
    t.strictSame([...names].sort(), ['a', 'b'])

    const without = await startEdge(t, '')
    const { answers } = await visit(without.http)
    t.notSame(answers, EVERY_WAY(answers[0]?.[0] ?? ''))
  },
)

t.test(
  'Chromium: a page of another site, with sameSite none and partitioned',
  { skip: withoutChromium },
  async (t) => {
    const browser = await startChromium(t)
    const { https } = await startEdge(t, ', sticky: { cookie: headrace, sameSite: none, partitioned: on }')
    const names = new Set<string>()
    for (let count = 0; count < 8; count += 1) {
      const context = await browser.newContext({ ignoreHTTPSErrors: true })
      const page = await context.newPage()
      // The same program, by a name that makes it another site.
      await page.goto(https.replace('localhost', '127.0.0.1'))
      await context.clearCookies()
      const answers = await page.evaluate(converse, https)
      const [name = ''] = answers[0] ?? ''
      names.add(name)
      t.strictSame(answers, EVERY_WAY(name))
      await context.close()
    }
    t.strictSame([...names].sort(), ['a', 'b'])
  },
)
