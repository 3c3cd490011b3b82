// The target, in one of http-proxy's forms, and what it comes to: what is dialled, and what of the request it changes.

import type { Complain } from '../config/problems.ts'
import type { BackendAddress, BackendOptions } from '../dial/backend.ts'
import { bareOptions } from '../dial/backend.ts'
import type { ProxyTarget, ProxyTargetDetailed, ServerOptions } from './options.ts'

export interface Target {
  readonly address: BackendAddress
  readonly isTls: boolean
  readonly clientCertificate: BackendOptions['clientCertificate']
  /** What `Host` becomes with changeOrigin. */
  readonly host: string
  /** Path and query before those of the request. */
  readonly path: string
}

/** A URL, what url.parse makes of one, or what people write by hand. */
type Parts = ProxyTargetDetailed & { readonly pathname?: string | null; readonly search?: string | null }

const IS_TLS: Readonly<Record<string, boolean>> = {
  'ws:': false,
  'http:': false,
  'wss:': true,
  'https:': true,
}

/** What http-proxy hands to TLS, and is not verified with here. */
const NOT_OFFERED = ['pfx', 'passphrase', 'ca', 'ciphers', 'secureProtocol'] as const

/** For DNS, TCP and TLS together, in ms: what is far or slow shall have its time. */
const DIAL_TIMEOUT_MS = 10_000
/** http-proxy would wait for ever; its documentation says two minutes. */
const ANSWER_TIMEOUT_MS = 120_000
/** The default of a backend. */
const KEEPALIVE_MS = 60_000

/** Null if it is wrong, which `complain` is told. */
export function targetOf(target: ProxyTarget, secure: unknown, complain: Complain): Target | null {
  const parts = partsOf(target)
  const fault = parts === null ? NO_TARGET : faultOf(parts, secure)
  if (fault !== null) complain([fault[0]], fault[1], fault[2])
  return parts === null || fault !== null ? null : compiled(parts)
}

function compiled(parts: Parts): Target {
  const isTls = isTlsOf(parts)
  const { socketPath, key, cert, pathname, search } = parts
  const clientCertificate = cert && key ? { certificate: String(cert), key: String(key) } : undefined
  return {
    address: socketPath ? { path: socketPath } : { host: hostnameOf(parts), port: portOf(parts) },
    isTls,
    clientCertificate: isTls ? clientCertificate : undefined,
    host: hostFieldOf(parts),
    path: pathname ? `${pathname}${search ?? ''}` : '/',
  }
}

export function backendOptionsOf(
  target: Target,
  { localAddress, proxyTimeout }: ServerOptions,
): BackendOptions {
  const { address, isTls, clientCertificate } = target
  return {
    ...bareOptions('target', address),
    tls: isTls,
    clientCertificate,
    connectTimeoutMs: proxyTimeout || DIAL_TIMEOUT_MS,
    firstByteTimeoutMs: proxyTimeout || ANSWER_TIMEOUT_MS,
    keepaliveMs: KEEPALIVE_MS,
    localAddress: localAddress ? [localAddress] : [],
  }
}

type Fault = readonly [option: string, reason: string, remedy: string]

const NO_TARGET: Fault = ['target', 'it is no URL', 'write such as ws://127.0.0.1:9000, or { host, port }']

function partsOf(target: ProxyTarget): Parts | null {
  if (typeof target === 'object') return target
  return typeof target === 'string' && URL.canParse(target) ? new URL(target) : null
}

function faultOf(parts: Parts, secure: unknown): Fault | null {
  const { protocol, port, cert, key } = parts
  if (protocol && IS_TLS[withColon(protocol)] === undefined)
    return [
      'target',
      `${withColon(protocol)} is no protocol of WebSockets`,
      'write ws://host:port or wss://host',
    ]
  if (port && !isPort(port)) return ['target', `${port} is no port`, 'write 1 to 65535']
  // Of a URL: http-proxy would leave it out.
  if ('username' in parts && parts.username)
    return ['target', 'it has a user', "write auth: 'user:password' beside it"]
  const extra = NOT_OFFERED.find((name) => Boolean((parts as Readonly<Record<string, unknown>>)[name]))
  if (extra !== undefined)
    return [
      `target.${extra}`,
      'of TLS a target may have key and cert',
      'leave it out; node trusts more authorities with NODE_EXTRA_CA_CERTS=ca.pem',
    ]
  if ((cert || key) && !(isPem(cert) && isPem(key)))
    return ['target', 'a client certificate has cert and key', 'give both, as PEM text']
  if (isTlsOf(parts) && secure !== undefined && !secure)
    return [
      'secure',
      'the certificate of a target is always verified',
      'leave it out, and start node with NODE_EXTRA_CA_CERTS=ca.pem if its authority is your own',
    ]
  return null
}

function isPort(port: string | number): boolean {
  return /^[0-9]{1,5}$/.test(String(port)) && Number(port) <= 65_535
}

function isPem(value: unknown): boolean {
  return String(value).includes('-----BEGIN')
}

function withColon(protocol: string): string {
  return protocol.endsWith(':') ? protocol : `${protocol}:`
}

function isTlsOf({ protocol }: Parts): boolean {
  return protocol ? IS_TLS[withColon(protocol)] === true : false
}

function portOf(parts: Parts): number {
  return Number(parts.port) || (isTlsOf(parts) ? 443 : 80)
}

/** Without the brackets of an IPv6 address. */
function hostnameOf({ hostname, host }: Parts): string {
  return (hostname || host || 'localhost').replace(/^\[|\]$/g, '')
}

/** With the port if that is not the usual one; of a target without a protocol, http-proxy never says it. */
function hostFieldOf(parts: Parts): string {
  const host = parts.host || parts.hostname || 'localhost'
  const port = Number(parts.port)
  const usual = isTlsOf(parts) ? 443 : 80
  const hasPort = /:[0-9]+$/.test(host.replace(/^\[[^\]]*\]/, ''))
  return parts.protocol && port && port !== usual && !hasPort ? `${host}:${port}` : host
}
