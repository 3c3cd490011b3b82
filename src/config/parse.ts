// From a config as it is written to the options of the rooms: checked, with every default in it, in ms and bytes.

import { availableParallelism } from 'node:os'
import { resolve } from 'node:path'
import type { z } from 'zod'
import type { ListenerOptions } from '../accept/listener.ts'
import type { AdminOptions } from '../admin/front.ts'
import type { BackendAddress, BackendOptions } from '../dial/backend.ts'
import type { EdgeOptions } from '../edge.ts'
import { HeadraceError } from '../errors.ts'
import type { GateOptions } from '../gate/gate.ts'
import type { HeaderRules } from '../handoff/fields.ts'
import type { RouteAction, RouteOptions } from '../handoff/routes.ts'
import type { TcpOptions } from '../linux/tuning.ts'
import type { ProgramOptions, ServiceOptions } from '../service/service.ts'
import { checkConfig, checkListeners } from './check.ts'
import { checkOptions, directorOptions, ejectionOptions } from './directors.ts'
import { tellIssues } from './issues.ts'
import type { Complain, Locate, Path, Problem } from './problems.ts'
import { configError, pathText, problem } from './problems.ts'
import type {
  BackendShape,
  ConfigInput,
  ConfigShape,
  GateShape,
  ListenerInput,
  ListenerShape,
  RouteShape,
  ServiceShape,
} from './schema.ts'
import { configSchema, listenersSchema } from './schema.ts'
import { milliseconds } from './units.ts'

const DRAIN_MS = 60_000

export interface Config {
  readonly listeners: readonly ListenerOptions[]
  readonly edge: EdgeOptions
  /** How many processes carry tunnels. */
  readonly workers: number
  /** After which a silent worker is killed; null: never. */
  readonly silentTimeoutMs: number | null
  /** How long the program still accepts when it is asked to stop. */
  readonly drainDelayMs: number
  /** Null: as whoever starts it. */
  readonly runAs: { readonly user: string | number; readonly group: string | number | undefined } | null
  readonly admin: AdminOptions | null
  /** What a new release may take until it could take over, in ms. */
  readonly upgradeTimeoutMs: number
  /** Whether a changed file is read again without being asked. */
  readonly watch: boolean
}

export interface ParseContext {
  /** What relative paths start from; default: the working directory. */
  readonly folder?: string
  readonly logLevel?: string
  /** Where usage is kept if the config does not say it; default: nowhere. */
  readonly stateDirectory?: string
  /** For messages. */
  readonly file?: string
  readonly locate?: Locate
  /** Problems that whoever read the config has found already: nothing else is said of their paths. */
  readonly problems?: readonly Problem[]
}

/** Throws config-invalid with every problem. `input` is not trusted to be what its type says. */
export function parseConfig(input: ConfigInput, context: ParseContext = {}): Config {
  const { folder = '.' } = context
  const config = parse(configSchema, input, checkConfig, context)
  return {
    listeners: (config.listeners ?? []).map((one) => listenerOptions(one, folder)),
    edge: edgeOptions(config, folder, context),
    workers:
      config.workers === undefined || config.workers === 'auto' ? availableParallelism() : config.workers,
    silentTimeoutMs: config.silentTimeout ?? null,
    drainDelayMs: config.drainDelay ?? 0,
    runAs: config.user === undefined ? null : { user: config.user, group: config.group },
    admin: adminOptions(config, folder),
    upgradeTimeoutMs: config.upgrade?.startTimeout ?? 60_000,
    watch: config.reload?.watch ?? false,
  }
}

/** Throws config-invalid with every problem. */
export function parseListeners(input: readonly ListenerInput[]): ListenerOptions[] {
  const check = (listeners: unknown, complain: Complain) => checkListeners(listeners, [], complain)
  return parse(listenersSchema, input, check).map((one) => listenerOptions(one, '.'))
}

/** The shape first, then what its parts say together, unless something is said of that path already. */
function parse<Shape>(
  schema: z.ZodType<Shape>,
  input: unknown,
  check: (input: unknown, complain: Complain) => void,
  { file, locate, problems = [] }: ParseContext = {},
): Shape {
  const parsed = schema.safeParse(input)
  const found = [...problems]
  const known = new Set(problems.map(({ path }) => path))
  const complain: Complain = (path, reason, remedy) => {
    if (!known.has(pathText(path))) found.push(problem(path, reason, remedy, locate))
  }
  tellIssues(parsed.error?.issues ?? [], complain)
  for (const { path } of parsed.error?.issues ?? []) known.add(pathText(path as Path))
  check(input, complain)
  if (!parsed.success || found.length > 0) throw configError(found, file)
  return parsed.data
}

