// A backend: a named origin. Its options as they are configured, and what is counted while it runs.

import { readFileSync } from 'node:fs'
import type { SecureContext } from 'node:tls'
import { createSecureContext } from 'node:tls'
import { isDeepStrictEqual } from 'node:util'
import { HeadraceError } from '../errors.ts'
import type { Libc } from '../linux/libc.ts'
import type { TcpOptions } from '../linux/tuning.ts'
import { callsFor } from '../linux/tuning.ts'
import type { CheckOptions, EjectionOptions } from './health.ts'
import { Health } from './health.ts'

export type BackendAddress = { readonly host: string; readonly port: number } | { readonly path: string }

export interface BackendOptions extends TcpOptions {
  readonly name: string
  readonly address: BackendAddress
  readonly tls: boolean
  /** What `Host` becomes, whoever set it before. */
  readonly overrideHost: string | undefined
  /** The name that the certificate must have; default: that of overrideHost, else the address's host. */
  readonly certHostname: string | undefined
  /** The name that is asked for by SNI; the same default. Changes nothing about verification. */
  readonly sniHostname: string | undefined
  /** DNS, TCP and TLS together, in ms. */
  readonly connectTimeoutMs: number
  /** From the dialled connection to the end of the answer's head, in ms. */
  readonly firstByteTimeoutMs: number
  readonly maxConnections: number | undefined
  /** Source addresses, used in turn. */
  readonly localAddress: readonly string[]
  /** Paths, or PEM text. */
  readonly clientCertificate: { readonly certificate: string; readonly key: string } | undefined
  readonly allowLinkLocal: boolean
  /** Undefined: it is not checked. */
  readonly check: CheckOptions | undefined
  /** Undefined: it is never ejected. */
  readonly ejection: EjectionOptions | undefined
}

/** Counts the connections of a backend, those of other processes included. */
export interface Permits {
  newId(): string
  /** Throws backend-full. A promise only if another process counts. */
  take(id: string): void | Promise<void>
  give(id: string): void
}

export interface Backend {
  readonly options: BackendOptions
  /** Client certificate and key, loaded once; null without TLS. */
  readonly secureContext: SecureContext | null
  /** What was read of the client certificate; '' without one. */
  readonly identity: string
  /** Set if its connections have options that node can't set. */
  readonly calls: Libc | null
  readonly health: Health
  /** Dialled or being dialled, and not over yet. */
  connections: number
  /** Null: it may have any number of connections. */
  readonly permits: Permits | null
  /** The permits of its connections. They are all alike: whichever connection ends gives one back. */
  readonly held: string[]
  /** How many dials have picked a local address. */
  turns: number
  /** Who has taken its place after a reload, and counts its connections, too. */
  heir: Backend | null
}

/**
 * `before`: the one that has had this name so far. If nothing has changed it stays; otherwise what was counted of it goes on,
 * and so does its health if that is measured in the same way. Throws config-invalid if the client certificate can't be used, or a
 * TCP option can't be set here.
 */
export function createBackend(
  options: BackendOptions,
  permits: Permits | null = null,
  before: Backend | null = null,
): Backend {
  const calls = callsFor(options, `backend ${options.name}`)
  const { identity, secureContext } = options.tls
    ? securityOf(options)
    : { identity: '', secureContext: null }
  if (before?.identity === identity && isDeepStrictEqual(before.options, options)) return before
  const health = healthOf(options, before)
  return {
    ...{ options, calls, secureContext, identity, health },
    ...{ connections: 0, permits, held: [], turns: 0, heir: null },
  }
}

function healthOf(options: BackendOptions, before: Backend | null): Health {
  const measured = ({ address, check, ejection }: BackendOptions) => [address, check, ejection]
  if (before !== null && isDeepStrictEqual(measured(before.options), measured(options))) return before.health
  return new Health(options.check ?? null, options.ejection ?? null, undefined, before?.health)
}

/** From now on `after` stands in the place of `before`, which others may still be using. */
export function succeed(before: Backend, after: Backend): void {
  if (before === after || !isDeepStrictEqual(before.options.address, after.options.address)) return
  after.connections += before.connections
  before.heir = after
}

/** What is from before `heir`, and counted in another way: as a reload would have left it. Nothing more is dialled there. */
export function elderOf(heir: Backend, permits: Permits | null): Backend {
  return { ...heir, connections: 0, permits, held: [], turns: 0, heir }
}

/** Counts a connection, or one that is over: for whoever has taken the place of its backend, too. */
export function countConnection(backend: Backend, change: 1 | -1): void {
  for (let one: Backend | null = backend; one !== null; one = one.heir) one.connections += change
}

/** Options of a backend that has a name and an address, and nothing special. */
export function bareOptions(name: string, address: BackendAddress): BackendOptions {
  return {
    name,
    address,
    tls: false,
    overrideHost: undefined,
    certHostname: undefined,
    sniHostname: undefined,
    connectTimeoutMs: 0,
    firstByteTimeoutMs: 0,
    maxConnections: undefined,
    keepaliveMs: 0,
    keepaliveIntervalMs: undefined,
    keepaliveProbes: undefined,
    userTimeoutMs: undefined,
    localAddress: [],
    clientCertificate: undefined,
    allowLinkLocal: false,
    check: undefined,
    ejection: undefined,
  }
}

/** What a tunnel was dialled to that has outlived the config: its name, for whoever asks. Nothing more is dialled there. */
export function formerBackend(name: string): Backend {
  return createBackend(bareOptions(name, { host: 'unknown.invalid', port: 0 }))
}

/** Gives a connection's permit back: once, by whoever owns the dialled connection, when it is over. */
export function hangUp(backend: Backend): void {
  countConnection(backend, -1)
  const id = backend.held.pop()
  if (id !== undefined) backend.permits?.give(id)
}

/** As it is configured: `host:port`, `[v6]:port` or `unix:/path`. */
export function addressText(address: BackendAddress): string {
  if ('path' in address) return `unix:${address.path}`
  const { host, port } = address
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}

function securityOf({
  name,
  clientCertificate,
}: BackendOptions): Pick<Backend, 'identity' | 'secureContext'> {
  // No `ca`: node's own public roots, and what NODE_EXTRA_CA_CERTS adds from outside.
  const common = { minVersion: 'TLSv1.2' } as const
  if (clientCertificate === undefined) return { identity: '', secureContext: createSecureContext(common) }
  try {
    const cert = pem(clientCertificate.certificate)
    const key = pem(clientCertificate.key)
    return { identity: cert + key, secureContext: createSecureContext({ ...common, cert, key }) }
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw new HeadraceError('config-invalid', `clientCertificate of backend ${name}: ${reason}`, error)
  }
}

function pem(pathOrText: string): string {
  return pathOrText.includes('-----BEGIN') ? pathOrText : readFileSync(pathOrText, 'utf8')
}
