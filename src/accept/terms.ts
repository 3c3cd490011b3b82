// The terms of a listener: whom it believes what, and the certificates that it shows. A reload replaces them as a whole; a
// connection goes on by those that it was accepted under.

import type { HeadraceError } from '../errors.ts'
import type { TcpOptions } from '../linux/tuning.ts'
import type { AddressList } from './addresses.ts'
import { addressList } from './addresses.ts'
import type { Certificates, TlsOptions } from './certificates.ts'
import { loadCertificates } from './certificates.ts'
import type { Handshakes } from './handshakes.ts'
import { createHandshakes } from './handshakes.ts'

export interface TermsOptions extends TcpOptions {
  readonly tls: TlsOptions | undefined
  /** Addresses and CIDR blocks that may, and must, send a PROXY header. */
  readonly proxyProtocol: { readonly from: readonly string[] } | undefined
  /** Addresses and CIDR blocks whose X-Forwarded-* fields are kept. */
  readonly forwarded: { readonly from: readonly string[] } | undefined
}

export interface Terms {
  /** The actual address, with the port that the system chose. */
  readonly address: string
  /** Its peers have no address. */
  readonly isUnix: boolean
  readonly handshakes: Handshakes | null
  readonly certificates: Certificates | null
  readonly proxyFrom: AddressList | null
  readonly forwardedFrom: AddressList | null
  /** Idle time before TCP keep-alive probes, in ms. */
  readonly keepaliveMs: number
}

export type Where = Pick<Terms, 'address' | 'isUnix'>

/**
 * From here on the files of the certificates are watched, until they are closed. Those of `before` are kept if nothing of
 * them has changed: clients may resume their TLS sessions. Throws config-invalid.
 */
export function makeTerms(
  { tls, proxyProtocol, forwarded, keepaliveMs }: TermsOptions,
  { address, isUnix }: Where,
  onTrouble: (what: HeadraceError) => void,
  before: Terms | null = null,
): Terms {
  const proxyFrom = proxyProtocol === undefined ? null : addressList(proxyProtocol.from)
  const forwardedFrom = forwarded === undefined ? null : addressList(forwarded.from)
  const rest = { address, isUnix, proxyFrom, forwardedFrom, keepaliveMs }
  if (tls === undefined) return { ...rest, certificates: null, handshakes: null }
  const certificates = loadCertificates(tls, onTrouble)
  if (before?.certificates?.content === certificates.content) {
    certificates.close()
    return { ...rest, certificates: before.certificates, handshakes: before.handshakes }
  }
  return { ...rest, certificates, handshakes: createHandshakes(certificates) }
}

/** Of two terms of one listener, what only these have. */
export function letGoOf(terms: Terms, kept: Terms): void {
  if (terms.certificates !== kept.certificates) terms.certificates?.close()
}
