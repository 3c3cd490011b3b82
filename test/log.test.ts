// The log of the program, as an operator reads it: one line when a tunnel is accepted, one when it ends, one for a refusal.

import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { echo, startOrigin, upgradeRequest } from './support/origin.ts'
import { connectTo } from './support/peer.ts'

const PROGRAM = fileURLToPath(new URL('../../dist/cli/headrace.js', import.meta.url))

interface Running {
  readonly address: string
  /** The next log line with this message. */
  line(message: string): Promise<Record<string, unknown>>
}

async function run(t: Test, config: string): Promise<Running> {
  const folder = t.testdir({
    'headrace.yaml': config,
    'edge.mjs': `export default (request, context) => {
      if (request.path === '/trap') context.log.trap = { toJSON() { throw new Error('from a log field') } }
      else context.log.room = 'seven'
      return { kind: 'handoff', backend: 'origin' }
    }`,
  })
  const child = spawn(process.execPath, [PROGRAM, 'run', '--config', `${folder}/headrace.yaml`], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  t.teardown(() => child.kill('SIGKILL'))
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const first = String((await lines.next()).value)
  return {
    address: first.replace('headrace listens on ', ''),
    async line(message) {
      for (;;) {
        const { value, done } = await lines.next()
        if (done) throw new Error(`the program ended before it said ${message}`)
        const line = JSON.parse(String(value)) as Record<string, unknown>
        if (line.msg === message) return line
      }
    },
  }
}

t.test('accept line, end line, refusal; nothing secret in them', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const program = await run(
    t,
    `
listeners: [{ address: 127.0.0.1:0 }]
services:
  - id: chat
    domains: [chat.test]
    websockets: on
    backends: [{ name: origin, address: ${origin.address} }]
    handler: ./edge.mjs
log: { headers: [User-Agent, Authorization, Cookie, Sec-WebSocket-Key, X-Secret], redact: [x-secret] }
`,
  )
  const client = await connectTo(t, program.address)
  const secrets = { Authorization: 'Bearer hush', Cookie: 'hush', 'X-Secret': 'hush', 'User-Agent': 'test' }
  client.write(`${upgradeRequest(secrets, '/chat?token=hush')}12345`)
  await client.until('12345')
  const accepted = await program.line('tunnel accepted')
  t.match(accepted, {
    level: 'info',
    service: 'chat',
    backend: 'origin',
    engine: /^(epoll|stream)$/,
    listener: program.address,
    client: '127.0.0.1',
    origin: origin.address,
    path: '/chat',
    extra: { room: 'seven' },
    headers: {
      'user-agent': 'test',
      authorization: '[redacted]',
      cookie: '[redacted]',
      'sec-websocket-key': '[redacted]',
      'x-secret': '[redacted]',
    },
  })
  client.end()
  const closed = await program.line('tunnel closed')
  t.equal(closed.id, accepted.id)
  t.match(closed, { end: 'client-fin-tunnel', bytes: { clientToOrigin: 5, originToClient: 5 } })
  t.same(Object.keys(closed.phasesMs as object), [
    'accept',
    'tls',
    'head',
    'gate',
    'decide',
    'dial',
    'answer',
  ])
  t.notMatch(JSON.stringify([accepted, closed]), /hush/)

  const stranger = await connectTo(t, program.address)
  stranger.write(upgradeRequest({ Host: 'nobody.test' }))
  const answer = await stranger.all()
  const refused = await program.line('request refused')
  t.match(refused, { code: 'service-unknown', status: 421, end: 'edge-refused-head', path: '/chat' })
  t.match(answer, new RegExp(`X-Request-Id: ${String(refused.id)}\r\n`))

  const trapped = await connectTo(t, program.address)
  trapped.write(`${upgradeRequest({}, '/trap')}still served`)
  await trapped.until('still served')
  t.match(
    await program.line('tunnel accepted'),
    { path: '/trap' },
    'a field that throws costs nobody the line',
  )
})
