// A director: a named group of backends, and the policy by which one is chosen for a request. What it gives is an order: the
// first is dialled, the others stand by in case it can't be.

import { createHash } from 'node:crypto'
import { HeadraceError } from '../errors.ts'
import type { Backend } from './backend.ts'

export type Policy = 'random' | 'leastConnections' | 'hash' | 'fallback'

/** What of a request its key for `hash` is. */
export type HashBy =
  | { readonly of: 'client' }
  | { readonly of: 'header' | 'cookie' | 'query'; readonly name: string }

export interface DirectorOptions {
  readonly name: string
  /** In the order of the config, which is the one that `fallback` goes by. */
  readonly members: readonly { readonly backend: string; readonly weight: number }[]
  readonly policy: Policy
  readonly hashBy: HashBy
  /** How many backends are dialled for a request at most; undefined: each of them once. */
  readonly attempts: number | undefined
  /** All of these dials together, in ms. */
  readonly timeoutMs: number
  /** Undefined: each request goes by the policy. */
  readonly sticky: StickyOptions | undefined
}

/** The cookie that keeps a client with its backend. */
export interface StickyOptions {
  readonly cookie: string
  readonly path: string
  /** From the last answer on; undefined: as long as the client's session. */
  readonly maxAgeMs: number | undefined
  readonly sameSite: 'Lax' | 'Strict' | 'None'
  /** Undefined: if the client has come by TLS. */
  readonly secure: boolean | undefined
  readonly partitioned: boolean
}

export interface Director {
  readonly options: DirectorOptions
  readonly members: readonly Member[]
  /** The backends by what cookies call them. */
  readonly byMark: ReadonlyMap<string, Backend>
}

interface Member {
  readonly backend: Backend
  readonly weight: number
  /** Made of the name: where the others stand in the list doesn't matter. */
  readonly seed: number
}

/** Backends for one request, in the order in which they are dialled: at least one, none twice. */
export interface Choice {
  readonly backends: readonly Backend[]
  /** All dials together, in ms. */
  readonly timeoutMs: number
  /** Absent: nothing keeps the client with the backend that it reaches. */
  readonly sticky?: Sticky
  /** A process that is about to listen there: a dial that is refused is tried again for as long as that. */
  readonly isAwaited?: boolean
}

export interface Sticky {
  /** Its name; origins don't get it. */
  readonly cookie: string
  /** The value of Set-Cookie in an answer of this backend; null: the client has it. */
  setCookieFor(backend: Backend): string | null
}

/** Throws config-invalid. */
export function createDirector(options: DirectorOptions, backends: ReadonlyMap<string, Backend>): Director {
  const members = options.members.map(({ backend: name, weight }) => {
    const backend = backends.get(name)
    if (backend === undefined) {
      throw new HeadraceError('config-invalid', `the director ${options.name} names no backend ${name}`)
    }
    return { backend, weight, seed: hashOf(name) }
  })
  const byMark = new Map(members.map(({ backend }) => [markOf(backend.options.name), backend]))
  return { options, members, byMark }
}

/** The backend alone, with no time but its own. */
export function onlyChoice(backend: Backend): Choice {
  return { backends: [backend], timeoutMs: Infinity }
}

/**
 * `key`: the request's, for the policy `hash`; null if it has none, and goes anywhere. `kept`: the backend that its client has
 * had, first among those who are as well as it is. Who is ejected comes last. Who is down does not come at all, unless nobody is
 * healthy: then each is worth a try.
 */
export function choose(
  { options, members }: Director,
  key: string | null,
  kept: Backend | null = null,
): Choice {
  const tiers = { healthy: [] as Member[], ejected: [] as Member[], down: [] as Member[] }
  for (const member of members) tiers[member.backend.health.standing].push(member)
  const last = tiers.healthy.length === 0 ? tiers.down : []
  const ordered = [tiers.healthy, tiers.ejected, last].flatMap((tier) =>
    withFirst(kept, inOrder(tier, options.policy, key)),
  )
  return { backends: ordered.slice(0, options.attempts), timeoutMs: options.timeoutMs }
}

function withFirst(first: Backend | null, backends: Backend[]): Backend[] {
  if (first === null || !backends.includes(first)) return backends
  return [first, ...backends.filter((one) => one !== first)]
}

function inOrder(members: readonly Member[], policy: Policy, key: string | null): Backend[] {
  if (members.length < 2 || policy === 'fallback') return members.map(({ backend }) => backend)
  const costOf = costs(policy, key)
  return members
    .map((member) => ({ backend: member.backend, cost: costOf(member), tie: Math.random() }))
    .sort((a, b) => a.cost - b.cost || a.tie - b.tie)
    .map(({ backend }) => backend)
}

/** The least goes first. */
function costs(policy: Exclude<Policy, 'fallback'>, key: string | null): (member: Member) => number {
  if (policy === 'leastConnections') {
    // With the one that is about to come: of empty backends the heaviest is first.
    return ({ backend, weight }) => (backend.connections + 1) / weight
  }
  if (policy === 'random' || key === null) return ({ weight }) => exponential(Math.random(), weight)
  const hash = hashOf(key)
  return ({ seed, weight }) => exponential((mixed(hash ^ seed) + 0.5) / 2 ** 32, weight)
}

/**
 * Of independent exponential variables the least is each one's with a chance in proportion to its weight, and so on among the
 * rest. With random numbers that is a weighted shuffle; with numbers made of key and name it is weighted rendezvous hashing
 * (Thaler and Ravishankar 1998): who comes or goes only takes or leaves its own share of the keys.
 */
function exponential(uniform: number, weight: number): number {
  return -Math.log(uniform) / weight
}

/** What a cookie calls the backend of this name: the same for ever, since clients keep it. */
export function markOf(name: string): string {
  return createHash('sha256').update(name).digest('base64url').slice(0, 16)
}

/** The same in every process and on every machine. */
function hashOf(text: string): number {
  return createHash('sha1').update(text).digest().readUInt32LE(0)
}

/** The finalizer of MurmurHash3: each bit of the input moves each of the output with a chance of one half. */
function mixed(value: number): number {
  let bits = value
  bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b)
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35)
  return (bits ^ (bits >>> 16)) >>> 0
}
