// The config: what is written, what becomes of it, and what is said of what is wrong. No sockets.

import { readFileSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import t from 'tap'
import { parse as parseYaml } from 'yaml'
import { z } from 'zod'
import { loadConfig, readConfig } from '../src/config/load.ts'
import type { Config } from '../src/config/parse.ts'
import { parseConfig, parseListeners } from '../src/config/parse.ts'
import { problemLine, problemsOf } from '../src/config/problems.ts'
import type { ConfigInput } from '../src/config/schema.ts'
import { jsonSchema } from '../src/config/schema.ts'
import { bareOptions } from '../src/dial/backend.ts'
import { HeadraceError } from '../src/errors.ts'

/** test/config: the example of the contract, every other key, and mistakes with what is said of them (nothing: none). */
function textOf(file: string): string {
  return readFileSync(new URL(`../../test/config/${file}`, import.meta.url), 'utf8')
}

const LISTENERS = 'listeners: [{ address: "127.0.0.1:8080" }]\n'
/** What is appended goes to the backend if it stands 8 blanks in, to the service if 4, to the list of services if 2. */
const SERVICES = `services:
  - id: chat
    domains: ["*"]
    backends:
      - name: a
        address: 127.0.0.1:9200
`
const SMALL = LISTENERS + SERVICES

const NO_RULES = { set: [], add: [], remove: [] }

function read(text: string, environment: Readonly<Record<string, string>> = {}): Config {
  const {
    locate: _,
    file: __,
    text: ___,
    ...config
  } = readConfig(text, '/etc/headrace/headrace.yaml', environment)
  return config
}

/** What is said of a config: each problem as a line, without the name of the file. */
function complaints(act: () => unknown): string[] {
  try {
    act()
  } catch (error) {
    if (!(error instanceof HeadraceError) || error.code !== 'config-invalid') throw error
    return problemsOf(error).map((one) => problemLine(one).replace(/^:/, ''))
  }
  return []
}

/** What the processes of a program tell each other is JSON, in which nothing is undefined. */
function withoutUndefined(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutUndefined)
  if (typeof value !== 'object' || value === null) return value
  const entries = Object.entries(value).filter(([, one]) => one !== undefined)
  return Object.fromEntries(entries.map(([key, one]) => [key, withoutUndefined(one)]))
}

t.test('what a program makes of its config gets to its workers as JSON, and nothing of it is lost', (t) => {
  for (const name of ['example.yaml', 'other-keys.yaml']) {
    const config = read(textOf(name))
    t.strictSame(JSON.parse(JSON.stringify(config)), withoutUndefined(config))
  }
  t.end()
})

t.test('the example of the contract, and every other key, is taken to the letter', (t) => {
  for (const name of ['example', 'other-keys']) {
    // JSON has no undefined: what is not there is left out on both sides.
    const config: unknown = JSON.parse(JSON.stringify(read(textOf(`${name}.yaml`))))
    t.strictSame(config, JSON.parse(textOf(`${name}.json`)), name)
  }
  t.end()
})

t.test('what is left out has its default', (t) => {
  t.strictSame(read(SMALL), {
    listeners: [
      {
        address: '127.0.0.1:8080',
        tls: undefined,
        proxyProtocol: undefined,
        forwarded: undefined,
        keepaliveMs: 60_000,
        keepaliveIntervalMs: undefined,
        keepaliveProbes: undefined,
        userTimeoutMs: undefined,
      },
    ],
    edge: {
      services: [
        {
          id: 'chat',
          domains: ['*'],
          websockets: false,
          gate: undefined,
          backends: [
            {
              ...bareOptions('a', { host: '127.0.0.1', port: 9200 }),
              connectTimeoutMs: 1_000,
              firstByteTimeoutMs: 15_000,
              keepaliveMs: 60_000,
              ejection: { failures: 3, forMs: 10_000, maxMs: 300_000, answers: true },
            },
          ],
          directors: [],
          headers: NO_RULES,
          // With one backend and nothing that decides, upgrades go to it.
          routes: [
            {
              match: { upgrade: 'websocket', path: undefined, methods: undefined, headers: {} },
              headers: NO_RULES,
              action: { kind: 'handoff', backend: 'a' },
            },
          ],
          handler: undefined,
          program: undefined,
          handlerTimeoutMs: 5_000,
          local: { maxPayload: 1_048_576, maxBuffered: 4_194_304, deflate: false },
          forwarded: false,
        },
      ],
      limits: { headTimeoutMs: 10_000, headSize: 16_384, headFields: 100, earlySize: 65_536 },
      engine: 'auto',
      log: { level: 'info', headers: [], redact: [] },
      redis: undefined,
      webhook: undefined,
      drainTimeoutMs: 60_000,
      drainSpreadMs: 60_000,
      stateDirectory: '/etc/headrace/state',
    },
    workers: availableParallelism(),
    silentTimeoutMs: null,
    drainDelayMs: 0,
    runAs: null,
    admin: null,
    upgradeTimeoutMs: 60_000,
    watch: false,
  })
  t.end()
})

