// The values of a config, each with what it is called in a message and what to write instead of a wrong one.
// A message is reason and remedy, with a line break between them.

import { z } from 'zod'
import { addressList, isAddress } from '../accept/addresses.ts'
import { OWNED_FIELDS } from '../handoff/request-view.ts'
import { bytes, DURATION, milliseconds, SIZE } from './units.ts'

interface Wrong {
  readonly input?: unknown
}

/** For zod's `error`: `"x" is no duration`, or `is missing`. */
export function wrong(what: string, remedy: string) {
  return {
    error: ({ input }: Wrong) =>
      `${input === undefined ? 'is missing' : `${shown(input)} is no ${what}`}\n${remedy}`,
  }
}

const LONGEST_SHOWN = 60

function shown(value: unknown): string {
  if (Array.isArray(value)) return 'a list'
  if (typeof value === 'object' && value !== null) return 'a section'
  if (typeof value === 'function') return 'a function'
  const text = typeof value === 'string' ? JSON.stringify(value) : String(value)
  return text.length > LONGEST_SHOWN ? `${text.slice(0, LONGEST_SHOWN)}…` : text
}

export function text(what: string, remedy: string, form = /./s) {
  return z.string(wrong(what, remedy)).regex(form, wrong(what, remedy))
}

export function oneOf<const Words extends readonly [string, ...string[]]>(what: string, words: Words) {
  return z.enum(words, wrong(what, `write ${words.slice(0, -1).join(', ')} or ${words.at(-1)}`))
}

export function list<Item extends z.ZodType>(item: Item, what: string) {
  const remedy = 'write [a, b], or each in a line of its own with a dash in front'
  return z.array(item, wrong(`list of ${what}`, remedy))
}

/** A list that would mean nothing without an item. */
export function several<Item extends z.ZodType>(item: Item, what: string) {
  return list(item, what).min(1, `an empty list of ${what}\nwrite at least one`)
}

export function oneOrSeveral<Item extends z.ZodType>(
  item: Item,
  what: string,
  items: string,
  remedy: string,
) {
  return z.union([item, several(item, items)], wrong(`${what} and no list of ${items}`, remedy))
}

const SWITCH = { on: true, true: true, off: false, false: false } as const

/** YAML 1.2 has `on` as a text, and so is all that comes from the environment. */
export const flag = z
  .union([z.boolean(), z.enum(['on', 'off', 'true', 'false'])], wrong('switch', 'write on or off'))
  .transform((value) => (typeof value === 'boolean' ? value : SWITCH[value]))

/** In the place of a section: the whole of it is switched off. */
export const off = z.union([z.literal(false), z.enum(['off', 'false'])]).transform(() => false as const)

/** A whole number; its digits may be a text, as all is that comes from the environment. */
export function count(least: number, most = Number.MAX_SAFE_INTEGER) {
  const range = most === Number.MAX_SAFE_INTEGER ? `of at least ${least}` : `from ${least} to ${most}`
  const complaint = wrong(`whole number ${range}`, `write a number ${range}`)
  return z
    .union([z.int(complaint), z.string().regex(/^[0-9]{1,15}$/, { ...complaint, abort: true })], complaint)
    .refine((value) => isWithin(Number(value), least, most), complaint)
    .transform(Number)
}

const ACCOUNT = /^(?!root$)[A-Za-z_][A-Za-z0-9_.-]{0,254}\$?$/

/** Of the system: a name, or its number. */
export function account(kind: 'user' | 'group') {
  const complaint = wrong(kind, `write the name or number of a ${kind} other than root, such as headrace`)
  const number = z.int(complaint).min(1, complaint).max(4_294_967_294, complaint)
  return z.union([number, z.string().regex(ACCOUNT, complaint)], complaint)
}

/** In ms. */
export function duration(least = 1) {
  const complaint = wrong(
    'duration',
    `write 10s, 500ms or 2m${least === 0 ? '' : ', more than 0'}, at most 24d`,
  )
  return z
    .union([z.string().regex(DURATION, { ...complaint, abort: true }), z.number()], complaint)
    .refine((value) => (milliseconds(value) ?? -1) >= least, complaint)
    .transform((value) => milliseconds(value) ?? 0)
}

/** A duration of whole seconds, in ms. */
export const wholeSeconds = duration(1_000).refine(
  (ms) => ms % 1_000 === 0,
  wrong('number of whole seconds', 'write such as 1s, 10s or 1m'),
)

/** In bytes. */
export function size(least: string, most: string) {
  const complaint = wrong('size in this range', `write ${least} to ${most}, or a number of bytes`)
  const [lowest = 0, highest = 0] = [bytes(least), bytes(most)]
  return z
    .union([z.string().regex(SIZE, { ...complaint, abort: true }), z.number()], complaint)
    .refine((value) => isWithin(bytes(value) ?? -1, lowest, highest), complaint)
    .transform((value) => bytes(value) ?? 0)
}

function isWithin(value: number, lowest: number, highest: number): boolean {
  return value >= lowest && value <= highest
}

