// The admin address: one server, whose tokens and certificate may be replaced while it runs.

import type { RequestListener, Server } from 'node:http'
import { createServer } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import type { Certificates } from '../accept/certificates.ts'
import { loadCertificates } from '../accept/certificates.ts'
import { failedToListen, placeOf, removeStale } from '../accept/place.ts'
import { HeadraceError } from '../errors.ts'
import type { Prepared } from '../prepared.ts'
import type { Door } from './access.ts'
import { openTokens } from './tokens.ts'

export interface AdminOptions {
  /** host:port or unix:/path. */
  readonly address: string
  readonly tls: { readonly certificate: string; readonly key: string } | null
  /** The file of the tokens; null: there are none. */
  readonly tokens: string | null
}

export interface FrontMeans {
  /** The door is asked for with each request. */
  serving(door: () => Door): RequestListener
  trouble(what: HeadraceError): void
}

export interface Front {
  /** As it is configured. */
  readonly options: AdminOptions
  /** With the port that the system chose. */
  readonly address: string
  /** Other tokens, another certificate, at the same address. Throws config-invalid. */
  prepare(options: AdminOptions): Prepared
  /** No request is taken any more; those that are under way have a while to end. */
  retire(): void
  close(): void
}

/** What node may spend on those that are slow or many. */
const LIMITS = { maxHeaderSize: 16_384, headersTimeout: 10_000, requestTimeout: 30_000 } as const
const MAX_CONNECTIONS = 256

/** What the last requests of a front that is replaced may take, in ms. */
const RETIRE_TIMEOUT_MS = 5_000

/** For the command line: whoever may open the file is a superuser. Throws listen-failed. */
export async function openControlSocket(
  path: string,
  means: FrontMeans,
): Promise<Pick<Front, 'close' | 'retire'>> {
  const door = { kind: 'control socket', isUnix: true, isTls: false, tokens: null } as const
  const server = createServer(
    LIMITS,
    means.serving(() => door),
  )
  await open(server, `unix:${path}`, means)
  return { close: () => closeServer(server), retire: () => retireServer(server) }
}

/** Throws listen-failed or config-invalid. */
export async function openFront(first: AdminOptions, means: FrontMeans): Promise<Front> {
  let options = first
  let door = doorOf(options)
  let certificates = certificatesOf(options, means)
  const listener = means.serving(() => door)
  const secure =
    certificates === null ? null : createTlsServer({ ...LIMITS, ...certificates.first }, listener)
  const server = secure ?? createServer(LIMITS, listener)
  const watch = (next: Certificates) => {
    next.onChange = () => secure?.setSecureContext(next.first)
  }
  if (certificates !== null) watch(certificates)
  const address = await open(server, options.address, means).catch((error: unknown) => {
    certificates?.close()
    throw error
  })
  return {
    get options() {
      return options
    },
    address,
    prepare(other) {
      const next = certificatesOf(other, means)
      return {
        commit() {
          certificates?.close()
          options = other
          door = doorOf(other)
          certificates = next
          if (next === null) return
          watch(next)
          secure?.setSecureContext(next.first)
        },
        drop: () => next?.close(),
      }
    },
    retire() {
      certificates?.close()
      retireServer(server)
    },
    close() {
      certificates?.close()
      closeServer(server)
    },
  }
}

function doorOf({ address, tls, tokens }: AdminOptions): Door {
  return {
    kind: 'address',
    isUnix: address.startsWith('unix:'),
    isTls: tls !== null,
    tokens: tokens === null ? null : openTokens(tokens),
  }
}

function certificatesOf({ tls }: AdminOptions, { trouble }: FrontMeans): Certificates | null {
  return tls === null ? null : loadCertificates({ pairs: [tls] }, trouble)
}

/** Resolves with the actual address. */
async function open(server: Server, address: string, { trouble }: FrontMeans): Promise<string> {
  server.maxConnections = MAX_CONNECTIONS
  const place = placeOf(address)
  try {
    if (place.path !== undefined) await removeStale(place.path)
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(place, resolve)
    })
  } catch (error) {
    throw failedToListen(address, error)
  }
  server.on('error', (error) => trouble(new HeadraceError('listen-failed', `admin: ${error.message}`)))
  const at = server.address() as AddressInfo | string
  if (typeof at === 'string') return address
  return at.family === 'IPv6' ? `[${at.address}]:${at.port}` : `${at.address}:${at.port}`
}

function retireServer(server: Server): void {
  server.close()
  setTimeout(() => server.closeAllConnections(), RETIRE_TIMEOUT_MS).unref()
}

function closeServer(server: Server): void {
  server.close()
  server.closeAllConnections()
}
