// A backend: a named origin. Its options as they are configured, and what is counted while it runs.

import { readFileSync } from 'node:fs'
import type { SecureContext } from 'node:tls'
import { createSecureContext } from 'node:tls'
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
}

/** Throws config-invalid if the client certificate can't be used, or a TCP option can't be set here. */
export function createBackend(options: BackendOptions, permits: Permits | null = null): Backend {
  const calls = callsFor(options, `backend ${options.name}`)
  const secureContext = options.tls ? contextOf(options) : null
  const health = new Health(options.check ?? null, options.ejection ?? null)
  return { options, calls, secureContext, health, connections: 0, permits, held: [], turns: 0 }
}

/** Gives a connection's permit back: once, by whoever owns the dialled connection, when it is over. */
export function hangUp(backend: Backend): void {
  backend.connections -= 1
  const id = backend.held.pop()
  if (id !== undefined) backend.permits?.give(id)
}

/** As it is configured: `host:port`, `[v6]:port` or `unix:/path`. */
export function addressText(address: BackendAddress): string {
  if ('path' in address) return `unix:${address.path}`
  const { host, port } = address
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}

function contextOf({ name, clientCertificate }: BackendOptions): SecureContext {
  // No `ca`: node's own public roots, and what NODE_EXTRA_CA_CERTS adds from outside.
  const common = { minVersion: 'TLSv1.2' } as const
  if (clientCertificate === undefined) return createSecureContext(common)
  try {
    const cert = pem(clientCertificate.certificate)
    const key = pem(clientCertificate.key)
    return createSecureContext({ ...common, cert, key })
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw new HeadraceError('config-invalid', `clientCertificate of backend ${name}: ${reason}`, error)
  }
}

function pem(pathOrText: string): string {
  return pathOrText.includes('-----BEGIN') ? pathOrText : readFileSync(pathOrText, 'utf8')
}