/** Milliseconds. Throws argument-invalid. */
export function parseDuration(value: string | number): number {
  const ms = milliseconds(value)
  if (ms === undefined)
    throw new HeadraceError('argument-invalid', `${JSON.stringify(value)} is no duration: write '10s' or ms`)
  return ms
}

function edgeOptions(config: ConfigShape, folder: string, preset: ParseContext): EdgeOptions {
  const { limits, log, rateStore, webhook } = config
  const stateDirectory = config.stateDirectory ?? preset.stateDirectory
  return {
    services: config.services.map((one) => serviceOptions(one, folder)),
    limits: {
      headTimeoutMs: limits?.headTimeout ?? 10_000,
      headSize: limits?.headSize ?? 16_384,
      headFields: limits?.headFields ?? 100,
      earlySize: limits?.earlySize ?? 65_536,
    },
    engine: config.engine ?? 'auto',
    log: {
      level: log?.level ?? preset.logLevel ?? 'silent',
      headers: log?.headers ?? [],
      redact: log?.redact ?? [],
    },
    redis: typeof rateStore === 'object' ? rateStore.redis : undefined,
    webhook: webhook && { url: webhook.url, headers: webhook.headers ?? {} },
    drainTimeoutMs: config.drainTimeout ?? DRAIN_MS,
    drainSpreadMs: config.drainSpread ?? config.drainTimeout ?? DRAIN_MS,
    stateDirectory: stateDirectory === undefined ? undefined : resolve(folder, stateDirectory),
  }
}

function listenerOptions(
  { address, tls, proxyProtocol, forwarded, ...tcp }: ListenerShape,
  folder: string,
): ListenerOptions {
  const pairs = tls === undefined ? [] : [tls].flat()
  const minVersion = pairs.some((pair) => pair.minVersion === 'TLSv1.3') ? 'TLSv1.3' : 'TLSv1.2'
  return {
    address,
    tls:
      tls === undefined
        ? undefined
        : { pairs: pairs.map((pair) => certificatePair(pair, folder)), minVersion },
    proxyProtocol,
    forwarded,
    ...tcpOptions(tcp),
  }
}

type TcpShape = Pick<ListenerShape, 'keepalive' | 'keepaliveInterval' | 'keepaliveProbes' | 'userTimeout'>

function tcpOptions({ keepalive, keepaliveInterval, keepaliveProbes, userTimeout }: TcpShape): TcpOptions {
  return {
    keepaliveMs: keepalive ?? 60_000,
    keepaliveIntervalMs: keepaliveInterval,
    keepaliveProbes,
    userTimeoutMs: userTimeout,
  }
}

function serviceOptions(service: ServiceShape, folder: string): ServiceOptions {
  const {
    id,
    domains,
    websockets,
    backends = [],
    directors,
    headers,
    handler,
    handlerTimeout,
    forwarded,
  } = service
  const program = programOptions(service, folder)
  return {
    id,
    domains,
    websockets: websockets ?? false,
    gate: service.gate && gateOptions(service.gate),
    backends: backends.map((one) => backendOptions(one, folder)),
    directors: (directors ?? []).map(directorOptions),
    headers: headerRules(headers),
    routes: routesOf(service),
    handler: typeof handler === 'string' ? resolve(folder, handler) : handler,
    program,
    handlerTimeoutMs: handlerTimeout ?? (program === undefined ? 5_000 : 30_000),
    local: {
      maxPayload: service.local?.maxPayload ?? 1_048_576,
      maxBuffered: service.local?.maxBuffered ?? 4_194_304,
      deflate: service.local?.deflate ?? false,
    },
    forwarded: forwarded ?? false,
  }
}

function programOptions(
  { program, backends = [], directors = [] }: ServiceShape,
  folder: string,
): ProgramOptions | undefined {
  if (program === undefined) return undefined
  const { fastly, worker, env = {}, objects = {}, backend } = program
  const choices = directors.length > 0 ? directors : backends
  const [only] = choices.length === 1 ? choices : []
  return {
    kind: fastly === undefined ? 'worker' : 'fastly',
    file: resolve(folder, fastly ?? worker ?? ''),
    env,
    objects,
    backend: backend ?? only?.name ?? '',
  }
}

