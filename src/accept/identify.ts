// Who sends: the socket's own address, or what a trusted sender's PROXY header says.

import type { Socket } from 'node:net'
import { HeadraceError } from '../errors.ts'
import type { Signal } from '../signal.ts'
import { unmapped } from './addresses.ts'
import type { Sender } from './client.ts'
import { senderOf } from './listener.ts'
import type { ProxyHeader } from './proxy-protocol.ts'
import { parseProxyHeader } from './proxy-protocol.ts'
import type { Terms } from './terms.ts'

/**
 * Reads the PROXY header if the listener has them; what follows it stays in the socket, which belongs to the caller
 * again. On failure the socket is destroyed. Throws proxy-header-untrusted, proxy-header-invalid, client-closed,
 * client-reset, or the signal's reason.
 */
export async function identify(socket: Socket, terms: Terms, signal: Signal): Promise<Sender> {
  try {
    const direct = directSender(socket, terms)
    const { proxyFrom, isUnix } = terms
    if (proxyFrom === null) return direct
    // On a Unix socket whoever may open the file is trusted.
    if (!isUnix && !proxyFrom.has(direct.address)) {
      throw new HeadraceError('proxy-header-untrusted', `from ${direct.address}`)
    }
    const { source } = await readProxyHeader(socket, signal)
    return source === null ? direct : { ...direct, ...source, address: unmapped(source.address) }
  } catch (error) {
    socket.destroy()
    throw error
  }
}

/** The direct peer. It alone decides about trust, whoever it speaks for. */
function directSender(socket: Socket, terms: Terms): Sender {
  const address = unmapped(socket.remoteAddress ?? '')
  // A peer that has reset has no address any more (ENOTCONN, getpeername(2)), but what it sent before can still be read:
  // it must not pass for one that never had an address, nor go by the lists of addresses that are asked later.
  if (address === '' && !terms.isUnix) throw new HeadraceError('client-reset', 'before it was accepted')
  return senderOf(address, socket.remotePort ?? 0, terms)
}

function readProxyHeader(socket: Socket, signal: Signal): Promise<ProxyHeader> {
  return new Promise((resolve, reject) => {
    let bytes: Buffer = Buffer.alloc(0)
    const settle = () => {
      socket.pause()
      socket.off('data', read)
      socket.off('end', ended)
      socket.off('close', closed)
      socket.off('error', failed)
      signal.removeEventListener('abort', aborted)
    }
    const fail = (reason: unknown) => {
      settle()
      reject(reason)
    }
    const aborted = () => fail(signal.reason)
    const ended = () => fail(new HeadraceError('client-closed', 'in the PROXY header'))
    const closed = ended
    const failed = (error: NodeJS.ErrnoException) =>
      fail(new HeadraceError('client-reset', error.code ?? '', error))
    const read = (chunk: Buffer) => {
      bytes = bytes.length === 0 ? chunk : Buffer.concat([bytes, chunk])
      try {
        const header = parseProxyHeader(bytes)
        if (header === null) return
        settle()
        // Nobody has read from the socket but this function: what is put back is all that was taken, less the header.
        if (header.length < bytes.length) socket.unshift(bytes.subarray(header.length))
        resolve(header)
      } catch (error) {
        fail(error)
      }
    }
    if (signal.aborted) return aborted()
    signal.addEventListener('abort', aborted)
    socket.on('data', read)
    socket.on('end', ended)
    socket.on('close', closed)
    socket.on('error', failed)
    socket.resume()
  })
}
