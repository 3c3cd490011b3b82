// The shape of a config, as people write it: what the file, the library's options and the editor's JSON Schema share.
// A message is its reason and its remedy, with a line break between them.

import { z } from 'zod'
import type { Handler } from '../handoff/handler.ts'
import { suggestion } from './problems.ts'
import { bytes, milliseconds } from './units.ts'

/** An object whose unknown keys are errors that name the nearest known one. */
function section<Shape extends z.ZodRawShape>(shape: Shape) {
  const known = Object.keys(shape)
  return z.strictObject(shape, {
    error: (issue) => {
      if (issue.code !== 'unrecognized_keys')
        return `expected a section\nwrite keys and values: ${known.join(', ')}`
      const [key = ''] = issue.keys ?? []
      return `unknown key ${issue.keys?.join(', ')}${suggestion(key, known)}\nthe keys here are ${known.join(', ')}`
    },
  })
}

function text(expected: string, form = /^.+$/s) {
  return z
    .string({ error: `expected ${expected}\nwrite a text` })
    .regex(form, `expected ${expected}\nmend the text`)
}

function list<Item extends z.ZodType>(item: Item, what: string) {
  return z.array(item, {
    error: `expected a list of ${what}\nwrite [a, b], or one in a line with a dash in front`,
  })
}

function oneOf<const Words extends readonly [string, ...string[]]>(words: Words) {
  return z.enum(words, { error: `expected one of ${words.join(', ')}\nwrite one of these words` })
}

const flag = z.boolean({ error: 'expected true or false\nwrite true or false' })
const durationForm = z.union([z.string(), z.number()], {
  error: 'expected a duration\nwrite 10s, 500ms or 2m',
})
const duration = durationForm.transform((value, context) => {
  const ms = milliseconds(value)
  if (ms !== undefined) return ms
  context.addIssue({
    code: 'custom',
    message: `${JSON.stringify(value)} is no duration\nwrite 10s, 500ms or 2m`,
  })
  return z.NEVER
})
const sizeForm = z.union([z.string(), z.number()], {
  error: 'expected a size\nwrite 16KiB or a number of bytes',
})
const size = sizeForm.transform((value, context) => {
  const count = bytes(value)
  if (count !== undefined) return count
  context.addIssue({
    code: 'custom',
    message: `${JSON.stringify(value)} is no size\nwrite 16KiB or a number of bytes`,
  })
  return z.NEVER
})
function count(least: number, most = Number.MAX_SAFE_INTEGER) {
  const error = `expected a whole number of at least ${least}\nwrite a number`
  return z
    .number({ error })
    .int(error)
    .min(least, error)
    .max(most, `more than ${most}\nwrite a smaller number`)
}

/** RFC 9110 section 5.6.2 and 5.5. */
const fieldName = text('the name of a header field', /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/)
const fieldValue = text(
  'the value of a header field, in latin1 and without controls',
  /^[\t\x20-\x7e\x80-\xff]*$/,
)
const hostName = text('a host name', /^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$|^[0-9A-Fa-f:.]+$/)

const headerRules = section({
  set: z.record(fieldName, fieldValue).optional().describe('Fields that replace all of their name'),
  add: z.record(fieldName, fieldValue).optional().describe('Fields that are added at the end'),
  remove: list(fieldName, 'field names')
    .optional()
    .describe('Fields that are removed, before the others are set'),
}).describe('Changes of the fields that go to an origin')

const certificatePair = section({
  certificate: text('a path or PEM text').describe('PEM file with the certificate and its chain'),
  key: text('a path or PEM text').describe('PEM file with the private key'),
})

const tlsPair = certificatePair.extend({
  minVersion: oneOf(['TLSv1.2', 'TLSv1.3']).optional().describe('Default TLSv1.2'),
})

const senders = section({
  from: list(text('an address or CIDR block'), 'addresses and CIDR blocks').describe(
    'Addresses and CIDR blocks',
  ),
})

const listener = section({
  address: text('host:port, :port, [v6]:port or unix:/path').describe(
    'Where to accept: host:port, :port, [v6]:port, unix:/path',
  ),
  tls: z
    .union([tlsPair, z.array(tlsPair).min(1)], {
      error:
        'expected { certificate, key }, or a list of them\nwrite tls: { certificate: cert.pem, key: key.pem }',
    })
    .optional()
    .describe('Accept TLS; of several pairs SNI chooses, the first is the default'),
  proxyProtocol: senders.optional().describe('Who may, and must, send a PROXY protocol header'),
  forwarded: senders.optional().describe('Whose X-Forwarded-* and Forwarded fields are kept'),
  keepalive: duration.optional().describe('Idle time before TCP keep-alive probes; default 60s'),
})

