// The rules of a gate, compiled: in order, the first that allows or denies decides; one that only logs is noted, and the
// next is asked.

import type { SocketAddress } from 'node:net'
import type { AddressList } from '../accept/addresses.ts'
import { addressList } from '../accept/addresses.ts'
import type { Field, RequestHead } from '../head/head.ts'
import { pathPattern, valuePattern } from '../pattern.ts'

export interface RuleOptions {
  readonly name: string
  /** Addresses and CIDR blocks of clients; undefined for any client. */
  readonly from: readonly string[] | undefined
  /** Fields and what one of their values must look like, with stars; true: it is there; false: it isn't. */
  readonly headers: Readonly<Record<string, string | boolean>>
  /** As in routes. */
  readonly path: string | undefined
  readonly action: 'allow' | 'deny' | 'log'
}

export interface Rule {
  readonly name: string
  readonly action: RuleOptions['action']
  /** True if all of its conditions hold. */
  matches(address: SocketAddress | null, head: RequestHead): boolean
}

type Condition = (fields: readonly Field[]) => boolean

/** Throws config-invalid. */
export function compileRule({ name, action, from, headers, path }: RuleOptions): Rule {
  const addresses: AddressList | null = from === undefined ? null : addressList(from)
  const pattern = path === undefined ? null : pathPattern(path)
  const conditions = Object.entries(headers).map(([field, wanted]) => condition(field.toLowerCase(), wanted))
  return {
    name,
    action,
    matches(address, { target, fields }) {
      if (addresses !== null && !addresses.hasParsed(address)) return false
      if (pattern !== null && !pattern.test(pathOf(target))) return false
      return conditions.every((holds) => holds(fields))
    },
  }
}

function condition(key: string, wanted: string | boolean): Condition {
  if (typeof wanted === 'boolean') return (fields) => fields.some((one) => one.key === key) === wanted
  const isLike = valuePattern(wanted)
  return (fields) => fields.some((one) => one.key === key && isLike(one.value))
}

function pathOf(target: string): string {
  const mark = target.indexOf('?')
  return mark === -1 ? target : target.slice(0, mark)
}
