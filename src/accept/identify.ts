// Who sends: the socket's own address, or what a trusted sender's PROXY header says.

import type { Socket } from 'node:net'
import { HeadraceError } from '../errors.ts'
import { unmapped } from './addresses.ts'
import type { Sender } from './client.ts'
import type { Listener } from './listener.ts'
import type { ProxyHeader } from './proxy-protocol.ts'
import { parseProxyHeader } from './proxy-protocol.ts'

/**
 * Reads the PROXY header if the listener has them; what follows it stays in the socket. On failure the socket is
 * destroyed. Throws proxy-header-untrusted, proxy-header-invalid, client-closed, client-reset, or the signal's reason.
 */
export async function identify(socket: Socket, listener: Listener, signal: AbortSignal): Promise<Sender> {
  const address = unmapped(socket.remoteAddress ?? '')
  const mayForward = listener.forwardedFrom?.has(address) ?? false
  const direct = { address, port: socket.remotePort ?? 0, mayForward }
  if (listener.proxyFrom === null) return direct
  // On a Unix socket whoever may open the file is trusted.
  const isTrusted = address === '' || listener.proxyFrom.has(address)
  try {
    if (!isTrusted) throw new HeadraceError('proxy-header-untrusted', `from ${address}`)
    const { source } = await readProxyHeader(socket, signal)
    return source === null ? direct : { ...source, address: unmapped(source.address), mayForward }
  } catch (error) {
    socket.destroy()
    throw error
  }
}

function readProxyHeader(socket: Socket, signal: AbortSignal): Promise<ProxyHeader> {
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
