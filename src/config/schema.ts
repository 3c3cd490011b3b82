// The shape of a config, as people write it: what the file, the library's options and the editor's JSON Schema share.
// What it says of one key is in values.ts; what several keys say together is in check.ts.

import { z } from 'zod'
import type { Handler } from '../handoff/handler.ts'
import { director } from './director-schema.ts'
import { gate } from './gate-schema.ts'
import { local, program } from './program-schema.ts'
import { fields, section } from './section.ts'
import {
  account,
  addressBlock,
  count,
  domain,
  duration,
  fieldName,
  fieldValue,
  flag,
  hostAndPort,
  hostName,
  ipAddress,
  list,
  listenAddress,
  listenerAddress,
  method,
  off,
  oneOf,
  oneOrSeveral,
  originAddress,
  pathPattern,
  redisUrl,
  requestPath,
  ruledName,
  ruledNameButHost,
  several,
  size,
  text,
  webUrl,
  wrong,
} from './values.ts'

const headerRules = section({
  set: fields(ruledName).optional().describe('Fields that replace all of their name'),
  add: fields(ruledNameButHost).optional().describe('Fields that are added at the end'),
  remove: list(ruledNameButHost, 'field names')
    .optional()
    .describe('Fields that are removed, before the others are set'),
})

const pem = (what: string) => text(what, 'write the path of a PEM file')
const certificatePair = {
  certificate: pem('certificate').describe('PEM file with the certificate and its chain'),
  key: pem('private key').describe('PEM file with the private key'),
}

const tlsPair = section({
  ...certificatePair,
  minVersion: oneOf('TLS version', ['TLSv1.2', 'TLSv1.3']).optional().describe('Default TLSv1.2'),
})

const senders = section({
  from: several(addressBlock, 'addresses and CIDR blocks').describe('Addresses and CIDR blocks'),
})

const tcpOptions = {
  keepalive: duration(0).optional().describe('Idle time before TCP keep-alive probes; default 60s'),
  keepaliveInterval: duration()
    .optional()
    .describe('Between TCP keep-alive probes; default 1s. Linux only, as the next two'),
  keepaliveProbes: count(1, 127)
    .optional()
    .describe('Probes without an answer that end a connection; default 10'),
  userTimeout: duration()
    .optional()
    .describe("How long sent bytes may stay unacknowledged (TCP_USER_TIMEOUT); default: the system's"),
}

const listener = section({
  address: listenerAddress.describe(
    'Where to accept: host:port, :port, [v6]:port, unix:/path, or systemd:NAME, a socket that systemd passes',
  ),
  tls: oneOrSeveral(
    tlsPair,
    'pair { certificate, key }',
    'pairs',
    'write { certificate: cert.pem, key: key.pem }',
  )
    .optional()
    .describe('Accept TLS; of several pairs SNI chooses, the first is the default'),
  proxyProtocol: senders.optional().describe('Who may, and must, send a PROXY protocol header'),
  forwarded: senders.optional().describe('Whose X-Forwarded-* and Forwarded fields are kept'),
  ...tcpOptions,
})

const health = section({
  check: oneOf('kind of check', ['tcp', 'tls', 'http']).describe(
    'Connect; verify the certificate, too; or ask by GET, over TLS if the backend has it',
  ),
  path: requestPath.optional().describe('What an http check asks for; default /'),
  expect: oneOrSeveral(count(100, 599), 'status', 'statuses', 'write 200 or [200, 204]')
    .optional()
    .describe('The good statuses of an http check; default 200'),
  interval: duration().optional().describe('Between two checks, 10 % more or less; default 5s'),
  timeout: duration().optional().describe('For one check; default 1s'),
  rise: count(1, 1000).optional().describe('Good checks in a row that bring it back; default 2'),
  fall: count(1, 1000).optional().describe('Bad checks in a row that take it out; default 3'),
})

const ejection = z.union(
  [
    off,
    section({
      failures: count(1, 1000).optional().describe('Failures in a row that eject; default 3'),
      for: duration()
        .optional()
        .describe('The first ejection; each that follows lasts twice as long; default 10s'),
      max: duration().optional().describe('The longest ejection; default 5m'),
      answers: flag
        .optional()
        .describe(
          'Whether answers that are late, cut short or malformed are failures, as failed dials are; default on',
        ),
    }),
  ],
  wrong('ejection', 'write off, or such as { failures: 3, for: 10s }'),
)

