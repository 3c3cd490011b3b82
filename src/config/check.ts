// What several keys say together: names that must be known or unique, and values that only make sense beside others.
// It reads what was written and not what the schema made of it, so that all problems are told at once: whatever has the
// wrong shape is told by the schema and passed over here.

import { addressList } from '../accept/addresses.ts'
import { OWN_NAMES } from '../gate/gate.ts'
import { checkDirectors, checkHealth } from './check-directors.ts'
import type { Part } from './parts.ts'
import { part, parts, unique } from './parts.ts'
import type { Complain, Path } from './problems.ts'
import { suggestion } from './problems.ts'

export function checkConfig(input: unknown, complain: Complain): void {
  const { listeners, services, admin, user, group } = part(input)
  checkListeners(listeners, ['listeners'], complain)
  checkAdmin(part(admin), complain)
  if (group !== undefined && user === undefined)
    complain(['group'], 'a group without a user', 'name the user as well')
  unique(parts(services), 'id', ['services'], complain)
  const owners = new Map<string, number>()
  for (const [at, service] of parts(services).entries()) {
    checkDomains(service, at, owners, complain)
    checkService(service, ['services', at], complain)
    checkGate(part(service.gate), ['services', at, 'gate'], complain)
  }
}

export function checkListeners(listeners: unknown, path: Path, complain: Complain): void {
  unique(parts(listeners), 'address', path, complain, (address) => !address.endsWith(':0'))
}

/** Whoever reaches it can end every tunnel with a stolen token, or read who is connected with none. */
function checkAdmin({ address, tls, tokens }: Part, complain: Complain): void {
  if (typeof address !== 'string' || isLoopback(address)) return
  const missing = [...(tls === undefined ? ['tls'] : []), ...(tokens === undefined ? ['tokens'] : [])]
  if (missing.length === 0) return
  complain(
    ['admin', 'address'],
    `others than this machine reach ${address}, and there is no ${missing.join(' and no ')}`,
    'write 127.0.0.1 and a port, or tls and tokens beside it',
  )
}

const LOOPBACK = addressList(['127.0.0.0/8', '::1'])

function isLoopback(address: string): boolean {
  const host = address.slice(0, address.lastIndexOf(':')).replace(/^\[|\]$/g, '')
  return address.startsWith('unix:') || host === 'localhost' || LOOPBACK.has(host)
}

function checkDomains(service: Part, at: number, owners: Map<string, number>, complain: Complain): void {
  const domains: unknown[] = Array.isArray(service.domains) ? service.domains : []
  for (const [index, domain] of domains.entries()) {
    if (typeof domain !== 'string') continue
    const owner = owners.get(domain.toLowerCase())
    owners.set(domain.toLowerCase(), owner ?? at)
    if (owner === undefined) continue
    complain(
      ['services', at, 'domains', index],
      owner === at ? `${domain} is there twice` : `${domain} belongs to services[${owner}] already`,
      'give each domain to one service, once',
    )
  }
}

function checkService(service: Part, path: Path, complain: Complain): void {
  const { backends, directors, routes, handler, program } = service
  checkProgram(service, path, complain)
  if (backends === undefined && handler === undefined && program === undefined)
    complain(
      [...path, 'backends'],
      'is missing',
      'write at least one, or a handler or program that serves by itself',
    )
  unique(parts(backends), 'name', [...path, 'backends'], complain)
  for (const [at, backend] of parts(backends).entries()) {
    checkBackend(backend, [...path, 'backends', at], complain)
  }
  const names = namesOf(backends)
  checkDirectors(directors, names, [...path, 'directors'], complain)
  const targets = { backends: names, directors: namesOf(directors) }
  for (const [at, route] of parts(routes).entries()) {
    checkRoute(route, targets, [...path, 'routes', at], complain)
  }
  if (routes !== undefined && handler !== undefined) {
    complain([...path, 'handler'], 'a handler beside routes', 'let one of them decide and remove the other')
  }
  const choices = directors === undefined ? backends : directors
  if (routes === undefined && handler === undefined && program === undefined && parts(choices).length > 1) {
    const what = directors === undefined ? 'backends' : 'directors'
    complain(path, `several ${what}, and nothing that decides between them`, 'write routes or a handler')
  }
}

