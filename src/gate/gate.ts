// The gate of a service, compiled: whether an upgrade request may go on. In this order: rules, Origin, and what is counted.
// It looks at nothing else than the request, and at a tunnel never again.

import type { SocketAddress } from 'node:net'
import { parsedAddress } from '../accept/addresses.ts'
import { HeadraceError } from '../errors.ts'
import type { RequestHead } from '../head/head.ts'
import { valuesOf } from '../head/head.ts'
import type { Claims, Denial, RateClaim, SeatClaim, Verdict } from './claims.ts'
import type { RuleOptions } from './conditions.ts'
import { compileRule } from './conditions.ts'
import { clientNetwork } from './network.ts'
import { originList } from './page-origins.ts'
import type { RateOptions } from './rates.ts'
import { compileRate } from './rates.ts'

export interface GateOptions {
  readonly rules: readonly RuleOptions[]
  /** Allowed values of Origin; undefined for any value. */
  readonly origins: readonly string[] | undefined
  /** Whether a request without Origin, which no browser sends, is refused. */
  readonly requireOrigin: boolean
  readonly rates: readonly RateOptions[]
  readonly maxConnections: number | undefined
  readonly maxConnectionsPerClient: number | undefined
  readonly expectedConnections: number | undefined
}

/** What refusals are called that no named rule makes. */
export const OWN_NAMES = ['origins', 'maxConnections', 'maxConnectionsPerClient'] as const

export interface Pass {
  /** The rule that allowed it; null if none did. */
  readonly rule: string | null
  /** What is to be granted before it may go on; null: nothing. */
  readonly claims: Claims | null
}

export interface Gate {
  /** Of the request `id`. `note` is told of rules that only log. Throws rule-denied or cross-origin. */
  check(id: string, address: string, head: RequestHead, note: (rule: string) => void): Pass
  /** Throws what a ledger has refused: rate-limited, service-full or client-full. */
  heed(verdict: Verdict): void
  /** How many requests each rule, rate and limit has decided, or noted. */
  readonly counts: Readonly<Record<string, number>>
}

/** `before`: what has been counted under the same names. Throws config-invalid. */
export function createGate(service: string, options: GateOptions, before: Gate['counts'] = {}): Gate {
  const { requireOrigin } = options
  const rules = options.rules.map(compileRule)
  const rates = options.rates.map(compileRate)
  const origins = options.origins === undefined ? null : originList(options.origins)
  const hasLists =
    options.rules.some(({ from }) => from) || options.rates.some(({ except }) => except.length > 0)
  const seatsFor = compileSeats(service, options)
  const counts = countsOf(options, before)

  function check(id: string, address: string, head: RequestHead, note: (rule: string) => void): Pass {
    const parsed = hasLists ? parsedAddress(address) : null
    const rule = firstOf(parsed, head, note)
    if (origins !== null || requireOrigin) checkOrigin(valuesOf(head.fields, 'origin'))
    return { rule, claims: claimsOf(id, address, parsed, head) }
  }

  function firstOf(address: SocketAddress | null, head: RequestHead, note: (rule: string) => void) {
    for (const { name, action, matches } of rules) {
      if (!matches(address, head)) continue
      count(name)
      if (action === 'allow') return name
      if (action === 'deny') throw refusal('rule-denied', name, 'it matches')
      note(name)
    }
    return null
  }

  function checkOrigin(values: readonly string[]): void {
    const [value] = values
    if (value === undefined && !requireOrigin) return
    if (value !== undefined && values.length === 1 && (origins === null || origins.has(value))) return
    count('origins')
    const found = values.length === 1 ? JSON.stringify(value) : `${values.length} Origin fields`
    throw refusal('cross-origin', 'origins', found)
  }

  function claimsOf(id: string, address: string, parsed: SocketAddress | null, head: RequestHead) {
    const points: RateClaim[] = []
    for (const rate of rates) {
      const claim = rate.claim(address, parsed, head)
      if (claim !== null) points.push(claim)
    }
    const seats = seatsFor(address)
    return points.length + seats.length === 0 ? null : { id, service, rates: points, seats }
  }

  function heed(verdict: Verdict): void {
    if (verdict.isGranted) return
    const { code, rule, detail, retryAfterMs } = verdict
    count(rule)
    throw refusal(code, rule, detail, retryAfterMs)
  }

  function count(name: string): void {
    counts[name] = (counts[name] ?? 0) + 1
  }

  function refusal(code: Refusal, rule: string, detail: string, retryAfterMs: number | null = null) {
    return new HeadraceError(code, `${rule} of service ${service}: ${detail}`, undefined, {
      rule,
      retryAfterMs,
    })
  }

  return { check, heed, counts }
}

type Refusal = 'rule-denied' | 'cross-origin' | Denial['code']

function countsOf({ rules, rates }: GateOptions, before: Gate['counts']): Record<string, number> {
  const names = [...OWN_NAMES, ...rules.map(({ name }) => name), ...rates.map(({ name }) => name)]
  return Object.fromEntries(names.map((name) => [name, before[name] ?? 0]))
}

/** That of the service is the same for all, that of a client is made when it comes. */
function compileSeats(service: string, options: GateOptions): (address: string) => readonly SeatClaim[] {
  const { maxConnections, maxConnectionsPerClient, expectedConnections } = options
  const isCounted = maxConnections !== undefined || expectedConnections !== undefined
  const own: SeatClaim = {
    rule: 'maxConnections',
    key: service,
    limit: maxConnections ?? null,
    expected: expectedConnections ?? null,
    code: 'service-full',
  }
  const common = isCounted ? [own] : []
  if (maxConnectionsPerClient === undefined) return () => common
  const perClient = {
    rule: 'maxConnectionsPerClient',
    limit: maxConnectionsPerClient,
    expected: null,
    code: 'client-full',
  } as const
  // What a client has too much of is told before what all have.
  return (address) => [{ ...perClient, key: `${service} ${clientNetwork(address)}` }, ...common]
}
