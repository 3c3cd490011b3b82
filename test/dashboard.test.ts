// What docs/ has for Prometheus and Grafana: valid to promtool, and about what a running program has.

import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import t from 'tap'
import { parse } from 'yaml'
import type { MetricName } from '../src/observe/metrics.ts'
import { METRICS } from '../src/observe/metrics.ts'
import { selfSigned } from './support/certificates.ts'
import type { Fleet } from './support/control.ts'
import { newFolder, openTunnel, startFleet } from './support/control.ts'
import { readExposition } from './support/exposition.ts'
import { echo, startOrigin, upgradeRequest } from './support/origin.ts'
import { connectTo } from './support/peer.ts'
import { skipWithout } from './support/tools.ts'

const PROMTOOL = 'promtool'
const skip = skipWithout(PROMTOOL)

const ALERTS = new URL('../../docs/prometheus/alerts.yaml', import.meta.url).pathname
const DASHBOARD = new URL('../../docs/grafana/headrace.json', import.meta.url).pathname

interface Place {
  readonly x: number
  readonly y: number
  readonly w: number
  readonly h: number
}

interface Target {
  readonly refId: string
  readonly expr: string
}

interface Panel {
  readonly id: number
  readonly type: string
  readonly title: string
  readonly gridPos: Place
  readonly datasource?: { readonly type: string; readonly uid: string }
  readonly targets?: readonly Target[]
}

interface Variable {
  readonly name: string
  readonly type: string
  readonly query: string | { readonly query: string; readonly refId: string }
}

interface Dashboard {
  readonly title: string
  readonly uid: string
  readonly schemaVersion: number
  readonly id?: null
  readonly time: { readonly from: string; readonly to: string }
  readonly panels: readonly Panel[]
  readonly templating: { readonly list: readonly Variable[] }
}

interface Rule {
  readonly alert: string
  readonly expr: string
  readonly labels: object
  readonly annotations: object
}

const dashboard = JSON.parse(readFileSync(DASHBOARD, 'utf8')) as Dashboard
const targets = dashboard.panels.flatMap((panel) => panel.targets ?? [])
const rules = (parse(readFileSync(ALERTS, 'utf8')) as { groups: { rules: Rule[] }[] }).groups.flatMap(
  (group) => group.rules,
)
/** All that asks Prometheus for something; of a query variable what it takes the values from. */
const expressions = [
  ...targets.map(({ expr }) => expr),
  ...rules.map(({ expr }) => expr),
  ...dashboard.templating.list.flatMap(({ query }) =>
    typeof query === 'string'
      ? []
      : (/^label_values\((.*), ?[a-z]+\)$/.exec(query.query)?.[1] ?? query.query),
  ),
]

/** The metrics in an expression, as Prometheus has them, and the labels that it asks of them. */
function namesIn(expression: string): string[] {
  return [...expression.matchAll(/\bheadrace_[a-z_]+/g)].map(([name]) => name)
}

const family = (name: string) => name.replace(/_(bucket|sum|count)$/, '')

function labelsIn(expression: string): string[] {
  const matched = [...expression.matchAll(/\{([^}]*)\}/g)].flatMap(([, inside = '']) =>
    [...inside.matchAll(/([a-z_]+)\s*(?:=~|!~|!=|=)/g)].map(([, label = '']) => label),
  )
  const grouped = [...expression.matchAll(/\b(?:by|on|ignoring|without)\s*\(([^)]*)\)/g)].flatMap(
    ([, inside = '']) => inside.split(',').map((label) => label.trim()),
  )
  return [...matched, ...grouped].filter((label) => label !== '' && label !== 'le')
}

t.test('every metric has a panel, and every expression labels that its metrics have', (t) => {
  for (const expression of expressions) {
    const names = namesIn(expression).map(family)
    t.ok(names.length > 0, expression)
    const labels = new Set<string>(['job', 'instance'])
    for (const name of names) {
      t.ok(Object.hasOwn(METRICS, name), `${name} in ${expression}`)
      for (const label of METRICS[name as MetricName]?.labels ?? []) labels.add(label)
    }
    for (const label of labelsIn(expression)) t.ok(labels.has(label), `${label} in ${expression}`)
  }
  const shown = new Set(targets.flatMap(({ expr }) => namesIn(expr).map(family)))
  for (const name of Object.keys(METRICS)) t.ok(shown.has(name), `${name} has a panel`)
  t.end()
})

