// The TLS handshakes of a listener: one tls.Server, which never listens. It is given sockets one by one, after their PROXY
// header was read. Nothing of ours stays behind on a connection after its handshake.

import type { Socket } from 'node:net'
import type { SecureContext, TLSSocket } from 'node:tls'
import { createServer } from 'node:tls'
import type { ErrorCode } from '../errors.ts'
import { HeadraceError } from '../errors.ts'
import type { Certificates } from './certificates.ts'
import { wireOf } from './client.ts'

/** Handshakes of one listener. */
export interface Handshakes {
  /** Resolves with the TLS socket, paused. On failure the socket is destroyed. */
  shake(socket: Socket, signal: AbortSignal): Promise<TLSSocket>
}

interface Waiting {
  readonly resolve: (socket: TLSSocket) => void
  readonly reject: (error: HeadraceError) => void
}

export function createHandshakes(certificates: Certificates): Handshakes {
  const waiting = new WeakMap<Socket, Waiting>()
  const server = createServer({
    ...certificates.first,
    SNICallback: (servername, done: (error: Error | null, context?: SecureContext) => void) =>
      done(null, certificates.contextFor(servername)),
    ALPNProtocols: ['http/1.1'],
    allowHalfOpen: true,
    pauseOnConnect: true,
    // The deadline of the head is shorter, and covers the handshake.
    handshakeTimeout: 120_000,
  })
  certificates.onChange = () => server.setSecureContext(certificates.first)

  server.on('secureConnection', (secured) => {
    const wire = wireOf(secured)
    const one = wire === undefined ? undefined : waiting.get(wire)
    if (one === undefined) secured.destroy()
    else one.resolve(secured)
  })
  server.on('tlsClientError', (error: NodeJS.ErrnoException & { reason?: string }, secured) => {
    const wire = wireOf(secured)
    secured.on('error', ignore)
    secured.destroy()
    if (wire !== undefined) waiting.get(wire)?.reject(troubleOf(error))
  })

  async function shake(socket: Socket, signal: AbortSignal): Promise<TLSSocket> {
    try {
      return await new Promise((resolve, reject) => {
        if (signal.aborted) return reject(signal.reason)
        const aborted = () => reject(signal.reason)
        const settle = () => signal.removeEventListener('abort', aborted)
        signal.addEventListener('abort', aborted)
        waiting.set(socket, {
          resolve: (secured) => {
            settle()
            resolve(secured)
          },
          reject: (error) => {
            settle()
            reject(error)
          },
        })
        server.emit('connection', socket)
      })
    } catch (error) {
      socket.destroy()
      throw error
    } finally {
      waiting.delete(socket)
    }
  }

  return { shake }
}

function ignore(): void {}

function troubleOf(error: NodeJS.ErrnoException & { readonly reason?: string }): HeadraceError {
  // Node says ECONNRESET for a FIN in the handshake, too; only a real one has come from the system.
  const isReset = error.code === 'ECONNRESET' && error.syscall !== undefined
  const code: ErrorCode = isReset
    ? 'client-reset'
    : error.code === 'ECONNRESET'
      ? 'client-closed'
      : 'tls-handshake-failed'
  return new HeadraceError(code, error.reason ?? error.code ?? error.message, error)
}