const backend = section({
  name: text('name of at most 254 characters', 'write such as ws_backend', /^.{1,254}$/).describe(
    'What routes and handlers call it',
  ),
  address: originAddress.describe('host:port, [v6]:port or unix:/path'),
  tls: flag
    .optional()
    .describe('Dial with TLS; the certificate must be of a public authority. Default false'),
  overrideHost: hostAndPort.optional().describe('What Host becomes'),
  certHostname: hostName
    .optional()
    .describe("The name that the certificate must have; default: overrideHost, else the address's"),
  sniHostname: hostName.optional().describe('The name asked for by SNI; the same default'),
  connectTimeout: duration().optional().describe('DNS, TCP and TLS together; default 1s'),
  firstByteTimeout: duration().optional().describe("To the end of the answer's head; default 15s"),
  maxConnections: count(1)
    .optional()
    .describe('Of all workers together; more are refused with 503; default: none'),
  ...tcpOptions,
  localAddress: oneOrSeveral(
    ipAddress,
    'IP address',
    'IP addresses',
    'write 10.0.0.5 or [10.0.0.5, 10.0.0.6]',
  )
    .optional()
    .describe('Source addresses, used in turn'),
  clientCertificate: section(certificatePair).optional().describe('For origins that ask for one (mTLS)'),
  allowLinkLocal: flag
    .optional()
    .describe('Allow 169.254.0.0/16, fe80::/10 and metadata addresses; default false'),
  health: health.optional().describe('Checks that are made while nobody asks; default: none'),
  ejection: ejection
    .optional()
    .describe('When directors pass it by because dials and answers fail; off: never'),
})

const wantedValue = z.union(
  [fieldValue, z.literal(true)],
  wrong('value of a header field', 'put it into quotes, or write true for any value'),
)

const match = section({
  upgrade: oneOf('kind of request', ['websocket', 'none'])
    .optional()
    .describe('WebSocket upgrades only, or everything else only'),
  path: pathPattern.optional().describe('/chat, /chat/* or /rooms/:id/ws'),
  method: oneOrSeveral(method, 'method', 'methods', 'write GET or [GET, HEAD]')
    .optional()
    .describe('A method, or a list of them'),
  headers: z
    .record(fieldName, wantedValue, wrong('section', 'write { Name: "value" }'))
    .optional()
    .describe('Fields and the values that they must have; true for any value'),
})

const targetName = text('name of a backend or director', 'write the name of one of this service')

const route = section({
  match: match.optional().describe('What it takes; everything if it is absent'),
  handoff: targetName.optional().describe('Give the WebSocket upgrade to this backend or director'),
  send: targetName.optional().describe('Pass the request on as plain HTTP'),
  respond: section({
    status: count(200, 599).describe('200 to 599'),
    headers: fields(fieldName).optional().describe('Fields of the answer'),
    body: z.string(wrong('text', 'put it into quotes')).optional().describe('Text'),
  })
    .optional()
    .describe('Answer it here'),
  headers: headerRules.optional().describe('Changes of the fields that go to an origin'),
})

const service = section({
  id: text('id', 'write letters, digits, _ and -', /^[A-Za-z0-9_-]{1,128}$/).describe(
    'What usage, logs and the API call it',
  ),
  domains: several(domain, 'domains').describe('example.com, *.example.com, or * for all'),
  websockets: flag.optional().describe('The product switch; default off'),
  gate: gate.optional().describe('Which upgrades are let through'),
  backends: several(backend, 'backends')
    .optional()
    .describe('The origins; needed unless a handler or a program needs none'),
  directors: several(director, 'directors').optional().describe('Groups of backends'),
  headers: headerRules.optional().describe('Changes of the fields that go to an origin'),
  routes: several(route, 'routes').optional().describe('The first that matches wins'),
  handler: z
    .union(
      [z.string(), z.custom<Handler>((value) => typeof value === 'function')],
      wrong('handler', 'write the path of a module, such as ./edge.js'),
    )
    .optional()
    .describe('A module whose default export decides; instead of routes'),
  program: program
    .optional()
    .describe('A program written for another product; instead of routes and handler'),
  handlerTimeout: duration()
    .optional()
    .describe('What a handler may take; default 5s, of a program, which waits for backends, 30s'),
  local: local.optional().describe('WebSockets that end in a handler or a worker'),
  forwarded: flag.optional().describe('Send Forwarded (RFC 7239) besides X-Forwarded-*; default false'),
})

const limits = section({
  headTimeout: duration()
    .optional()
    .describe('From accept, TLS included, to the end of the head; default 10s'),
  headSize: size('128B', '64KiB').optional().describe('Bytes of a head; default 16KiB, at most 64KiB'),
  headFields: count(1, 1000).optional().describe('Fields of a head; default 100'),
  earlySize: size('0B', '16MiB')
    .optional()
    .describe('Bytes of a client that are held before the 101; default 64KiB'),
})