const backend = section({
  name: text('a name of at most 254 characters', /^.{1,254}$/).describe('What routes and handlers call it'),
  address: text('host:port or unix:/path', /^(unix:.+|.+:[0-9]+)$/).describe(
    'host:port, [v6]:port or unix:/path',
  ),
  tls: flag
    .optional()
    .describe('Dial with TLS; the certificate must be of a public authority. Default false'),
  overrideHost: text('a host, with or without a port', /^[A-Za-z0-9.:[\]_-]+$/)
    .optional()
    .describe('What Host becomes'),
  certHostname: hostName
    .optional()
    .describe("The name that the certificate must have; default: overrideHost, else the address's"),
  sniHostname: hostName.optional().describe('The name asked for by SNI; the same default'),
  connectTimeout: duration.optional().describe('DNS, TCP and TLS together; default 1s'),
  firstByteTimeout: duration.optional().describe("To the end of the answer's head; default 15s"),
  maxConnections: count(1).optional().describe('More are refused with 503; default: none'),
  keepalive: duration.optional().describe('Idle time before TCP keep-alive probes; default 60s'),
  localAddress: z
    .union([text('an address'), z.array(text('an address')).min(1)], {
      error: 'expected an address or a list of addresses\nwrite 10.0.0.5 or [10.0.0.5, 10.0.0.6]',
    })
    .optional()
    .describe('Source addresses, used in turn'),
  clientCertificate: certificatePair.optional().describe('For origins that ask for one (mTLS)'),
  allowLinkLocal: flag
    .optional()
    .describe('Allow 169.254.0.0/16, fe80::/10 and metadata addresses; default false'),
})

const match = section({
  upgrade: oneOf(['websocket', 'none'])
    .optional()
    .describe('WebSocket upgrades only, or everything else only'),
  path: text('a path that starts with /', /^\/|^\*$/)
    .optional()
    .describe('/chat, /chat/* or /rooms/:id/ws'),
  method: z
    .union([text('a method'), z.array(text('a method')).min(1)], {
      error: 'expected a method or a list\nwrite GET or [GET, HEAD]',
    })
    .optional()
    .describe('A method, or a list of them'),
  headers: z
    .record(fieldName, z.union([fieldValue, z.literal(true)]))
    .optional()
    .describe('Fields and the values that they must have; true: any'),
})

const route = section({
  match: match.optional().describe('What it takes; everything if it is absent'),
  handoff: text('the name of a backend').optional().describe('Give the WebSocket upgrade to this backend'),
  send: text('the name of a backend').optional().describe('Pass the request on as plain HTTP'),
  respond: section({
    status: count(200, 599).describe('200 to 599'),
    headers: z.record(fieldName, fieldValue).optional().describe('Fields of the answer'),
    body: z.string().optional().describe('Text'),
  })
    .optional()
    .describe('Answer it here'),
  headers: headerRules.optional(),
})

const service = section({
  id: text('an id of letters, digits, _ and -', /^[A-Za-z0-9_-]{1,128}$/).describe(
    'What usage, logs and the API call it',
  ),
  domains: list(text('a domain'), 'domains')
    .min(1, 'no domain\nwrite ["*"] for all hosts')
    .describe('example.com, *.example.com, or * for all'),
  websockets: z
    .union([z.boolean(), z.enum(['on', 'off'])], { error: 'expected on or off\nwrite on or off' })
    .optional()
    .describe('The product switch; default off'),
  backends: list(backend, 'backends').min(1, 'no backend\nwrite name and address of one'),
  headers: headerRules.optional(),
  routes: list(route, 'routes').optional().describe('The first that matches wins'),
  handler: z
    .union([z.string(), z.custom<Handler>((value) => typeof value === 'function')], {
      error: 'expected the path of a module, or a function\nwrite handler: ./edge.js',
    })
    .optional()
    .describe('A module whose default export decides; instead of routes'),
  handlerTimeout: duration.optional().describe('What a handler may take; default 5s'),
  forwarded: flag.optional().describe('Send Forwarded (RFC 7239) besides X-Forwarded-*; default false'),
})

export const configSchema = section({
  listeners: list(listener, 'listeners').optional(),
  services: list(service, 'services').min(1, 'no service\nwrite id, domains and backends of one'),
  limits: section({
    headTimeout: duration
      .optional()
      .describe('From accept, TLS included, to the end of the head; default 10s'),
    headSize: size.optional().describe('Bytes of a head; default 16KiB, at most 64KiB'),
    headFields: count(1, 1000).optional().describe('Fields of a head; default 100'),
    earlySize: size.optional().describe('Bytes of a client that are held before the 101; default 64KiB'),
  }).optional(),
  engine: oneOf(['auto', 'sockmap', 'epoll', 'stream'])
    .optional()
    .describe('What moves the bytes; default auto'),
  workers: z
    .union([count(1, 1024), z.literal('auto')], { error: 'expected auto or a whole number\nwrite auto or 1' })
    .optional()
    .describe('Processes'),
  drainTimeout: duration.optional().describe('What a shutdown waits for tunnels to end; default 60s'),
  stateDirectory: text('a folder').optional().describe('Where switch and usage are kept'),
  admin: section({ address: text('host:port or unix:/path').describe('host:port or unix:/path') })
    .optional()
    .describe('The admin listener'),
  log: section({
    level: oneOf(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'])
      .optional()
      .describe('Default info'),
    headers: list(fieldName, 'field names')
      .optional()
      .describe('Request fields that stand in the accept line'),
    redact: list(fieldName, 'field names').optional().describe('Of those, the ones shown as [redacted]'),
  }).optional(),
})

/** The config as it is written: in YAML, or as the library's options. */
export type ConfigInput = z.input<typeof configSchema>
export type ListenerInput = z.input<typeof listener>
export type ConfigShape = z.output<typeof configSchema>
export type ServiceShape = z.output<typeof service>
export type ListenerShape = z.output<typeof listener>
export type BackendShape = z.output<typeof backend>
export type RouteShape = z.output<typeof route>
export const listenersSchema = z.array(listener)

/** For editors (JSON Schema, draft 2020-12). */
export function jsonSchema(): object {
  return z.toJSONSchema(configSchema, { io: 'input', unrepresentable: 'any' })
}
