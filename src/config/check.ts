// What a shape alone can't say: names that must be known or unique, and values that only make sense together.

import { addressList, isAddress } from '../accept/addresses.ts'
import { OWNED_FIELDS } from '../handoff/request-view.ts'
import type { Path } from './problems.ts'
import { suggestion } from './problems.ts'
import type { BackendShape, ConfigShape, ListenerShape, RouteShape, ServiceShape } from './schema.ts'

/** Tells one problem. */
export type Complain = (path: Path, reason: string, remedy: string) => void

/** The parser's scratch, in bytes: no head can be longer. */
const LARGEST_HEAD = 65_536
const DOMAIN =
  /^(\*|(\*\.)?[a-z0-9]([a-z0-9_-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9_-]*[a-z0-9])?)*|\[[0-9a-f:.]+\])$/i

export function checkConfig(config: ConfigShape, complain: Complain): void {
  for (const [at, one] of (config.listeners ?? []).entries()) checkListener(one, ['listeners', at], complain)
  const { headSize } = config.limits ?? {}
  if (headSize !== undefined && (headSize > LARGEST_HEAD || headSize < 128)) {
    complain(
      ['limits', 'headSize'],
      `${headSize} bytes is not from 128B to 64KiB`,
      'write a size between them',
    )
  }
  unique(config.services, ({ id }) => id, ['services'], 'id', complain)
  const owners = new Map<string, string>()
  for (const [at, service] of config.services.entries()) {
    checkDomains(service, ['services', at, 'domains'], owners, complain)
    checkService(service, ['services', at], complain)
  }
}

export function checkListener(
  { address, proxyProtocol, forwarded }: ListenerShape,
  path: Path,
  complain: Complain,
): void {
  const [, port] = /^(?:\[[^\]]+\]|[^:[\]]*):([0-9]{1,5})$/.exec(address) ?? []
  const isUnix = address.startsWith('unix:') && address.length > 'unix:'.length
  if (!isUnix && (port === undefined || Number(port) > 65_535)) {
    complain(
      [...path, 'address'],
      `${address} is no address`,
      'write host:port, :port, [v6]:port or unix:/path',
    )
  }
  checkBlocks(proxyProtocol?.from, [...path, 'proxyProtocol'], complain)
  checkBlocks(forwarded?.from, [...path, 'forwarded'], complain)
}

function checkBlocks(from: readonly string[] | undefined, path: Path, complain: Complain): void {
  for (const [at, entry] of (from ?? []).entries()) {
    try {
      addressList([entry])
    } catch {
      complain(
        [...path, 'from', at],
        `${entry} is no address and no CIDR block`,
        'write 10.0.0.5, 10.0.0.0/8 or fd00::/8',
      )
    }
  }
}

function checkDomains(
  { id, domains }: ServiceShape,
  path: Path,
  owners: Map<string, string>,
  complain: Complain,
): void {
  for (const [at, domain] of domains.entries()) {
    const name = domain.toLowerCase()
    const owner = owners.get(name)
    if (!DOMAIN.test(domain))
      complain([...path, at], `${domain} is no domain`, 'write example.com, *.example.com or *')
    else if (owner !== undefined) {
      complain([...path, at], `${domain} belongs to service ${owner}`, 'give each domain to one service')
    } else owners.set(name, id)
  }
}

function checkService(service: ServiceShape, path: Path, complain: Complain): void {
  const { backends, headers, routes, handler } = service
  unique(backends, ({ name }) => name, [...path, 'backends'], 'name', complain)
  for (const [at, backend] of backends.entries()) checkBackend(backend, [...path, 'backends', at], complain)
  checkRules(headers, [...path, 'headers'], complain)
  const names = backends.map(({ name }) => name)
  for (const [at, route] of (routes ?? []).entries())
    checkRoute(route, names, [...path, 'routes', at], complain)
  if (routes !== undefined && handler !== undefined) {
    complain([...path, 'handler'], 'a handler beside routes', 'let one of them decide and remove the other')
  }
  if (routes === undefined && handler === undefined && backends.length > 1) {
    complain(path, 'several backends, and nothing that decides between them', 'write routes or a handler')
  }
}

function checkBackend(backend: BackendShape, path: Path, complain: Complain): void {
  const [, port] = /:([0-9]+)$/.exec(backend.address) ?? []
  if (!backend.address.startsWith('unix:') && (Number(port) > 65_535 || Number(port) < 1)) {
    complain([...path, 'address'], `${port} is no port`, 'write one from 1 to 65535')
  }
  for (const key of ['certHostname', 'sniHostname', 'clientCertificate'] as const) {
    if (backend[key] === undefined || backend.tls === true) continue
    complain([...path, key], `${key} without tls`, 'write tls: true beside it, or remove it')
  }
  for (const local of [backend.localAddress ?? []].flat()) {
    if (!isAddress(local))
      complain([...path, 'localAddress'], `${local} is no IP address`, 'write addresses of this machine')
  }
}

function checkRoute(route: RouteShape, backends: readonly string[], path: Path, complain: Complain): void {
  const actions = (['handoff', 'send', 'respond'] as const).filter((key) => route[key] !== undefined)
  if (actions.length !== 1) {
    const reason =
      actions.length === 0 ? 'a route without an action' : `a route with ${actions.join(' and ')}`
    complain(path, reason, 'write one of handoff, send and respond')
  }
  for (const key of ['handoff', 'send'] as const) {
    const name = route[key]
    if (name === undefined || backends.includes(name)) continue
    complain(
      [...path, key],
      `no backend ${name}${suggestion(name, backends)}`,
      `the backends are ${backends.join(', ')}`,
    )
  }
  if (route.handoff !== undefined && route.match?.upgrade === 'none') {
    complain(
      [...path, 'handoff'],
      'a handoff of what is no upgrade',
      'write send, or match upgrade: websocket',
    )
  }
  checkRules(route.headers, [...path, 'headers'], complain)
}

function checkRules(rules: ServiceShape['headers'], path: Path, complain: Complain): void {
  const named = {
    set: Object.keys(rules?.set ?? {}),
    add: Object.keys(rules?.add ?? {}),
    remove: rules?.remove ?? [],
  }
  for (const [rule, names] of Object.entries(named)) {
    for (const name of names) {
      const isHost = name.toLowerCase() === 'host' && rule !== 'set'
      if (!OWNED_FIELDS.has(name.toLowerCase()) && !isHost) continue
      complain([...path, rule], `${name} belongs to the connection`, 'remove this rule')
    }
  }
}

function unique<Item>(
  items: readonly Item[],
  keyOf: (item: Item) => string,
  path: Path,
  key: string,
  complain: Complain,
): void {
  const seen = new Set<string>()
  for (const [at, item] of items.entries()) {
    const value = keyOf(item)
    if (seen.has(value)) complain([...path, at, key], `${value} is there twice`, `give each its own ${key}`)
    seen.add(value)
  }
}
