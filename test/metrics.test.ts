// Metrics: what is counted of real connections, that no client makes more series, that all workers together are one and
// never go back, and that the dashboard and the alerts ask for what is there.

import { readFileSync } from 'node:fs'
import type { Test } from 'tap'
import t from 'tap'
import { METRICS, mergeSnapshots, renderMetrics } from '../src/index.ts'
import type { MetricName, MetricsSnapshot } from '../src/observe/metrics.ts'
import { createTotals } from '../src/process/totals.ts'
import type { UsageReport } from '../src/usage/report.ts'
import { selfSigned } from './support/certificates.ts'
import type { Fleet } from './support/control.ts'
import { ask, chatConfig, echoes, newFolder, openTunnel, startFleet, workersOf } from './support/control.ts'
import type { Exposition } from './support/exposition.ts'
import { readExposition } from './support/exposition.ts'
import { echo, startOrigin, upgradeRequest } from './support/origin.ts'
import { connectTo } from './support/peer.ts'
import { startProgram } from './support/program.ts'
import type { Started, Wanted } from './support/tunnel.ts'
import { startTunnel } from './support/tunnel.ts'

const readme = readFileSync(new URL('../../README.md', import.meta.url), 'utf8')

async function scrape({ tunnel }: Started): Promise<Exposition> {
  return readExposition((await renderMetrics(await tunnel.metrics())).text)
}

async function scrapeFleet(fleet: Fleet): Promise<Exposition> {
  return readExposition((await fleet.control('/metrics')).text)
}

async function startEcho(t: Test, wanted: Wanted = {}): Promise<Started> {
  const { address } = await startOrigin(t, { answer: echo })
  return await startTunnel(t, address, wanted)
}

async function answerOf(t: Test, address: string, request: string): Promise<string> {
  const client = await connectTo(t, address)
  client.write(request)
  return await client.until('\r\n\r\n')
}

const SERVED = { service: 'chat', backend: 'origin' }

for (const engine of ['auto', 'stream'] as const) {
  t.test(`a tunnel is counted from its accept to its end, engine ${engine}`, async (t) => {
    const started = await startEcho(t, { options: { engine } })
    const { headrace_engine_info } = await started.tunnel.metrics()
    const moves = headrace_engine_info?.[0]?.labels.engine ?? ''
    const before = await scrape(started)
    t.equal(before.value('headrace_tunnels_open', { ...SERVED, engine: moves }), 0)
    t.equal(before.value('headrace_tunnels_opened_total', SERVED), 0)
    t.equal(before.value('headrace_upgrades_total', { service: 'chat' }), 0)

    const clients = [await openTunnel(t, started.address), await openTunnel(t, started.address)]
    for (const client of clients) t.ok(await echoes(client, 'seven b'))
    const open = await scrape(started)
    t.equal(open.value('headrace_connections_accepted_total', { listener: started.address }), 2)
    t.equal(open.value('headrace_upgrades_total', { service: 'chat' }), 2)
    t.equal(open.value('headrace_tunnels_opened_total', SERVED), 2)
    t.equal(open.value('headrace_tunnels_open', { ...SERVED, engine: moves }), 2)
    t.equal(open.value('headrace_backend_connections', SERVED), 2)
    t.equal(open.value('headrace_bytes_total', { ...SERVED, direction: 'clientToOrigin' }), 14)
    t.equal(open.value('headrace_bytes_total', { ...SERVED, direction: 'originToClient' }), 14)
    t.equal(open.value('headrace_dial_seconds_count', SERVED), 2)
    t.equal(open.value('headrace_dial_seconds_bucket', { ...SERVED, le: '+Inf' }), 2)
    t.equal(open.value('headrace_handshake_seconds_count', { service: 'chat' }), 2)
    t.equal(open.value('headrace_phase_seconds_count', { phase: 'head' }), 2)
    const dial = open.value('headrace_dial_seconds_sum', SERVED) ?? 0
    t.ok(dial > 0 && dial <= (open.value('headrace_handshake_seconds_sum') ?? 0), `${dial} s`)

    clients[0]?.end()
    t.match(await started.closed(), { end: 'client-fin-tunnel' })
    clients[1]?.reset()
    t.match(await started.closed(), { end: 'client-reset-tunnel' })
    const closed = await scrape(started)
    t.equal(closed.value('headrace_tunnels_open', SERVED), 0)
    t.equal(closed.value('headrace_tunnels_opened_total', SERVED), 2)
    t.equal(closed.value('headrace_bytes_total', { ...SERVED, direction: 'originToClient' }), 14)
    t.equal(closed.value('headrace_ends_total', { service: 'chat', end: 'client-fin-tunnel' }), 1)
    t.equal(closed.value('headrace_ends_total', { service: 'chat', end: 'client-reset-tunnel' }), 1)
  })
}