t.test('the dashboard has what Grafana imports, and no panel lies on another', (t) => {
  const { title, uid, schemaVersion, time, panels, templating } = dashboard
  t.match(
    { title, uid, time },
    { title: /./, uid: /^[A-Za-z0-9_-]{1,40}$/, time: { from: /^now-/, to: 'now' } },
  )
  t.ok(Number.isInteger(schemaVersion) && schemaVersion >= 36, 'with data sources as objects')
  t.notOk(dashboard.id, 'an id is the one of somebody’s own Grafana')
  const variables = new Set(templating.list.map(({ name }) => name))
  t.equal(templating.list[0]?.type, 'datasource', 'the others ask it')
  for (const of of ['id', 'title'] as const)
    t.equal(new Set(panels.map((one) => one[of])).size, panels.length)
  const taken = new Set<string>()
  for (const { type, title: name, gridPos, datasource, targets: asked = [] } of panels) {
    t.match(type, /^(row|stat|timeseries|table|gauge|bargauge)$/, name)
    const { x, y, w, h } = gridPos
    t.ok(x >= 0 && w > 0 && x + w <= 24 && h > 0, `${name} is in the grid`)
    for (let at = 0; at < w * h; at += 1) {
      const square = `${x + (at % w)} ${y + Math.floor(at / w)}`
      t.notOk(taken.has(square), `${name} at ${square}`)
      taken.add(square)
    }
    t.equal(asked.length > 0, type !== 'row', `${name} asks for something`)
    if (type === 'row') continue
    t.match(datasource, { type: 'prometheus', uid: /^\${datasource}$/ }, name)
    t.equal(new Set(asked.map(({ refId }) => refId)).size, asked.length, name)
    for (const { expr } of asked) {
      for (const [, variable = ''] of expr.matchAll(/\$\{?(\w+)/g)) {
        t.ok(variables.has(variable) || variable === '__rate_interval', `$${variable} of ${name}`)
      }
    }
  }
  t.end()
})

t.test('the alerts say what has happened, how bad it is and what to do', (t) => {
  t.ok(rules.length >= 5)
  for (const { alert, labels, annotations } of rules) {
    t.match(alert, /^Headrace[A-Z]/)
    t.match(labels, { severity: /^(warning|critical)$/ })
    t.match(annotations, { summary: /./, description: /./ })
  }
  t.end()
})

function promtool(words: readonly string[], input = ''): { status: number | null; said: string } {
  const { status, stdout, stderr, error } = spawnSync(PROMTOOL, words, { input, encoding: 'utf8' })
  return { status, said: error?.message ?? stdout + stderr }
}

t.test('promtool takes the alerts, and what the panels ask', { skip }, (t) => {
  const alerts = promtool(['check', 'rules', '--lint-fatal', ALERTS])
  t.equal(alerts.status, 0, alerts.said)
  t.match(alerts.said, `${rules.length} rules found`)
  // As recording rules: Grafana's own words are replaced as Grafana does.
  const recorded = targets.map(({ expr }, at) => ({
    record: `panel:expression:${at}`,
    expr: expr.replaceAll('$__rate_interval', '1m').replace(/\$(job|service)/g, '.*'),
  }))
  const file = join(newFolder(t), 'panels.yaml')
  writeFileSync(file, JSON.stringify({ groups: [{ name: 'panels', rules: recorded }] }))
  const panels = promtool(['check', 'rules', file])
  t.equal(panels.status, 0, panels.said)
  writeFileSync(
    file,
    JSON.stringify({ groups: [{ name: 'panels', rules: [{ record: 'a', expr: 'sum(' }] }] }),
  )
  t.not(promtool(['check', 'rules', file]).status, 0, 'it does look')
  t.end()
})

/** A program in which everything has happened that has a metric. */
async function eventful(t: Test): Promise<Fleet> {
  const origin = await startOrigin(t, { answer: echo })
  const plain = await startOrigin(t, {
    answer: (peer) =>
      void peer.until('\r\n\r\n').then(
        () => peer.end('HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n'),
        () => {},
      ),
  })
  const dead = await startOrigin(t)
  await dead.stop()
  const { certificate, key } = await selfSigned({ names: ['localhost'] })
  const folder = newFolder(t, { 'cert.pem': certificate, 'key.pem': key })
  const fleet = await startFleet(
    t,
    `listeners:
  - address: 127.0.0.1:0
  - { address: "127.0.0.1:0", tls: { certificate: cert.pem, key: key.pem } }
services:
  - id: chat
    domains: ["*"]
    websockets: on
    backends:
      - { name: origin, address: "${origin.address}", health: { check: tcp, interval: 100ms } }
      - { name: plain, address: "${plain.address}" }
      - { name: dead, address: "${dead.address}" }
    routes:
      - { match: { upgrade: websocket, path: /dead }, handoff: dead }
      - { match: { upgrade: websocket }, handoff: origin }
      - send: plain
    gate:
      expectedConnections: 1
      rules: [{ name: nobody, path: /nobody, action: deny }]
workers: 2
`,
    { folder },
  )
  for (let at = 0; at < 3; at += 1) (await openTunnel(t, fleet.address)).end()
  await openTunnel(t, fleet.address)
  for (const request of [
    upgradeRequest({}, '/nobody'),
    upgradeRequest({}, '/dead'),
    'GET / HTTP/1.1\r\nHost: chat.test\r\nConnection: close\r\n\r\n',
  ]) {
    const client = await connectTo(t, fleet.address)
    client.write(request)
    await client.all()
  }
  await fleet.says('tunnel closed', 3)
  return fleet
}

t.test(
  'a running program has all that is asked for, in the form that promtool likes',
  { skip },
  async (t) => {
    const fleet = await eventful(t)
    const wanted = [...new Set(expressions.flatMap(namesIn))]
    const missingIn = (text: string) => {
      const { value } = readExposition(text)
      return wanted.filter((name) => value(name) === undefined)
    }
    let { text } = await fleet.control('/metrics')
    // A check of health has to come round.
    while (missingIn(text).includes('headrace_backend_checks_total'))
      text = (await fleet.control('/metrics')).text
    t.same(missingIn(text), [])
    // Minutes are what the product is billed in.
    const minutes = 'headrace_minutes_total use base unit "seconds" instead of "minutes"\n'
    t.equal(promtool(['check', 'metrics'], text).said, minutes)
  },
)
