// Reload of an edge in this process: whatever is edited, right or wrong, the behaviour is that of the old config or that of the
// new one, and never half of each; and what goes on of a backend that has not changed.

import { setTimeout as wait } from 'node:timers/promises'
import fc from 'fast-check'
import type { Test } from 'tap'
import t from 'tap'
import type { ConfigInput, Tunnel } from '../src/index.ts'
import { createTunnel } from '../src/index.ts'
import { socketPath } from './support/accepting.ts'
import { ask } from './support/control.ts'
import { echo, startOrigin, upgradeRequest } from './support/origin.ts'
import type { Peer } from './support/peer.ts'
import { connectTo } from './support/peer.ts'
import type { BackendInput } from './support/tunnel.ts'
import { startTunnel } from './support/tunnel.ts'

const IDS = ['a', 'b', 'c'] as const

const FAULTS = {
  none: (config: ConfigInput) => config,
  'an unknown key': (config: ConfigInput) => ({ ...config, enginee: 'auto' }),
  'a domain twice': (config: ConfigInput) => ({
    ...config,
    services: config.services.map((one) => ({ ...one, domains: [...one.domains, ...one.domains] })),
  }),
  'a handler that is not there': (config: ConfigInput) => ({
    ...config,
    services: config.services.map(({ routes: _, ...one }) => ({ ...one, handler: '/nowhere/edge.mjs' })),
  }),
  'a listener that can not be opened': (config: ConfigInput) => ({
    ...config,
    listeners: [...(config.listeners ?? []), { address: '192.0.2.1:1' }],
  }),
  'a certificate that is not there': (config: ConfigInput) => ({
    ...config,
    listeners: (config.listeners ?? []).map((one) => ({
      ...one,
      tls: { certificate: '/nowhere/cert.pem', key: '/nowhere/key.pem' },
    })),
  }),
  'another engine': (config: ConfigInput) => ({ ...config, engine: 'epoll' as const }),
  'an address range that is none': (config: ConfigInput) => ({
    ...config,
    listeners: (config.listeners ?? []).map((one) => ({ ...one, forwarded: { from: ['10.0.0.0/40'] } })),
  }),
} satisfies Record<string, (config: ConfigInput) => object>

interface Wish {
  readonly ids: readonly (typeof IDS)[number][]
  readonly word: string
  readonly isOn: boolean
  readonly hasSocket: boolean
  readonly fault: keyof typeof FAULTS
}

const wishes = fc.record<Wish>({
  ids: fc.subarray([...IDS], { minLength: 1 }),
  word: fc.constantFrom('one', 'two', 'three'),
  isOn: fc.boolean(),
  hasSocket: fc.boolean(),
  fault: fc.oneof(
    { weight: 1, arbitrary: fc.constant<keyof typeof FAULTS>('none') },
    { weight: 1, arbitrary: fc.constantFrom(...(Object.keys(FAULTS) as (keyof typeof FAULTS)[])) },
  ),
})

function configOf(
  { ids, word, isOn, hasSocket }: Omit<Wish, 'fault'>,
  path: string,
  origin: string,
): ConfigInput {
  return {
    engine: 'stream',
    listeners: [{ address: '127.0.0.1:0' }, ...(hasSocket ? [{ address: `unix:${path}` }] : [])],
    services: ids.map((id) => ({
      id,
      domains: [`${id}.test`],
      websockets: isOn,
      backends: [{ name: 'origin', address: origin }],
      routes: [
        { match: { upgrade: 'websocket' as const }, handoff: 'origin' },
        { respond: { status: 200, body: `${id} says ${word}` } },
      ],
    })),
  }
}

function expected({ ids, word, isOn, hasSocket }: Omit<Wish, 'fault'>): unknown {
  const seen = IDS.map((id) =>
    ids.includes(id) ? [`200 ${id} says ${word}`, isOn ? '101' : '403'] : ['421', '421'],
  )
  return { seen, isOnSocket: hasSocket }
}

async function observed(t: Test, address: string, path: string): Promise<unknown> {
  const seen = await Promise.all(
    IDS.map(async (id) => {
      const { status, text } = await ask(address, '/', {
        headers: { Host: `${id}.test`, Connection: 'close' },
      })
      const client = await connectTo(t, address)
      client.write(upgradeRequest({ Host: `${id}.test` }))
      const [, answer = ''] = /^HTTP\/1\.1 ([0-9]+)/.exec(await client.until('\r\n\r\n')) ?? []
      client.socket.destroy()
      return [status === 200 ? `200 ${text}` : String(status), answer]
    }),
  )
  const isOnSocket = await ask(`unix:${path}`, '/').then(
    () => true,
    () => false,
  )
  return { seen, isOnSocket }
}

t.test('whatever is edited, the behaviour is that of one config, whole', { timeout: 200_000 }, async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const path = await socketPath(t)
  let current: Omit<Wish, 'fault'> = { ids: ['a'], word: 'one', isOn: true, hasSocket: false }
  const tunnel = createTunnel(configOf(current, path, origin.address))
  t.teardown(() => tunnel.close())
  const { addresses } = await tunnel.listen()
  const [address = ''] = addresses
  const client = await openOf(t, address)
  let count = 0
  await fc.assert(
    fc.asyncProperty(wishes, async (wish) => {
      const config = FAULTS[wish.fault](configOf(wish, path, origin.address)) as ConfigInput
      const isDone = await tunnel.reload(config).then(
        () => true,
        () => false,
      )
      if (isDone !== (wish.fault === 'none')) throw new Error(`${wish.fault}: ${isDone}`)
      if (isDone) current = wish
      const [is, shall] = [await observed(t, address, path), expected(current)].map((one) =>
        JSON.stringify(one),
      )
      if (is !== shall) throw new Error(`${is} is not ${shall}`)
      count += 1
      client.write(`${count}.`)
      await client.until(`${count}.`)
    }),
    { numRuns: 150, endOnFailure: true },
  )
  t.ok(count >= 150)
})