const log = section({
  level: oneOf('level', ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'])
    .optional()
    .describe('Default info'),
  headers: list(fieldName, 'field names').optional().describe('Request fields that stand in the accept line'),
  redact: list(fieldName, 'field names').optional().describe('Of those, the ones shown as [redacted]'),
})

const admin = section({
  address: listenAddress.describe(
    'host:port or unix:/path. One that is not of loopback needs tls and tokens',
  ),
  tls: section(certificatePair).optional().describe('Serve HTTPS'),
  tokens: text('file', 'write the path of the file that `headrace token create` writes')
    .optional()
    .describe('Who may do what; without it everybody here may read, and nobody change'),
})

export const configSchema = section({
  listeners: list(listener, 'listeners').optional().describe('Where clients are accepted'),
  services: several(service, 'services').describe('The sites'),
  limits: limits.optional().describe('What a request may take before it is decided'),
  engine: oneOf('engine', ['auto', 'sockmap', 'epoll', 'stream'])
    .optional()
    .describe('What moves the bytes; default auto'),
  workers: z
    .union([count(1, 1024), z.literal('auto')], wrong('number of workers', 'write auto or 1 to 1024'))
    .optional()
    .describe('Processes that carry tunnels; default auto, one for each core'),
  upgrade: z
    .strictObject({
      node: z
        .string()
        .min(1)
        .optional()
        .describe('The node that a new release runs on, by its path; default: the same'),
      startTimeout: duration(1)
        .optional()
        .describe('What a new release may take until it is ready; default 60s'),
    })
    .optional()
    .describe('How a new release takes over'),
  silentTimeout: duration(1)
    .optional()
    .describe(
      'After which a worker that does not answer is killed and replaced, which ends its tunnels; default: never',
    ),
  drainTimeout: duration(0).optional().describe('What a shutdown waits for tunnels to end; default 60s'),
  drainSpread: duration(0)
    .optional()
    .describe('The last part of it, over which the closing of the rest is spread; default: all of it'),
  drainDelay: duration(0)
    .optional()
    .describe('How long a shutdown still accepts, unready, before it drains; default 0s'),
  user: account('user')
    .optional()
    .describe(
      'Started by root, it opens its sockets and then runs as this user (Linux); default: as it was started',
    ),
  group: account('group').optional().describe('The group of its processes; default: the group of the user'),
  stateDirectory: text('folder', 'write a path')
    .optional()
    .describe(
      'Where switch and usage are kept; default: state, beside the config file; in the library: nowhere',
    ),
  admin: admin.optional().describe('The admin API'),
  rateStore: z
    .union(
      [
        z.literal('memory'),
        section({ redis: redisUrl.describe('redis://user:password@host:6379/0, or rediss://') }),
      ],
      wrong('store of rates', 'write memory or { redis: "redis://127.0.0.1:6379" }'),
    )
    .optional()
    .describe('Where rates are counted: memory, or a Redis that a fleet shares; default memory'),
  webhook: section({
    url: webUrl.describe('http or https'),
    headers: fields(fieldName).optional().describe('Such as Authorization'),
  })
    .optional()
    .describe('Who is told of spikes, by POST of JSON'),
  log: log.optional().describe('JSON lines on standard output'),
  reload: section({
    watch: flag
      .optional()
      .describe('Reload when the config changes, or a file that it names; default off: on SIGHUP'),
  })
    .optional()
    .describe('When the config is read again'),
})

/** The config as it is written: in YAML, or as the library's options. */
export type ConfigInput = z.input<typeof configSchema>
export type ListenerInput = z.input<typeof listener>
export type ConfigShape = z.output<typeof configSchema>
export type ServiceShape = z.output<typeof service>
export type ListenerShape = z.output<typeof listener>
export type GateShape = z.output<typeof gate>
export type BackendShape = z.output<typeof backend>
export type DirectorShape = z.output<typeof director>
export type RouteShape = z.output<typeof route>
export const listenersSchema = z.array(listener, wrong('list of listeners', 'write [{ address }]'))

/** For editors (JSON Schema, draft 2020-12). Nothing that is written in a file is a function. */
export function jsonSchema(): object {
  return z.toJSONSchema(configSchema, {
    io: 'input',
    unrepresentable: 'any',
    override: ({ zodSchema, jsonSchema: made }) => {
      if (zodSchema._zod.def.type === 'custom') made.not = {}
    },
  })
}
