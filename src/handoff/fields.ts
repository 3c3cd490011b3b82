// Which fields an origin gets: what ends at this hop goes, X-Forwarded-* come, then the rules, and the host last.

import type { Client } from '../accept/client.ts'
import { upgradeFields } from '../head/handshake.ts'
import type { Field, RequestHead } from '../head/head.ts'
import { endToEnd, field, firstValue, valuesOf } from '../head/head.ts'
import { withField } from './request-view.ts'

/** Applied in this order: remove, set, add. */
export interface HeaderRules {
  readonly set: readonly (readonly [name: string, value: string])[]
  readonly add: readonly (readonly [name: string, value: string])[]
  readonly remove: readonly string[]
}

const FORWARDED_FIELDS: ReadonlySet<string> = new Set([
  'x-forwarded-for',
  'x-forwarded-proto',
  'x-forwarded-host',
  'forwarded',
])

/**
 * The head as it would go to an origin if nobody changed it: what routes and handlers start from.
 * `withForwarded`: RFC 7239's field is sent, too.
 */
export function originHead(
  head: RequestHead,
  client: Client,
  isUpgrade: boolean,
  withForwarded: boolean,
): RequestHead {
  const passed = isUpgrade ? upgradeFields(head.fields) : plainFields(head.fields)
  return { ...head, version: '1.1', fields: forwardedFields(passed, client, withForwarded) }
}

/** Node's client frames the body by these two, and announces trailers by the third. */
function plainFields(fields: readonly Field[]): Field[] {
  return endToEnd(fields, ['transfer-encoding', 'trailer'])
}

/** Fields that say who the client is are kept only if it is trusted to say so. */
function forwardedFields(fields: readonly Field[], client: Client, withForwarded: boolean): readonly Field[] {
  const proto = client.tls === null ? 'http' : 'https'
  const host = firstValue(fields, 'host') ?? ''
  let result: readonly Field[] = client.mayForward
    ? fields
    : fields.filter(({ key }) => !FORWARDED_FIELDS.has(key))
  if (client.address !== '') {
    const chain = [...valuesOf(result, 'x-forwarded-for'), client.address].join(', ')
    result = withField(result, field('X-Forwarded-For', chain))
  }
  if (firstValue(result, 'x-forwarded-proto') === undefined)
    result = [...result, field('X-Forwarded-Proto', proto)]
  if (firstValue(result, 'x-forwarded-host') === undefined)
    result = [...result, field('X-Forwarded-Host', host)]
  if (!withForwarded) return result
  const chain = [...valuesOf(result, 'forwarded'), forwardedElement(client.address, proto, host)].join(', ')
  return withField(result, field('Forwarded', chain))
}

/** RFC 7239 section 4; an IPv6 address stands in brackets and quotes (section 6). */
function forwardedElement(address: string, proto: string, host: string): string {
  const node = address === '' ? 'unknown' : address.includes(':') ? `"[${address}]"` : address
  return `for=${node};host="${host}";proto=${proto}`
}

export function applyRules(fields: readonly Field[], rules: HeaderRules): readonly Field[] {
  let result = fields
  if (rules.remove.length > 0) {
    const removed = new Set(rules.remove.map((name) => name.toLowerCase()))
    result = result.filter(({ key }) => !removed.has(key))
  }
  for (const [name, value] of rules.set) result = withField(result, field(name, value))
  if (rules.add.length > 0) result = [...result, ...rules.add.map(([name, value]) => field(name, value))]
  return result
}

/** After everything else: the name under which the backend knows its site. */
export function withHost(fields: readonly Field[], overrideHost: string | undefined): readonly Field[] {
  return overrideHost === undefined ? fields : withField(fields, field('Host', overrideHost))
}
