// The cookies of a head (RFC 6265): those that a client sends, and the one that an answer sets.

import type { Field } from './head.ts'
import { field, tokensOf, valuesOf } from './head.ts'

/** The values of all cookies of this name, in their order; names have a letter case (section 5.4). */
export function cookieValues(fields: readonly Field[], name: string): string[] {
  const pairs = valuesOf(fields, 'cookie').flatMap((value) => value.split(';'))
  return pairs.filter((pair) => nameOf(pair) === name).map((pair) => pair.slice(pair.indexOf('=') + 1).trim())
}

/** `fields` without the cookies of this name. The others keep their bytes. */
export function withoutCookie(fields: readonly Field[], name: string): readonly Field[] {
  return fields.flatMap((one) => {
    if (one.key !== 'cookie') return one
    const pairs = one.value.split(';')
    const others = pairs.filter((pair) => nameOf(pair) !== name)
    if (others.length === pairs.length) return one
    const value = others.join(';').replace(/^[\t ]+/, '')
    return value === '' ? [] : field(one.name, value)
  })
}

/**
 * The fields of an answer with this value of Set-Cookie; null: as they are. That alone keeps no cache from storing it for
 * others (RFC 9111 section 7.3), so it becomes private.
 */
export function withSetCookie(fields: readonly Field[], setCookie: string | null): readonly Field[] {
  if (setCookie === null) return fields
  const isPrivate = tokensOf(fields, 'cache-control').some((one) => one === 'private' || one === 'no-store')
  const set = [...fields, field('Set-Cookie', setCookie)]
  return isPrivate ? set : [...set, field('Cache-Control', 'private')]
}

function nameOf(pair: string): string | null {
  const mark = pair.indexOf('=')
  return mark === -1 ? null : pair.slice(0, mark).trim()
}
