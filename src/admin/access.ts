// Who asks, and whether from here at all.
//
// On the control socket it is whoever may open the file: a superuser. On the admin address it is whoever has the token; if
// no tokens are configured, everybody on this machine may read, and nobody may change anything.

import type { IncomingMessage } from 'node:http'
import { isAddress } from '../accept/addresses.ts'
import type { Actor } from '../observe/program-lines.ts'
import type { Role } from './roles.ts'
import { mayDo } from './roles.ts'
import type { Fault } from './route.ts'
import type { TokenBook } from './tokens.ts'

/** The door that a request came through. */
export interface Door {
  readonly kind: 'control socket' | 'address'
  readonly isUnix: boolean
  readonly isTls: boolean
  /** Null: none are configured. */
  readonly tokens: TokenBook | null
}

export interface Caller extends Actor {
  readonly role: Role
}

/**
 * Browsers let any page send requests to this machine. A page of another origin says so in `Origin`; one whose name was
 * made to point here (DNS rebinding) says its name in `Host`, and would pass for this origin. With tokens a name is fine:
 * the page has none.
 */
export function strangerFault({ headers }: IncomingMessage, door: Door): Fault | null {
  const { host = '', origin } = headers
  const name = host.replace(/:[0-9]+$/, '')
  const isHere = isAddress(name.replace(/^\[|\]$/g, '')) || name === 'localhost'
  if (!isHere && !door.isUnix && door.tokens === null) {
    return {
      status: 421,
      detail: `this is not ${JSON.stringify(host)}: use an IP address or localhost, or configure tokens`,
    }
  }
  if (origin !== undefined && origin !== `${door.isTls ? 'https' : 'http'}://${host}`) {
    return { status: 403, detail: `pages of ${origin} may not use this API` }
  }
  return null
}

/** The caller, if what it needs is a role that it has. */
export function callerOf(request: IncomingMessage, door: Door, needed: Role | null): Caller | Fault {
  const address = request.socket.remoteAddress ?? ''
  const nobody = { name: 'anonymous', role: 'user', token: '', address } as const
  if (door.kind === 'control socket') return { ...nobody, name: 'control socket', role: 'superuser' }
  if (needed === null) return nobody
  if (door.tokens === null) {
    if (mayDo(nobody.role, needed)) return nobody
    const detail =
      'no tokens are configured, so that nobody may change anything here: set admin.tokens, or use the command line'
    return { status: 403, detail }
  }
  const record = door.tokens.find(tokenOf(request))
  if (record === null) {
    const detail = 'a valid token is needed: Authorization: Bearer TOKEN, or Fastly-Key: TOKEN'
    return { status: 401, detail, fields: { 'WWW-Authenticate': 'Bearer realm="headrace"' } }
  }
  const { name, role, id } = record
  if (!mayDo(role, needed))
    return { status: 403, detail: `${name} has the role ${role}, and this needs ${needed}` }
  return { name, role, token: id, address }
}

function tokenOf({ headers }: IncomingMessage): string {
  const [, bearer] = /^Bearer +(\S+)$/i.exec(headers.authorization ?? '') ?? []
  const { 'fastly-key': key } = headers
  return bearer ?? (typeof key === 'string' ? key : '')
}
