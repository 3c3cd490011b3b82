// What directors and health say together with other keys; the rest of check.ts, and read in the same way.

import { EJECTION_FOR_MS, EJECTION_MAX_MS } from './directors.ts'
import type { Part } from './parts.ts'
import { part, parts, unique } from './parts.ts'
import type { Complain, Path } from './problems.ts'
import { suggestion } from './problems.ts'
import { milliseconds } from './units.ts'

/** `backends`: the names of those of the service. */
export function checkDirectors(
  directors: unknown,
  backends: readonly string[],
  path: Path,
  complain: Complain,
): void {
  unique(parts(directors), 'name', path, complain)
  for (const [at, director] of parts(directors).entries()) {
    if (typeof director.name === 'string' && backends.includes(director.name)) {
      const reason = `${director.name} is the name of a backend already`
      complain([...path, at, 'name'], reason, 'give the director a name of its own')
    }
    checkMembers(director, backends, [...path, at], complain)
    checkHash(director, [...path, at], complain)
    checkSticky(director, [...path, at, 'sticky'], complain)
  }
  checkCookies(parts(directors), path, complain)
}

function checkMembers(director: Part, backends: readonly string[], path: Path, complain: Complain): void {
  const members: unknown[] = Array.isArray(director.backends) ? director.backends : []
  const seen = new Set<string>()
  for (const [at, member] of members.entries()) {
    const place = [...path, 'backends', at]
    const name = typeof member === 'string' ? member : part(member).name
    if (director.policy === 'fallback' && part(member).weight !== undefined) {
      complain(
        [...place, 'weight'],
        'a weight with the policy fallback',
        'order is all that counts: remove it',
      )
    }
    if (typeof name !== 'string') continue
    if (seen.has(name)) complain(place, `${name} is there twice`, 'give it a weight instead')
    seen.add(name)
    if (backends.length === 0 || backends.includes(name)) continue
    complain(
      place,
      `no backend ${name}${suggestion(name, backends)}`,
      `the backends are ${backends.join(', ')}`,
    )
  }
}

const KEYS = ['header', 'cookie', 'query'] as const

function checkHash({ hash, policy }: Part, path: Path, complain: Complain): void {
  if (hash === undefined) return
  if (policy !== 'hash')
    complain([...path, 'hash'], 'hash with another policy', 'write policy: hash beside it')
  if (typeof hash !== 'object' || hash === null) return
  const given = KEYS.filter((key) => part(hash)[key] !== undefined)
  if (given.length === 1) return
  const found = given.length === 0 ? 'a key of nothing' : `a key of ${given.join(' and ')}`
  complain([...path, 'hash'], found, 'write one of header, cookie and query')
}

const OFF: readonly unknown[] = [false, 'off', 'false']
const ON: readonly unknown[] = [true, 'on', 'true']

/** What browsers would refuse. */
function checkSticky({ sticky }: Part, path: Path, complain: Complain): void {
  const { cookie, path: where = '/', sameSite, secure, partitioned } = part(sticky)
  if (OFF.includes(secure) && (sameSite === 'none' || ON.includes(partitioned))) {
    const what = sameSite === 'none' ? 'sameSite: none' : 'partitioned'
    complain([...path, 'secure'], `${what} without Secure, which browsers refuse`, 'remove it')
  }
  const [, prefix = ''] = typeof cookie === 'string' ? (/^__(host|secure)-/i.exec(cookie) ?? []) : []
  if (prefix !== '' && !ON.includes(secure)) {
    const reason = `${cookie} is a name that browsers take with Secure only`
    complain([...path, 'cookie'], reason, 'write secure: on beside it, or another name')
  }
  if (prefix.toLowerCase() === 'host' && where !== '/') {
    complain([...path, 'path'], `${cookie} is a name that browsers take with the path / only`, 'remove it')
  }
}

/** Two directors may share a cookie if they share their backends: else each would take the client from the other. */
function checkCookies(directors: readonly Part[], path: Path, complain: Complain): void {
  const owners = new Map<string, Part>()
  for (const [at, director] of directors.entries()) {
    const { cookie } = part(director.sticky)
    if (typeof cookie !== 'string') continue
    const owner = owners.get(cookie) ?? director
    owners.set(cookie, owner)
    if (membersOf(owner) === membersOf(director)) continue
    const reason = `${cookie} is the cookie of ${owner.name}, which has other backends`
    complain([...path, at, 'sticky', 'cookie'], reason, 'give it another name')
  }
}

function membersOf({ backends }: Part): string {
  const members: unknown[] = Array.isArray(backends) ? backends : []
  const names = members.map((one) => (typeof one === 'string' ? one : String(part(one).name)))
  return names.sort().join('\n')
}

/** Of one backend. */
export function checkHealth(
  { health, ejection }: Part,
  hasTls: boolean,
  path: Path,
  complain: Complain,
): void {
  const { check, path: asked, expect } = part(health)
  if (check === 'tls' && !hasTls) {
    complain(
      [...path, 'health', 'check'],
      'a tls check without tls',
      'write tls: true beside it, or check: tcp',
    )
  }
  for (const [key, value] of Object.entries({ path: asked, expect })) {
    if (value === undefined || check === undefined || check === 'http') continue
    complain(
      [...path, 'health', key],
      `${key} of a check that asks nothing`,
      'write check: http, or remove it',
    )
  }
  const { for: first = EJECTION_FOR_MS, max = EJECTION_MAX_MS } = part(ejection)
  if ((msOf(first) ?? 0) > (msOf(max) ?? Infinity)) {
    const key = part(ejection).max === undefined ? 'for' : 'max'
    complain([...path, 'ejection', key], 'max is less than for', 'write a max of at least the first ejection')
  }
}

function msOf(value: unknown): number | undefined {
  return typeof value === 'string' || typeof value === 'number' ? milliseconds(value) : undefined
}