t.test('refusals by their code and end, plain answers by their class', async (t) => {
  const routes = [{ match: { path: '/here' }, respond: { status: 200 } }, { handoff: 'origin' }]
  const started = await startEcho(t, { service: { domains: ['chat.test'], routes } })
  const { address } = started
  t.match(await answerOf(t, address, upgradeRequest({ Host: 'other.test' })), / 421 /)
  t.match(await answerOf(t, address, upgradeRequest({ 'Sec-WebSocket-Version': '12' })), / 426 /)
  t.match(await answerOf(t, address, 'GET /here HTTP/1.1\r\nHost: chat.test\r\n\r\n'), / 200 /)
  await started.tunnel.websockets('chat', 'off')
  t.match(await answerOf(t, address, upgradeRequest()), / 403 /)
  const seen = await scrape(started)
  t.equal(seen.value('headrace_refusals_total', { service: '', code: 'service-unknown' }), 1)
  t.equal(seen.value('headrace_refusals_total', { service: '', code: 'websocket-version' }), 1)
  t.equal(seen.value('headrace_refusals_total', { service: 'chat', code: 'websockets-off' }), 1)
  t.equal(seen.value('headrace_ends_total', { service: 'chat', end: 'edge-refused-gate' }), 1)
  t.equal(seen.value('headrace_requests_answered_total', { service: 'chat', status: '2xx' }), 1)
  // It was valid, and its service known: the switch came after.
  t.equal(seen.value('headrace_upgrades_total', { service: 'chat' }), 1)
})

t.test('when certificates expire, by listener and name', async (t) => {
  const notAfter = new Date('2031-02-03T04:05:06Z')
  const { certificate, key } = await selfSigned({ names: ['chat.test', 'two.test'], notAfter })
  const started = await startEcho(t, {
    listeners: [{ address: '127.0.0.1:0', tls: { certificate, key } }],
  })
  const labels = { listener: started.address, name: 'chat.test' }
  const seen = await scrape(started)
  t.equal(seen.value('headrace_certificate_expiry_timestamp_seconds', labels), notAfter.getTime() / 1_000)
})

t.test('what a gate decides, and a spike while it lasts', async (t) => {
  const rules = [{ name: 'no-bots', headers: { 'User-Agent': 'bot' }, action: 'deny' as const }]
  const started = await startEcho(t, { service: { gate: { rules, expectedConnections: 1 } } })
  const { address } = started
  t.match(await answerOf(t, address, upgradeRequest({ 'User-Agent': 'bot' })), / 403 /)
  const [one, other] = [await openTunnel(t, address), await openTunnel(t, address)]
  const above = await scrape(started)
  t.equal(above.value('headrace_gate_decisions_total', { service: 'chat', rule: 'no-bots' }), 1)
  t.equal(above.value('headrace_refusals_total', { service: 'chat', code: 'rule-denied' }), 1)
  t.equal(above.value('headrace_spike', { service: 'chat' }), 1)
  t.equal(above.value('headrace_spikes_total', { service: 'chat' }), 1)
  t.equal(above.value('headrace_expected_connections', { service: 'chat' }), 1)
  t.equal(above.value('headrace_minutes_total', { service: 'chat' }), 2)
  for (const client of [one, other]) {
    client?.end()
    await started.closed()
  }
  const calm = await scrape(started)
  t.equal(calm.value('headrace_spike', { service: 'chat' }), 0)
  t.equal(calm.value('headrace_spikes_total', { service: 'chat' }), 1)
})