async function openOf(t: Test, address: string): Promise<Peer> {
  const client = await connectTo(t, address)
  client.write(upgradeRequest({ Host: 'a.test' }))
  await client.until('\r\n\r\n')
  return client
}

t.test('a reload that fails says everything that is wrong, and what can not be changed', async (t) => {
  const { tunnel } = await startTunnel(t, '127.0.0.1:1', { options: { engine: 'stream' } })
  const service = { id: 'chat', domains: ['*'], backends: [{ name: 'origin', address: '127.0.0.1:1' }] }
  await t.rejects(
    tunnel.reload({ services: [{ ...service, domains: [] }], engine: 'stream', drainTimeout: 'x' }),
    {
      code: 'config-invalid',
      detail: /services\[0\]\.domains[\s\S]*drainTimeout/,
    },
  )
  await t.rejects(tunnel.reload({ services: [service], engine: 'epoll' }), {
    code: 'config-invalid',
    detail: "engine: stream can't be changed by a reload; create another tunnel for that",
  })
})

/** The options of `startTunnel`, with other backends. */
function withBackends(backends: readonly BackendInput[], more: object = {}): ConfigInput {
  const service = { id: 'chat', domains: ['*'], websockets: 'on' as const, backends: [...backends], ...more }
  return { services: [service] }
}

t.test('of a backend that stays, its open connections count, also if its limit changes', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const { tunnel, address } = await startTunnel(t, origin.address, { backend: { maxConnections: 1 } })
  const backend = { name: 'origin', address: origin.address }
  const first = await openOf(t, address)
  await tunnel.reload(withBackends([{ ...backend, maxConnections: 1 }], { forwarded: true }))
  t.match(await headOf(t, address), /^HTTP\/1\.1 503 /)
  await tunnel.reload(withBackends([{ ...backend, maxConnections: 2 }]))
  t.match(tunnel.backends(), [{ connections: 1 }])
  const second = await openOf(t, address)
  t.match(second.text, /^HTTP\/1\.1 101 /)
  t.match(await headOf(t, address), /^HTTP\/1\.1 503 /)
  t.match(tunnel.backends(), [{ connections: 2, failures: { 'backend-full': 2 } }])
  for (const client of [first, second]) {
    client.end()
    await client.all()
  }
  await empty(tunnel)
  t.match(tunnel.backends(), [{ connections: 0 }])
})

async function headOf(t: Test, address: string): Promise<string> {
  const client = await connectTo(t, address)
  client.write(upgradeRequest())
  const head = await client.until('\r\n\r\n')
  client.socket.destroy()
  return head
}

async function empty(tunnel: Tunnel): Promise<void> {
  while (tunnel.size > 0) await wait(5)
}

t.test('an ejected backend stays so, until its address is another', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const dead = { name: 'a', address: '127.0.0.1:1', ejection: { failures: 1, for: '10m', max: '10m' } }
  const well = { name: 'b', address: origin.address }
  const directors = [{ name: 'pool', backends: ['a', 'b'], policy: 'fallback' as const }]
  const { tunnel, address } = await startTunnel(t, origin.address, {
    service: { backends: [dead, well], directors },
  })
  t.match(await headOf(t, address), /^HTTP\/1\.1 101 /)
  t.match(tunnel.backends(), [
    { health: 'unhealthy', failures: { 'dial-refused': 1 } },
    { health: 'healthy' },
  ])
  await tunnel.reload(withBackends([{ ...dead, connectTimeout: '2s' }, well], { directors }))
  t.match(tunnel.backends(), [
    { health: 'unhealthy', failures: { 'dial-refused': 1 } },
    { health: 'healthy' },
  ])
  await tunnel.reload(withBackends([{ ...dead, address: origin.address }, well], { directors }))
  t.match(tunnel.backends(), [{ health: 'healthy', failures: { 'dial-refused': 1 } }, { health: 'healthy' }])
})

t.test('checks of a removed backend stop, those of a new one begin, the others go on', async (t) => {
  const [kept, removed, added] = await Promise.all([startOrigin(t), startOrigin(t), startOrigin(t)])
  const health = { check: 'tcp' as const, interval: '50ms' }
  const routes = [{ handoff: 'kept' }]
  const { tunnel } = await startTunnel(t, kept.address, {
    service: {
      backends: [
        { name: 'kept', address: kept.address, health },
        { name: 'removed', address: removed.address, health },
      ],
      routes,
    },
  })
  while (kept.count < 2 || removed.count < 2) await wait(5)
  const passed = tunnel.backends()[0]?.checks.passed ?? 0
  await tunnel.reload(
    withBackends(
      [
        { name: 'kept', address: kept.address, health },
        { name: 'added', address: added.address, health },
      ],
      { routes },
    ),
  )
  const { count } = removed
  while (added.count < 5 || (tunnel.backends()[0]?.checks.passed ?? 0) < passed + 5) await wait(5)
  t.ok(removed.count <= count + 1, 'one may have been on its way')
  const { headrace_backend_checks_total: series = [] } = await tunnel.metrics()
  t.strictSame([...new Set(series.map(({ labels }) => labels.backend))], ['kept', 'added'])
})