const PORT = ':([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])'
const HOST = '[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?'
const V6_BARE = '[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*'
const V6 = `\\[${V6_BARE}(%[A-Za-z0-9]+)?\\]`

export const listenAddress = text(
  'address to listen on',
  'write host:port, :port, [v6]:port or unix:/path',
  new RegExp(`^(unix:.+|(${V6}|${HOST})?${PORT})$`),
)

/** A service manager's names have no colon and no control (sd_listen_fds(3)); digits alone would be a port. */
export const listenerAddress = text(
  'address to listen on',
  'write host:port, :port, [v6]:port, unix:/path or systemd:NAME',
  new RegExp(`^(unix:.+|systemd:(?![0-9]+$)[!-9;-~]+|(${V6}|${HOST})?${PORT})$`),
)

export const originAddress = text(
  'address of an origin',
  'write host:port, [v6]:port or unix:/path, without a scheme',
  new RegExp(`^(unix:.+|(${V6}|${HOST})(?!:0+$)${PORT})$`),
)

const noAddress = wrong('IP address', 'write such as 10.0.0.5')
export const ipAddress = z.string(noAddress).refine(isAddress, noAddress)

const noBlock = wrong('address or CIDR block', 'write 10.0.0.5, 10.0.0.0/8 or fd00::/8')
export const addressBlock = z.string(noBlock).refine(isBlock, noBlock)

function isBlock(entry: string): boolean {
  try {
    addressList([entry])
    return true
  } catch {
    return false
  }
}

const LABEL = '[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?'

export const domain = text(
  'domain',
  'write example.com, *.example.com or *, without scheme, port and path',
  new RegExp(`^(\\*|(\\*\\.)?${LABEL}(\\.${LABEL})*|${V6})$`),
)

export const pageOrigin = text(
  "page's origin",
  'write https://chat.example.com, https://*.example.com, with a port if it has one and without a path, or "null"',
  new RegExp(`^(null|([a-z][a-z0-9+.-]*://)?((\\*\\.)?${LABEL}(\\.${LABEL})*|${V6})(${PORT})?)$`, 'i'),
)

function url(what: string, remedy: string, form: RegExp) {
  const complaint = wrong(what, remedy)
  return z
    .string(complaint)
    .regex(form, { ...complaint, abort: true })
    .refine((value) => URL.canParse(value), complaint)
}

export const redisUrl = url(
  'address of a Redis',
  'write redis://host:6379, or rediss:// for TLS',
  /^rediss?:\/\/[^\s/]+(\/\d*)?$/,
)

export const webUrl = url(
  'URL without user and password',
  'write such as https://hooks.example.com/spikes',
  /^https?:\/\/[^\s/@]+(\/\S*)?$/,
)

export const hostName = text(
  'host name',
  'write such as chat.example.com, without a port',
  new RegExp(`^(${LABEL}(\\.${LABEL})*|${V6_BARE})$`),
)

export const hostAndPort = text(
  'host',
  'write chat.example.com, or chat.example.com:8080',
  new RegExp(`^(${V6}|${LABEL}(\\.${LABEL})*)(${PORT})?$`),
)

/** RFC 9110 section 5.6.2. */
const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/
export const fieldName = text('name of a header field', 'write letters, digits and dashes', TOKEN)

/** Without the fields that the handshake owns. */
export const ruledName = fieldName.refine((name) => !OWNED_FIELDS.has(name.toLowerCase()), {
  error: ({ input }: Wrong) => `${input} belongs to the handshake\nremove this rule`,
})

/** A request has exactly one `Host`: it may be set and neither added to nor removed. */
export const ruledNameButHost = ruledName.refine((name) => name.toLowerCase() !== 'host', {
  error: () => 'a request has exactly one Host\nuse set, or overrideHost of the backend',
})

/** RFC 6265 section 4.1.1. */
export const cookieName = text('name of a cookie', 'write it as it is sent, such as sid', TOKEN)

/** RFC 6265 section 4.1.1; browsers pass over a path without the slash. */
export const cookiePath = text('path of a cookie', 'write / or such as /socket.io', /^\/[!-:<-~]*$/)

/** RFC 9110 section 5.5. A value may be a secret, and is never shown. */
export const fieldValue = z
  .string({ error: () => 'the value of a header field must be a text\nput it into quotes' })
  .regex(
    /^[\t\x20-\x7e\x80-\xff]*$/,
    'the value has characters that a header field may not have\nwrite latin1 without line breaks',
  )

export const method = text('method', 'write it in capitals, such as GET', /^[A-Z]+(-[A-Z]+)*$/)

/** Of a request of our own. */
export const requestPath = text('path', 'write such as /healthz', /^\/[\x21-\x7e]*$/)

/** A star anywhere else, a query or a fragment would be compared literally, and never match. */
export const pathPattern = text(
  'path pattern',
  'write /chat, /chat/* for all below, or /rooms/:id/ws for any one segment',
  /^(\*|(\/[^*?#\s/]*)*\/([^*?#\s/]*|\*))$/,
)