t.test('an admin address that others reach needs TLS and tokens', (t) => {
  const said = (admin: string) => complaints(() => read(`${SMALL}admin: ${admin}\n`))
  for (const address of [
    '127.0.0.1:9901',
    '127.9.9.9:1',
    '[::1]:9901',
    'localhost:9901',
    'unix:/run/admin.sock',
  ]) {
    t.strictSame(said(`{ address: "${address}" }`), [], address)
  }
  for (const address of [':9901', '0.0.0.0:9901', '10.0.0.5:9901', '[::]:9901', 'admin.example.com:9901']) {
    t.match(
      said(`{ address: "${address}" }`),
      [/admin\.address: .*there is no tls and no tokens; write 127/],
      address,
    )
    t.match(said(`{ address: "${address}", tokens: t.json }`), [/there is no tls;/], address)
    t.match(
      said(`{ address: "${address}", tls: { certificate: c, key: k } }`),
      [/there is no tokens;/],
      address,
    )
    t.strictSame(
      said(`{ address: "${address}", tls: { certificate: c, key: k }, tokens: t.json }`),
      [],
      address,
    )
  }
  t.end()
})

t.test('each mistake is told with its place, its reason and its remedy', (t) => {
  const blocks = textOf('mistakes.txt').trimEnd().split('\n\n')
  t.ok(blocks.length > 60, `${blocks.length} of them`)
  for (const block of blocks) {
    const lines = block.split('\n')
    const written = lines.filter((line) => !line.startsWith('= ')).join('\n')
    const expected = lines.filter((line) => line.startsWith('= ')).map((line) => line.slice(2))
    const base = written.startsWith('listeners:') ? SERVICES : SMALL
    t.strictSame(
      complaints(() => read(`${base}${written}\n`)),
      expected,
      written.trim(),
    )
  }
  t.end()
})

t.test('all mistakes are told at once, whatever their kind, in the order of the file', (t) => {
  const text = `${SMALL.replace('id: chat', `id: ${at('ID')}`)}        conectTimeout: 1s
        maxConnections: few
    routes:
      - { match: { pth: /x }, handoff: b }
      - { send: a, respond: { status: 200 } }
  - { id: b, domains: ["*"], backends: [{ name: a, address: x }, { name: a, address: "x:1" }] }
engine: turbo
engine: warp
`
  t.strictSame(
    complaints(() => read(text)).map((line) => line.split(/[:;] /, 2).join(' ')),
    [
      '3:5 services[0].id',
      '8:9 services[0].backends[0].conectTimeout',
      '9:9 services[0].backends[0].maxConnections',
      '11:20 services[0].routes[0].match.pth',
      '11:31 services[0].routes[0].handoff',
      '12:9 services[0].routes[1]',
      '13:5 services[1]',
      '13:24 services[1].domains[0]',
      '13:52 services[1].backends[0].address',
      '13:68 services[1].backends[1].name',
      '14:1 engine',
      '15:1 the key engine is there twice',
    ],
  )
  t.end()
})

t.test('what is no config at all is told, too', (t) => {
  const keys =
    'write keys and values: listeners, services, limits, engine, workers, upgrade, silentTimeout, drainTimeout, drainSpread, drainDelay, user, group, stateDirectory, admin, rateStore, webhook, log, reload'
  const nowhere = 'listeners: nowhere to listen; write such as listeners: [{ address: 127.0.0.1:8080 }]'
  t.strictSame(
    complaints(() => read(SERVICES)),
    [`1:1: ${nowhere}`],
  )
  t.strictSame(
    complaints(() => read('')),
    [`null is no section; ${keys}`],
  )
  t.strictSame(
    complaints(() => read('- a\n')),
    [`1:1: ${nowhere}`, `1:1: a list is no section; ${keys}`],
  )
  t.strictSame(
    complaints(() => read('listeners: [1\nservices: 2\n')),
    [
      '2:1: not YAML: Flow sequence in block collection must be sufficiently indented and end with a ]; mend the syntax',
    ],
  )
  t.match(
    complaints(() => read('a: *nowhere\n')),
    [/not YAML: .*nowhere/],
  )
  t.end()
})