t.test('a backend that fails: by kind, and that it is unhealthy', async (t) => {
  const { address: live } = await startOrigin(t, { answer: echo })
  const dead = { name: 'dead', address: '127.0.0.1:1', ejection: { failures: 2 } }
  const started = await startTunnel(t, live, {
    service: {
      backends: [{ name: 'origin', address: live }, dead],
      directors: [{ name: 'all', policy: 'fallback', backends: ['dead', 'origin'] }],
      routes: [{ handoff: 'all' }],
    },
  })
  for (let at = 0; at < 3; at += 1) t.ok(await echoes(await openTunnel(t, started.address), 'twelve bytes'))
  const labels = { service: 'chat', backend: 'dead' }
  const seen = await scrape(started)
  t.equal(seen.value('headrace_backend_failures_total', { ...labels, code: 'dial-refused' }), 2)
  t.equal(seen.value('headrace_backend_healthy', labels), 0)
  t.equal(seen.value('headrace_backend_unhealthy_total', labels), 1)
  t.equal(seen.value('headrace_backend_healthy', SERVED), 1)
  t.equal(seen.value('headrace_backend_unhealthy_total', SERVED), 0)
  t.equal(seen.value('headrace_tunnels_opened_total', SERVED), 3)
  t.equal(seen.value('headrace_refusals_total'), undefined)
})

t.test('whoever asks for strange things makes no series', async (t) => {
  const started = await startEcho(t)
  const { address } = started
  const strange = (at: number) => [
    upgradeRequest({ Host: `h${at}.test`, Origin: `https://o${at}.test`, 'User-Agent': `u${at}` }, `/p${at}`),
    upgradeRequest({ Host: `h${at}.test`, 'Sec-WebSocket-Version': `${at + 20}` }, `/p${at}?q=${at}`),
    upgradeRequest({ 'Sec-WebSocket-Key': `k${at}` }),
    `GET /p${at} HTTP/1.1\r\nHost: h${at}.test\r\nX-${at}: ${at}\r\n\r\n`,
    `M${at} / HTTP/1.1\r\n\r\n`,
    `GET http://h${at}.test/ HTTP/1.0\r\n\r\n`,
  ]
  const ask = async (at: number) => {
    for (const request of strange(at)) await answerOf(t, address, request)
  }
  await ask(0)
  const before = await scrape(started)
  for (let at = 1; at <= 30; at += 1) await ask(at)
  const after = await scrape(started)
  t.same([...after.series.keys()].sort(), [...before.series.keys()].sort())
  t.equal(after.value('headrace_upgrades_total'), 31)
  t.ok((after.value('headrace_refusals_total') ?? 0) > 60)
  t.ok(after.series.size < 300, `${after.series.size} series`)
})

