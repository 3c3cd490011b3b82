// The TLS handshakes of a listener: one tls.Server, which never listens. It is given sockets one by one, after their PROXY
// header was read. Nothing of ours stays behind on a connection after its handshake.

import type { Socket } from 'node:net'
import type { SecureContext, TLSSocket } from 'node:tls'
import { createServer } from 'node:tls'
import { HeadraceError } from '../errors.ts'
import type { Signal } from '../signal.ts'
import { throwIfAborted } from '../signal.ts'
import type { Certificates } from './certificates.ts'
import { wireOf } from './client.ts'

/** Handshakes of one listener. */
export interface Handshakes {
  /**
   * Resolves with what `take` makes of the TLS socket, which is paused and belongs to `take`. It is called inside the
   * event: an error right behind the handshake comes before a promise goes on, and nobody would hear of it. On failure
   * the socket is destroyed. Throws tls-handshake-failed, client-closed, client-reset, or the signal's reason.
   */
  shake<Taken>(socket: Socket, signal: Signal, take: (secured: TLSSocket) => Taken): Promise<Taken>
}

/** The deadline of the head covers the handshake and is shorter; this is node's own limit, behind it. */
const HANDSHAKE_TIMEOUT_MS = 120_000

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
    pauseOnConnect: true,
    handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
  })
  certificates.onChange = () => server.setSecureContext(certificates.first)

  server.on('secureConnection', (secured) => {
    const wire = wireOf(secured)
    const one = wire === undefined ? undefined : waiting.get(wire)
    if (wire === undefined || one === undefined) return void secured.destroy()
    wire.allowHalfOpen = true
    secured.allowHalfOpen = true
    one.resolve(secured)
  })
  server.on('tlsClientError', (error: NodeJS.ErrnoException & { reason?: string }, secured) => {
    const wire = wireOf(secured)
    secured.on('error', ignore)
    secured.destroy()
    if (wire !== undefined) waiting.get(wire)?.reject(troubleOf(error))
  })

  async function shake<Taken>(
    socket: Socket,
    signal: Signal,
    take: (secured: TLSSocket) => Taken,
  ): Promise<Taken> {
    let aborted = () => {}
    try {
      throwIfAborted(signal)
      return await new Promise<Taken>((resolve, reject) => {
        aborted = () => reject(signal.reason)
        signal.addEventListener('abort', aborted)
        // Node is inside OpenSSL while it tells of a handshake, and whoever resets the connection there crashes the process
        // (SIGSEGV, seen on Node 20 to 26): the way goes on when OpenSSL is done.
        waiting.set(socket, { resolve: (secured) => setImmediate(resolve, take(secured)), reject })
        // A FIN must end the handshake, but node tells nobody of it on a socket that may be half open (its TLS socket is
        // made with the same setting). Afterwards it may: both may be changed until 'end' (Duplex in node's documents).
        socket.allowHalfOpen = false
        server.emit('connection', socket)
      })
    } catch (error) {
      socket.destroy()
      throw error
    } finally {
      signal.removeEventListener('abort', aborted)
      waiting.delete(socket)
    }
  }

  return { shake }
}

function ignore(): void {}

function troubleOf(error: NodeJS.ErrnoException & { readonly reason?: string }): HeadraceError {
  const detail = error.reason ?? error.code ?? error.message
  if (error.code !== 'ECONNRESET') return new HeadraceError('tls-handshake-failed', detail, error)
  // Node says ECONNRESET for a FIN in the handshake, too; only a real one has come from the system.
  if (error.syscall === undefined) return new HeadraceError('client-closed', 'in the TLS handshake', error)
  return new HeadraceError('client-reset', 'in the TLS handshake', error)
}