t.test('anchors may be used, and not to unfold into gigabytes', (t) => {
  const { edge } = read(`${SMALL.replace('- name: a', '- &one\n        name: a')}  - id: b
    domains: [b.test]
    backends: [*one]
`)
  t.strictSame(edge.services[1]?.backends, edge.services[0]?.backends)
  const bomb = ['a: &a [x, x, x, x, x, x, x, x, x]']
  for (const [name, of] of ['ba', 'cb', 'dc', 'ed'].map((pair) => [...pair])) {
    bomb.push(`${name}: &${name} [${Array(9).fill(`*${of}`).join(', ')}]`)
  }
  t.match(
    complaints(() => read(bomb.join('\n'))),
    [/not YAML: .*alias/i],
  )
  t.end()
})

/** A place that the environment fills: `${NAME}`. */
function at(name: string): string {
  return `\${${name}}`
}

t.test('the environment stands in values', (t) => {
  const host = (text: string, environment: Readonly<Record<string, string>> = {}) =>
    read(`${SMALL}        overrideHost: ${text}\n`, environment).edge.services[0]?.backends[0]?.overrideHost
  t.equal(host(`${at('NAME')}.test`, { NAME: 'chat' }), 'chat.test')
  t.equal(host(`"${at('A')}.${at('B')}"`, { A: 'x', B: 'y' }), 'x.y')
  const withPreset = `${at('NAME:-other')}.test`
  t.equal(host(withPreset), 'other.test')
  t.equal(host(withPreset, { NAME: '' }), 'other.test', 'empty, as in a shell')
  t.equal(host(withPreset, { NAME: 'chat' }), 'chat.test')
  const value = (text: string, environment: Readonly<Record<string, string>> = {}) =>
    read(`${SMALL}    headers: { set: { X: "${text}" } }\n`, environment).edge.services[0]?.headers.set
  t.strictSame(value(`$${at('NAME')} costs $5 {}`), [['X', `${at('NAME')} costs $5 {}`]], 'a literal')
  t.strictSame(value(at('A'), { A: at('B') }), [['X', at('B')]], 'what it holds is not looked into')
  const { edge } = read(
    `${SMALL}        maxConnections: ${at('MAX')}
        tls: ${at('TLS')}
    websockets: ${at('WS')}
limits: { headSize: "${at('SIZE')}", headTimeout: "${at('TIME')}" }
`,
    { MAX: '20', TLS: 'true', WS: 'on', SIZE: '1KiB', TIME: '2s' },
  )
  const [service] = edge.services
  t.strictSame(
    [service?.websockets, service?.backends[0]?.maxConnections, service?.backends[0]?.tls],
    [true, 20, true],
    'switches and numbers, too',
  )
  t.strictSame([edge.limits.headSize, edge.limits.headTimeoutMs], [1_024, 2_000])
  t.end()
})

t.test('whatever it is given, it takes it or tells problems that have a reason and a remedy', (t) => {
  const key = fc.constantFrom('listeners', 'services', 'id', 'domains', 'backends', 'routes', 'match', 'tls')
  const { value } = fc.letrec((tie) => ({
    value: fc.oneof(
      { maxDepth: 5 },
      fc.constantFrom(null, true, 5, '', 'a', '*', 'x:1', '127.0.0.1:1'),
      fc.array(tie('value'), { maxLength: 3 }),
      fc.dictionary(key, tie('value'), { maxKeys: 5 }),
    ),
  }))
  const isTold = (error: unknown) =>
    error instanceof HeadraceError &&
    error.code === 'config-invalid' &&
    problemsOf(error).length > 0 &&
    problemsOf(error).every(
      ({ reason, remedy }) => reason !== '' && !/Invalid|reference/.test(remedy + reason),
    )
  fc.assert(
    fc.property(fc.dictionary(key, value), (input) => {
      try {
        return parseConfig(input as unknown as ConfigInput).edge.services.length > 0
      } catch (error) {
        return isTold(error)
      }
    }),
    { numRuns: 500 },
  )
  t.end()
})

