// TLS towards an origin: the certificate must chain to a public authority and have the right name. There is no option to
// switch that off, and `rejectUnauthorized` is given so that no environment variable can do it either.

import type { Socket } from 'node:net'
import { isIP } from 'node:net'
import type { PeerCertificate, SecureContext, TLSSocket } from 'node:tls'
import { checkServerIdentity, connect } from 'node:tls'
import { HeadraceError } from '../errors.ts'
import type { Backend, BackendOptions } from './backend.ts'
import type { Stop } from './stop.ts'

/**
 * Does the handshake on a connected socket and verifies the certificate. On failure the socket is destroyed; on success
 * whoever called closes the TLS socket. Throws certificate-rejected, origin-tls-failed, dial-reset, or the reason of the stop.
 */
export function verified(
  socket: Socket,
  { options }: Backend,
  secureContext: SecureContext,
  label: string,
  stop: Stop,
): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const fallback = defaultName(options)
    const certHostname = options.certHostname ?? fallback
    const secured = connect({
      socket,
      secureContext,
      rejectUnauthorized: true,
      ALPNProtocols: ['http/1.1'],
      servername: serverName(options.sniHostname ?? fallback),
      checkServerIdentity: (_, certificate) => checkServerIdentity(certHostname, certificate),
    })
    const settle = () => {
      stop.handler = null
      secured.off('secureConnect', succeeded)
      secured.off('close', closed)
      secured.off('error', failed)
    }
    let isOver = false
    const fail = (reason: unknown) => {
      isOver = true
      settle()
      secured.on('error', ignore)
      secured.destroy()
      socket.destroy()
      reject(reason)
    }
    const closed = () => fail(new HeadraceError('origin-tls-failed', `closed in the handshake, ${label}`))
    const failed = (error: NodeJS.ErrnoException) => fail(troubleOf(error, certHostname, label))
    const succeeded = () => {
      secured.pause()
      // OpenSSL is still inside the handshake here, and must not be reset in it; what fails until then is still heard.
      setImmediate(() => {
        if (isOver) return
        settle()
        resolve(secured)
      })
    }
    secured.once('secureConnect', succeeded)
    secured.once('close', closed)
    secured.once('error', failed)
    if (stop.isStopped) fail(stop.reason)
    else stop.handler = fail
  })
}

function ignore(): void {}

/** What the origin is called if nothing else is said: by overrideHost, else by its address. */
function defaultName({ overrideHost, address }: BackendOptions): string {
  if (overrideHost !== undefined) return overrideHost.replace(/:[0-9]*$/, '')
  return 'host' in address ? address.host : 'localhost'
}

/** RFC 6066 section 3: no literal addresses in SNI. */
function serverName(name: string): string {
  return isIP(name) === 0 ? name : ''
}

const REASONS: Readonly<Record<string, string>> = {
  CERT_HAS_EXPIRED: 'certificate has expired',
  CERT_NOT_YET_VALID: 'certificate is not yet valid',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'self-signed certificate',
  SELF_SIGNED_CERT_IN_CHAIN: 'self-signed certificate in the chain: its authority is not a public one',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    'unable to verify the certificate: its authority is unknown, or the chain is incomplete',
  UNABLE_TO_GET_ISSUER_CERT: 'unable to get the certificate of the authority',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'unable to get the certificate of the authority',
  CERT_REVOKED: 'certificate has been revoked',
}

type VerificationError = NodeJS.ErrnoException & { readonly cert?: PeerCertificate; readonly reason?: string }

function troubleOf(error: VerificationError, certHostname: string, label: string): HeadraceError {
  const { code = '' } = error
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') {
    const detail = `hostname mismatch: certificate is for ${namesOf(error.cert)}, not ${certHostname}, ${label}`
    return new HeadraceError('certificate-rejected', detail, error)
  }
  const reason = REASONS[code]
  if (reason !== undefined) return new HeadraceError('certificate-rejected', `${reason}, ${label}`, error)
  if (code === 'ECONNRESET')
    return new HeadraceError('dial-reset', `${code} in the TLS handshake, ${label}`, error)
  return new HeadraceError('origin-tls-failed', `${error.reason ?? error.message}, ${label}`, error)
}

function namesOf(certificate: PeerCertificate | undefined): string {
  const names = certificate?.subjectaltname ?? ''
  if (names !== '') return names.replace(/\b(DNS|IP Address):/g, '')
  return String(certificate?.subject?.CN ?? 'no name')
}