t.test(
  'both formats; every metric has a name and a unit as Prometheus wants them, and stands in the README',
  async (t) => {
    const snapshot = await (await startEcho(t)).tunnel.metrics()
    t.same(JSON.parse(JSON.stringify(snapshot)), snapshot)
    const plain = await renderMetrics(snapshot)
    t.equal(plain.type, 'text/plain; version=0.0.4; charset=utf-8')
    const { types } = readExposition(plain.text)
    t.same([...types.keys()], Object.keys(METRICS))
    const open = await renderMetrics(
      snapshot,
      'application/openmetrics-text; version=1.0.0, text/plain;q=0.5',
    )
    t.equal(open.type, 'application/openmetrics-text; version=1.0.0; charset=utf-8')
    t.match(open.text, /# TYPE headrace_upgrades counter\nheadrace_upgrades_total\{service="chat"\} 0\n/)
    t.match(open.text, /\n# EOF\n$/)
    for (const [name, { kind, labels }] of Object.entries(METRICS)) {
      t.equal(name.endsWith('_total'), kind === 'counter', name)
      if (kind === 'histogram') t.match(name, /_seconds$/)
      const given = labels.map((label: string) => `\`${label}\``).join(', ')
      t.ok(readme.includes(`| \`${name}\` | ${given || '–'} |`), `${name} with ${given || '–'} in the README`)
    }
  },
)

t.test('all workers are one scrape; who reads needs a token where there are tokens', async (t) => {
  const { address } = await startOrigin(t, { answer: echo })
  const admin = 'admin: { address: "127.0.0.1:0", tokens: tokens.json }\n'
  const folder = newFolder(t, { 'tokens.json': '{"version":1,"tokens":[]}' })
  const fleet = await startFleet(t, chatConfig(address, `workers: 2\n${admin}`), { folder })
  const clients = []
  for (let at = 0; at < 24; at += 1) clients.push(await fleet.open())
  for (const client of clients) t.ok(await echoes(client, 'twelve bytes'))
  const seen = await scrapeFleet(fleet)
  t.equal(seen.value('headrace_tunnels_open', SERVED), 24)
  t.equal(seen.value('headrace_connections_accepted_total', { listener: fleet.address }), 24)
  t.equal(seen.value('headrace_bytes_total', { ...SERVED, direction: 'clientToOrigin' }), 24 * 12)
  for (const worker of ['worker-0', 'worker-1']) {
    t.equal(seen.value('headrace_worker_up', { worker }), 1)
    t.equal(seen.value('headrace_worker_restarts_total', { worker }), 0)
    t.ok((seen.value('headrace_worker_memory_bytes', { worker, kind: 'rss' }) ?? 0) > 1e7)
    t.ok((seen.value('headrace_worker_cpu_seconds_total', { worker }) ?? 0) > 0)
    t.ok((seen.value('headrace_event_loop_delay_seconds', { worker, statistic: 'max' }) ?? -1) >= 0)
  }
  t.equal(seen.value('headrace_build_info'), 1)
  t.equal(seen.value('headrace_draining'), 0)
  t.equal(seen.value('headrace_minutes_total', { service: 'chat' }), 24)
  const [line] = await fleet.says('admin API listens')
  t.match(await ask(String(line?.address), '/metrics'), { status: 401 })
  t.match(await fleet.control('/metrics', { headers: { Accept: 'application/openmetrics-text' } }), {
    status: 200,
    headers: { 'content-type': 'application/openmetrics-text; version=1.0.0; charset=utf-8' },
  })
})

t.test('usage of a month, as the command says it, of all workers', async (t) => {
  const { address } = await startOrigin(t, { answer: echo })
  const fleet = await startFleet(t, chatConfig(address))
  for (let at = 0; at < 24; at += 1) t.ok(await echoes(await fleet.open(), 'twelve bytes'))
  const month = new Date().toISOString().slice(0, 7)
  const report = async () => (await fleet.control('/usage')).json as UsageReport
  // It is written four times a second.
  while ((await report()).total.bytes.originToClient < 24 * 12) await new Promise(setImmediate)
  const { services, total } = await report()
  t.match(services, [{ service: 'chat', connections: 24, minutes: 24, bytes: { clientToOrigin: 24 * 12 } }])
  t.equal(total.minutes, 24)
  const words = ['usage', '--config', 'headrace.yaml', '--month', month, '--json']
  const { stdout } = await startProgram(t, words, { cwd: fleet.folder }).ended
  t.same((await fleet.control(`/usage?month=${month}&service=chat`)).json, JSON.parse(stdout))
  t.match(await fleet.control('/usage?month=2020-01'), {
    status: 200,
    json: { services: [], total: { minutes: 0 } },
  })
  t.match(await fleet.control('/usage?month=13'), { status: 400, json: { code: 'argument-invalid' } })
  t.match(await fleet.control('/usage?service=none'), { status: 404, json: { detail: 'no service "none"' } })
  t.match(await fleet.control('/usage?year=2020'), { status: 400 })
})

t.test('a worker that is killed takes no total back', async (t) => {
  const { address } = await startOrigin(t, { answer: echo })
  const fleet = await startFleet(t, chatConfig(address))
  for (let at = 0; at < 24; at += 1) t.ok(await echoes(await fleet.open(), 'twelve bytes'))
  const before = await scrapeFleet(fleet)
  const { json } = await fleet.control('/workers')
  const { workers } = json as { workers: { name: string; pid: number }[] }
  process.kill(workers[0]?.pid ?? 0, 'SIGKILL')
  await fleet.says('a process has died')
  const without = await scrapeFleet(fleet)
  await fleet.says('a process was replaced')
  t.ok(await echoes(await fleet.open(), 'twelve bytes'))
  const after = await scrapeFleet(fleet)
  for (const name of Object.keys(METRICS) as MetricName[]) {
    if (METRICS[name].kind !== 'counter') continue
    const [was, meanwhile, is] = [before, without, after].map((seen) => seen.value(name) ?? 0)
    t.ok(meanwhile !== undefined && meanwhile >= (was ?? 0), `${name}: ${was}, then ${meanwhile}`)
    t.ok(is !== undefined && is >= (meanwhile ?? 0), `${name}: ${meanwhile}, then ${is}`)
  }
  t.equal(after.value('headrace_tunnels_opened_total', SERVED), 25)
  t.equal(after.value('headrace_handshake_seconds_count'), 25)
  t.equal(after.value('headrace_worker_restarts_total', { worker: 'worker-0' }), 1)
  t.equal(after.value('headrace_worker_up'), 2)
  t.ok((after.value('headrace_tunnels_open', SERVED) ?? 25) < 25)
})

t.test(
  'while tunnels come and go and workers are killed, no counter of any series goes back or away',
  async (t) => {
    const { address } = await startOrigin(t, { answer: echo })
    const fleet = await startFleet(t, chatConfig(address))
    const ofCounters = ({ series, types }: Exposition) =>
      [...series].filter(([id]) => {
        const name = /^[a-z_]+/.exec(id)?.[0] ?? ''
        return (
          types.get(name) === 'counter' || types.get(name.replace(/_(bucket|sum|count)$/, '')) === 'histogram'
        )
      })
    let before = ofCounters(await scrapeFleet(fleet))
    let scrapes = 0
    const scrape = async () => {
      const seen = await scrapeFleet(fleet)
      for (const [id, value] of before) {
        const is = seen.series.get(id) ?? -1
        if (is < value) t.fail(`${id}: ${value}, then ${is}`)
      }
      before = ofCounters(seen)
      scrapes += 1
    }
    for (let deaths = 1; deaths <= 3; deaths += 1) {
      // A worker that dies takes some of them along.
      const talking = Array.from({ length: 20 }, async () => echoes(await fleet.open(), 'twelve bytes'))
      const all = Promise.allSettled(talking)
      await scrape()
      await Promise.any(talking)
      // In turn: one that dies again and again is told otherwise.
      const { pid = Number.NaN } = (await workersOf(fleet))[deaths % 2] ?? {}
      process.kill(pid, 'SIGKILL')
      while (fleet.said('a process has died').length < deaths) await scrape()
      while (fleet.said('a process was replaced').length < deaths) await scrape()
      await all
      await scrape()
    }
    t.ok(before.length > 50, `${before.length} series, ${scrapes} times`)
  },
)

t.test('lives of workers that end between and within scrapes count once', async (t) => {
  const told = (value: number): MetricsSnapshot => ({
    headrace_upgrades_total: [{ labels: { service: 'chat' }, value }],
    headrace_tunnels_open: [{ labels: { ...SERVED, engine: 'stream' }, value }],
    headrace_dial_seconds: [{ labels: SERVED, value, buckets: [value, 0] }],
  })
  const life = (answer: () => Promise<MetricsSnapshot>) => ({ ask: answer, cut() {} })
  const worker = (wire: unknown) => ({ name: 'worker-0', restarts: 0, wire, silence: { ms: null } }) as never
  const workers: never[] = [worker(life(async () => told(5)))]
  const totals = createTotals(workers)
  const sums = ({
    headrace_upgrades_total,
    headrace_tunnels_open,
    headrace_dial_seconds,
  }: MetricsSnapshot) => [
    headrace_upgrades_total?.[0]?.value,
    headrace_tunnels_open?.[0]?.value,
    headrace_dial_seconds?.[0]?.buckets?.[0],
  ]
  t.same(sums(await totals.gather()), [5, 5, 5])
  workers[0] = worker(life(async () => told(3)))
  t.same(sums(await totals.gather()), [8, 3, 8])
  t.same(sums(await totals.gather()), [8, 3, 8])
  // It dies while two ask it.
  let isDying = false
  workers[0] = worker(
    life(async () => {
      if (!isDying) return told(2)
      workers[0] = worker(null)
      throw new Error('it has died')
    }),
  )
  t.same(sums(await totals.gather()), [10, 2, 10])
  isDying = true
  const both = await Promise.all([totals.gather(), totals.gather()])
  for (const one of both) t.same(sums(one), [10, undefined, 10])
  t.same(sums(await totals.gather()), [10, undefined, 10])
  // One that does not answer is not over: it keeps what it had, and has it once when it answers again.
  let isSilent = false
  workers[0] = worker(
    life(async () => {
      if (isSilent) throw new Error('silent')
      return told(4)
    }),
  )
  t.same(sums(await totals.gather()), [14, 4, 14])
  isSilent = true
  t.same(sums(await totals.gather()), [14, undefined, 14])
  isSilent = false
  t.same(sums(await totals.gather()), [14, 4, 14])
})

t.test('a worker that dies before anybody has scraped keeps what it had counted a second ago', async (t) => {
  let looked = () => {}
  const isLooked = new Promise<void>((resolve) => {
    looked = resolve
  })
  const told = { headrace_upgrades_total: [{ labels: { service: 'chat' }, value: 5 }] }
  const ask = async () => {
    // It is kept in the turn after this one.
    setImmediate(looked)
    return told
  }
  const wire = { ask, cut() {} } as unknown
  const workers = [{ name: 'worker-0', restarts: 0, wire, silence: { ms: null } }]
  const totals = createTotals(workers as never)
  totals.watch()
  // The watch keeps no process alive.
  const awake = setInterval(() => {}, 1_000)
  await isLooked
  clearInterval(awake)
  if (workers[0] !== undefined) workers[0].wire = null
  t.equal((await totals.gather()).headrace_upgrades_total?.[0]?.value, 5)
})

t.test('of several processes: sums, the earliest, the latest', async (t) => {
  const labels = { listener: 'l', name: 'n' }
  const at = (value: number): MetricsSnapshot => ({
    headrace_certificate_expiry_timestamp_seconds: [{ labels, value }],
    headrace_draining: [{ labels: {}, value: value - 1 }],
  })
  t.same(mergeSnapshots([at(2), at(1)]), {
    headrace_certificate_expiry_timestamp_seconds: [{ labels, value: 1 }],
    headrace_draining: [{ labels: {}, value: 1 }],
  })
})
