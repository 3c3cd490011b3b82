// Who is on the other side of an accepted connection.

import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { TLSSocket } from 'node:tls'
import { nodeTransport } from '../transport/node.ts'
import type { Transport } from '../transport/transport.ts'
import { unmapped } from './addresses.ts'

export interface TlsFacts {
  /** The name asked for by SNI; '' if none was. */
  readonly servername: string
  readonly protocol: string
  readonly cipher: string
}

export interface Client {
  readonly transport: Transport
  /** IP address; '' on a Unix socket, unless a PROXY header said it. */
  readonly address: string
  readonly port: number
  readonly tls: TlsFacts | null
  /** Whether its X-Forwarded-* fields are believed. */
  readonly mayForward: boolean
  /** The address of the listener; `upgrade` if the connection was handed over by an embedder. */
  readonly listener: string
}

/** What is known of a sender before TLS. */
export type Sender = Pick<Client, 'address' | 'port' | 'mayForward'>

export function plainClient(socket: Socket, sender: Sender, listener: string): Client {
  return { transport: nodeTransport(socket), ...sender, tls: null, listener }
}

/** `wire` is the socket below TLS. */
export function tlsClient(socket: TLSSocket, wire: Socket, sender: Sender, listener: string): Client {
  return { transport: nodeTransport(socket, wire), ...sender, tls: factsOf(socket), listener }
}

/**
 * Takes over a connection that another server accepted, after its `upgrade` event. `connection`: that of the request, which
 * is taken if `socket` is a stream above it: node 26 has one for an upgrade whose body has not all come.
 */
export function adopt(socket: Duplex, connection: Socket): Client {
  const accepted = (socket instanceof Socket ? socket : connection) as Socket | TLSSocket
  const sender = {
    address: unmapped(accepted.remoteAddress ?? ''),
    port: accepted.remotePort ?? 0,
    mayForward: false,
  }
  accepted.setTimeout(0)
  // An https server closes its side with the client's; a tunnel does not.
  accepted.allowHalfOpen = true
  if (!('encrypted' in accepted)) return plainClient(accepted, sender, 'upgrade')
  return tlsClient(accepted, wireOf(accepted) ?? accepted, sender, 'upgrade')
}

/**
 * The socket below a TLS socket. Node has no public name for it, and `tls.Server` none for which of its raw sockets became
 * which TLS socket; `_parent` has been both since Node 0.11. Without it a RST would go out as FIN, nothing worse.
 */
export function wireOf(socket: TLSSocket): Socket | undefined {
  return (socket as TLSSocket & { readonly _parent?: Socket })._parent
}

function factsOf(socket: TLSSocket): TlsFacts {
  const servername = (socket as TLSSocket & { readonly servername?: string | false }).servername || ''
  return { servername, protocol: socket.getProtocol() ?? '', cipher: socket.getCipher().name }
}
