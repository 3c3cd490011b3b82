// The last step of the acceptor: a client comes out, over TLS if its listener has TLS.

import type { Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import type { Signal } from '../signal.ts'
import type { Client, Sender } from './client.ts'
import { plainClient, tlsClient } from './client.ts'
import type { Terms } from './terms.ts'

/**
 * The client, after its TLS handshake if the listener has TLS. On failure the socket is destroyed; on success the
 * client's transport owns it. Throws tls-handshake-failed, client-closed, client-reset, or the signal's reason.
 */
export async function secure(socket: Socket, sender: Sender, terms: Terms, signal: Signal): Promise<Client> {
  if (terms.handshakes === null) return plainClient(socket, sender, terms.address)
  const take = (secured: TLSSocket) => tlsClient(secured, socket, sender, terms.address)
  return await terms.handshakes.shake(socket, signal, take)
}