t.test('the library takes the same, with functions, numbers of ms, and no listeners', (t) => {
  const handler = () => ({ kind: 'handoff', backend: 'a' }) as const
  const service = {
    id: 'a',
    domains: ['*'],
    backends: [{ name: 'a', address: 'x:1', connectTimeout: 250 }],
  }
  const config = parseConfig({ services: [{ ...service, handler }], drainTimeout: 5_000 })
  t.strictSame(config.listeners, [])
  t.equal(config.edge.services[0]?.handler, handler)
  t.equal(config.edge.services[0]?.backends[0]?.connectTimeoutMs, 250)
  t.equal(config.edge.drainTimeoutMs, 5_000)
  t.equal(config.edge.log.level, 'silent', 'a library is silent unless it is asked')
  t.equal(config.edge.stateDirectory, undefined, 'and writes nothing')
  const kept = parseConfig({ services: [service], stateDirectory: 'kept' })
  t.equal(kept.edge.stateDirectory, join(process.cwd(), 'kept'))
  const byPath = parseConfig({ services: [{ ...service, handler: 'edge.js' }] })
  t.equal(byPath.edge.services[0]?.handler, join(process.cwd(), 'edge.js'))
  const certificate = '-----BEGIN CERTIFICATE-----\n'
  const [listener] = parseListeners([{ address: ':0', tls: { certificate, key: 'key.pem' } }])
  const pairs = [{ certificate, key: join(process.cwd(), 'key.pem') }]
  t.strictSame(listener?.tls?.pairs, pairs, 'PEM text stays what it is')
  t.strictSame(
    complaints(() => parseConfig({} as ConfigInput)),
    ['services: is missing; write [a, b], or each in a line of its own with a dash in front'],
  )
  t.strictSame(
    complaints(() => parseListeners([{ address: ':1' }, { address: ':1', keepalive: 'x' }])),
    [
      '[1].keepalive: "x" is no duration; write 10s, 500ms or 2m, at most 24d',
      '[1].address: :1 is there twice; give each its own address',
    ],
  )
  t.end()
})

t.test('an error has all problems in its text and as data', (t) => {
  const problem = {
    path: 'engine',
    reason: '"x" is no engine',
    remedy: 'write auto, sockmap, epoll or stream',
    line: 8,
    column: 1,
  }
  t.throws(() => read(`${SMALL}engine: x\nworkers: x\n`), {
    code: 'config-invalid',
    message: `the configuration is not valid: 
/etc/headrace/headrace.yaml:8:1: engine: "x" is no engine; write auto, sockmap, epoll or stream
/etc/headrace/headrace.yaml:9:1: workers: "x" is no number of workers; write auto or 1 to 1024`,
    cause: [problem, { path: 'workers' }],
  })
  t.end()
})

t.test('a file is read, and one that can not be read is named', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'headrace-'))
  t.teardown(() => rm(folder, { recursive: true }))
  const file = join(folder, 'headrace.yaml')
  await writeFile(file, `${SMALL}    handler: ./edge.js\n`)
  const config = await loadConfig(file, {})
  t.equal(config.edge.services[0]?.handler, join(folder, 'edge.js'), 'paths start from its folder')
  t.strictSame(config.locate(['services', 0, 'handler']), { line: 8, column: 5 })
  await t.rejects(loadConfig(join(folder, 'no.yaml'), {}), {
    code: 'config-invalid',
    detail: `${join(folder, 'no.yaml')}: can't be read: ENOENT; name a YAML file that exists`,
  })
  await t.rejects(loadConfig(folder, {}), { message: /can't be read: EISDIR/ })
})

interface Schema {
  readonly description?: string
  readonly properties?: Readonly<Record<string, Schema>>
  readonly items?: Schema
  readonly anyOf?: readonly Schema[]
}

/** The paths of keys that say nothing about themselves. */
function undescribed(schema: Schema, path = ''): string[] {
  const inside = [schema.items, ...(schema.anyOf ?? [])]
  return [
    ...inside.flatMap((one) => (one === undefined ? [] : undescribed(one, path))),
    ...Object.entries(schema.properties ?? {}).flatMap(([key, one]) => [
      ...(one.description === undefined ? [`${path}.${key}`] : []),
      ...undescribed(one, `${path}.${key}`),
    ]),
  ]
}

t.test(
  'the JSON Schema for editors takes what is right, refuses what is wrong, and describes every key',
  (t) => {
    const schema = jsonSchema()
    t.strictSame(undescribed(schema as Schema), [])
    const editor = z.fromJSONSchema(schema as z.core.JSONSchema.JSONSchema)
    for (const right of [textOf('example.yaml'), textOf('other-keys.yaml'), SMALL]) {
      t.equal(editor.safeParse(parseYaml(right)).error, undefined)
    }
    for (const wrong of [
      'engine: x',
      'zzz: 1',
      'drainTimeout: soon',
      '        tls: perhaps',
      '    handler: 5',
    ]) {
      t.notOk(editor.safeParse(parseYaml(`${SMALL}${wrong}\n`)).success, wrong.trim())
    }
    t.end()
  },
)