function gateOptions(gate: GateShape): GateOptions {
  return {
    rules: (gate.rules ?? []).map(({ name, from, headers, path, action }) => ({
      name,
      from,
      headers: headers ?? {},
      path: path === '*' ? undefined : path,
      action,
    })),
    origins: gate.origins,
    requireOrigin: gate.requireOrigin ?? false,
    rates: (gate.rates ?? []).map(({ name, per, limit, window, except }) => ({
      name,
      per,
      limit,
      windowMs: window,
      except: except ?? [],
    })),
    maxConnections: gate.maxConnections,
    maxConnectionsPerClient: gate.maxConnectionsPerClient,
    expectedConnections: gate.expectedConnections,
  }
}

/** With neither routes nor a handler, the only director or backend gets the upgrades. */
function routesOf({ routes, handler, program, backends = [], directors }: ServiceShape): RouteOptions[] {
  const [only] = directors ?? backends
  if (routes !== undefined) return routes.map(routeOptions)
  if (handler !== undefined || program !== undefined || only === undefined) return []
  return [routeOptions({ match: { upgrade: 'websocket' }, handoff: only.name })]
}

function routeOptions({ match, headers, ...action }: RouteShape): RouteOptions {
  return {
    match: {
      upgrade: match?.upgrade,
      path: match?.path === '*' ? undefined : match?.path,
      methods: match?.method === undefined ? undefined : [match.method].flat(),
      headers: match?.headers ?? {},
    },
    headers: headerRules(headers),
    action: routeAction(action),
  }
}

function routeAction({ handoff, send, respond }: Omit<RouteShape, 'match' | 'headers'>): RouteAction {
  if (handoff !== undefined) return { kind: 'handoff', backend: handoff }
  if (send !== undefined) return { kind: 'send', backend: send }
  const { status = 500, headers = {}, body = '' } = respond ?? {}
  return { kind: 'respond', status, headers: Object.entries(headers), body }
}

function headerRules(rules: ServiceShape['headers']): HeaderRules {
  const { set = {}, add = {}, remove = [] } = rules ?? {}
  return { set: Object.entries(set), add: Object.entries(add), remove }
}

function backendOptions(backend: BackendShape, folder: string): BackendOptions {
  const { clientCertificate, localAddress = [] } = backend
  return {
    name: backend.name,
    address: backendAddress(backend.address),
    tls: backend.tls ?? false,
    overrideHost: backend.overrideHost,
    certHostname: backend.certHostname,
    sniHostname: backend.sniHostname,
    connectTimeoutMs: backend.connectTimeout ?? 1_000,
    firstByteTimeoutMs: backend.firstByteTimeout ?? 15_000,
    maxConnections: backend.maxConnections,
    ...tcpOptions(backend),
    localAddress: [localAddress].flat(),
    clientCertificate: clientCertificate && certificatePair(clientCertificate, folder),
    allowLinkLocal: backend.allowLinkLocal ?? false,
    check: checkOptions(backend.health),
    ejection: ejectionOptions(backend.ejection),
  }
}

function backendAddress(address: string): BackendAddress {
  if (address.startsWith('unix:')) return { path: address.slice('unix:'.length) }
  const at = address.lastIndexOf(':')
  return { host: address.slice(0, at).replace(/^\[|\]$/g, ''), port: Number(address.slice(at + 1)) }
}

function certificatePair<Pair extends { certificate: string; key: string }>(
  { certificate, key }: Pair,
  folder: string,
) {
  return { certificate: pemPath(certificate, folder), key: pemPath(key, folder) }
}

function pemPath(pathOrText: string, folder: string): string {
  return pathOrText.includes('-----BEGIN') ? pathOrText : resolve(folder, pathOrText)
}

function adminOptions({ admin }: ConfigShape, folder: string): AdminOptions | null {
  if (admin === undefined) return null
  const { address, tls, tokens } = admin
  return {
    address,
    tls: tls === undefined ? null : certificatePair(tls, folder),
    tokens: tokens === undefined ? null : resolve(folder, tokens),
  }
}