function checkProgram(
  { program, routes, handler, backends, directors }: Part,
  path: Path,
  complain: Complain,
): void {
  if (program === undefined) return
  const beside = routes !== undefined ? 'routes' : handler !== undefined ? 'a handler' : null
  if (beside !== null) {
    complain(
      [...path, 'program'],
      `a program beside ${beside}`,
      'let one of them decide and remove the other',
    )
  }
  const { fastly, worker, objects, backend } = part(program)
  if ((fastly === undefined) === (worker === undefined)) {
    const found = fastly === undefined ? 'a program of no kind' : 'a program of two kinds'
    complain([...path, 'program'], found, 'write fastly: ./main.js or worker: ./worker.js')
  }
  for (const [key, value] of Object.entries({ objects, backend })) {
    if (value === undefined || worker !== undefined) continue
    complain([...path, 'program', key], `${key} of a program that is no worker`, 'remove it')
  }
  const known = [...namesOf(backends), ...namesOf(directors)]
  if (typeof backend === 'string' && !known.includes(backend)) {
    const reason = `no backend or director ${backend}${suggestion(backend, known)}`
    complain([...path, 'program', 'backend'], reason, `there are ${known.join(', ')}`)
  }
}

function namesOf(items: unknown): string[] {
  return [...new Set(parts(items).flatMap(({ name }) => (typeof name === 'string' ? [name] : [])))]
}

/** Rules and rates share their names: logs and metrics tell them apart by nothing else. */
function checkGate({ rules, rates, ...gate }: Part, path: Path, complain: Complain): void {
  const seen = new Set<unknown>()
  for (const [key, items] of [
    ['rules', parts(rules)],
    ['rates', parts(rates)],
  ] as const) {
    for (const [at, { name }] of items.entries()) {
      const isOwn = OWN_NAMES.some((own) => own === name)
      if (typeof name === 'string' && (isOwn || seen.has(name))) {
        const reason = isOwn ? `${name} is what Headrace calls refusals of its own` : `${name} is there twice`
        complain([...path, key, at, 'name'], reason, 'give each rule and rate its own name')
      }
      seen.add(name)
    }
  }
  if (Number(gate.expectedConnections) >= Number(gate.maxConnections)) {
    const reason = 'never exceeded, since maxConnections is not higher'
    complain([...path, 'expectedConnections'], reason, 'write a number below maxConnections')
  }
}

function checkBackend(backend: Part, path: Path, complain: Complain): void {
  const { tls } = backend
  const hasTls = tls !== undefined && tls !== false && tls !== 'off' && tls !== 'false'
  checkHealth(backend, hasTls, path, complain)
  if (hasTls) return
  for (const key of ['certHostname', 'sniHostname', 'clientCertificate']) {
    if (backend[key] === undefined) continue
    complain([...path, key], `${key} without tls`, 'write tls: true beside it, or remove it')
  }
}

const ACTIONS = ['handoff', 'send', 'respond'] as const

interface Targets {
  readonly backends: readonly string[]
  readonly directors: readonly string[]
}

function checkRoute(route: Part, { backends, directors }: Targets, path: Path, complain: Complain): void {
  const actions = ACTIONS.filter((key) => route[key] !== undefined)
  if (actions.length !== 1) {
    const found = actions.length === 0 ? 'a route without an action' : `a route with ${actions.join(' and ')}`
    complain(path, found, 'write one of handoff, send and respond')
  }
  for (const key of ['handoff', 'send']) {
    const name = route[key]
    const known = [...backends, ...directors]
    if (typeof name !== 'string' || backends.length === 0 || known.includes(name)) continue
    const remedy = `the backends are ${backends.join(', ')}`
    complain(
      [...path, key],
      `no backend${directors.length === 0 ? '' : ' or director'} ${name}${suggestion(name, known)}`,
      directors.length === 0 ? remedy : `${remedy}, the directors ${directors.join(', ')}`,
    )
  }
  if (route.handoff !== undefined && part(route.match).upgrade === 'none') {
    complain(
      [...path, 'handoff'],
      'a handoff of what is no upgrade',
      'write send, or match upgrade: websocket',
    )
  }
}
