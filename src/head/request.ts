// What every request must be before anything is decided about it, whoever parsed it (RFC 9112, RFC 9110).
// Stricter than llhttp where llhttp leaves a door open; nothing here parses.

import { HeadraceError } from '../errors.ts'
import type { Field, RequestHead } from './head.ts'
import { valuesOf } from './head.ts'

/** What is left of a request that was accepted. */
export interface Checked {
  /** The host without port, in lower case. */
  readonly host: string
  /** The same head, its target in origin form (or `*`). */
  readonly head: RequestHead
}

/** RFC 9110 section 5.5: no control but the tab in a value. */
const CONTROL = /[\0-\x08\x0a-\x1f\x7f]/
/** RFC 3986 section 3.2.2, without user information: a name or IPv4, or an IPv6 literal; and a port. */
const HOST = /^([A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?$/
/** Printable ASCII without the space, and obs-text, which some clients put into paths. */
const TARGET = /^[\x21-\x7e\x80-\xff]+$/
const ABSOLUTE_FORM = /^(?:https?|wss?):\/\/([^/?#]*)(.*)$/i

/** Throws version-unsupported, head-malformed, host-invalid, target-invalid or framing-invalid. */
export function checkRequest(head: RequestHead): Checked {
  if (head.version !== '1.1' && head.version !== '1.0') {
    throw new HeadraceError('version-unsupported', `HTTP/${head.version}`)
  }
  checkValues(head.fields)
  const authority = checkHost(head.fields)
  checkFraming(head)
  const target = originForm(head, authority)
  const host = authority
    .replace(/:[0-9]*$/, '')
    .replace(/\.$/, '')
    .toLowerCase()
  return { host, head: target === head.target ? head : { ...head, target } }
}

function checkValues(fields: readonly Field[]): void {
  for (const { name, value } of fields) {
    if (CONTROL.test(value))
      throw new HeadraceError('head-malformed', `a control character in the value of ${name}`)
  }
}

function checkHost(fields: readonly Field[]): string {
  const hosts = valuesOf(fields, 'host')
  const [host] = hosts
  if (hosts.length !== 1 || host === undefined)
    throw new HeadraceError('host-invalid', `${hosts.length} Host fields`)
  if (!HOST.test(host)) throw new HeadraceError('host-invalid', JSON.stringify(host))
  return host
}

/** One way to know the length of the body, or none: the root of request smuggling (RFC 9112 section 6.3). */
function checkFraming(head: RequestHead): void {
  const codings = valuesOf(head.fields, 'transfer-encoding')
  const lengths = valuesOf(head.fields, 'content-length')
  if (codings.length > 0) {
    if (lengths.length > 0) throw new HeadraceError('framing-invalid', 'Content-Length and Transfer-Encoding')
    const isChunked = codings.length === 1 && codings[0]?.toLowerCase() === 'chunked'
    if (!isChunked) throw new HeadraceError('framing-invalid', `Transfer-Encoding: ${codings.join(', ')}`)
    if (head.version === '1.0') throw new HeadraceError('framing-invalid', 'Transfer-Encoding in HTTP/1.0')
  }
  if (lengths.length > 1)
    throw new HeadraceError('framing-invalid', `${lengths.length} Content-Length fields`)
  if (lengths[0] !== undefined && !/^[0-9]{1,15}$/.test(lengths[0])) {
    throw new HeadraceError('framing-invalid', `Content-Length: ${lengths[0]}`)
  }
}

/** The target as an origin wants it (RFC 9112 section 3.2.1); an absolute one must name the host of the Host field. */
function originForm({ method, target }: RequestHead, authority: string): string {
  if (method === 'CONNECT') throw new HeadraceError('target-invalid', 'CONNECT')
  if (!TARGET.test(target)) throw new HeadraceError('target-invalid', 'characters that a target may not have')
  if (target.startsWith('/')) return target
  if (target === '*' && method === 'OPTIONS') return target
  const [, host, rest] = ABSOLUTE_FORM.exec(target) ?? []
  if (host === undefined || rest === undefined)
    throw new HeadraceError('target-invalid', 'neither path nor URI')
  if (host.toLowerCase() !== authority.toLowerCase()) {
    throw new HeadraceError('target-invalid', `the target is for ${host}, Host for ${authority}`)
  }
  return rest.startsWith('/') ? rest : `/${rest}`
}
