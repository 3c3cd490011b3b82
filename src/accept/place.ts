// Where to listen, as it is written; and what keeps one from it.

import { once } from 'node:events'
import { unlinkSync } from 'node:fs'
import { lstat } from 'node:fs/promises'
import { connect } from 'node:net'
import { HeadraceError } from '../errors.ts'

/** Without a host: all interfaces. */
export type Place =
  | { readonly path: string }
  | { readonly path?: undefined; readonly host?: string; readonly port: number }

/** The longest queue of connections that wait to be accepted; the system may have a lower limit (listen(2)). */
export const BACKLOG = 4_096

/** sun_path without its final NUL (unix(7)). Node 20 cuts a longer path short without a word. */
const UNIX_PATH_BYTES = 107

/** Throws config-invalid. */
export function placeOf(address: string): Place {
  if (address.startsWith('unix:')) return { path: pathOf(address) }
  const [, v6, v4, port] = /^(?:\[([^\]]+)\]|([^:]*)):([0-9]{1,5})$/.exec(address) ?? []
  if (port === undefined || Number(port) > 65_535) {
    throw new HeadraceError(
      'config-invalid',
      `${JSON.stringify(address)} is no address to listen on: host:port or unix:/path`,
    )
  }
  const host = v6 ?? v4
  return { port: Number(port), ...(host ? { host } : {}) }
}

function pathOf(address: string): string {
  const path = address.slice('unix:'.length)
  if (path === '' || path.includes('\0') || Buffer.byteLength(path) > UNIX_PATH_BYTES) {
    const detail = `${JSON.stringify(address)} needs a path of 1 to ${UNIX_PATH_BYTES} bytes`
    throw new HeadraceError('config-invalid', detail)
  }
  return path
}

/** Whatever was thrown, as listen-failed. */
export function failedToListen(address: string, error: unknown): HeadraceError {
  if (error instanceof HeadraceError) return error
  const { code = String(error) } = error as NodeJS.ErrnoException
  return new HeadraceError(
    'listen-failed',
    `${code} ${address}${hintFor(code, address.startsWith('unix:'))}`,
    error,
  )
}

function hintFor(code: string, isUnix: boolean): string {
  if (code === 'EADDRINUSE') return ': something else listens there'
  // Of a folder that is not there libuv says so, too.
  if (code === 'EACCES' && isUnix) return ': there is no such folder, or it may not be written to'
  if (code === 'EACCES') return ': not allowed, ports below 1024 need privileges'
  if (code === 'EADDRNOTAVAIL') return ': this machine does not have the address'
  return ''
}

/** A socket file that nobody listens on any more is left over from a process that was killed. */
export async function removeStale(
  path: string,
  raised: (act: () => void) => void = (act) => act(),
): Promise<void> {
  const found = await lstat(path).catch(() => null)
  if (found === null) return
  if (!found.isSocket())
    throw new HeadraceError('listen-failed', `unix:${path} exists and is no socket: move it away`)
  const probe = connect(path)
  probe.on('error', () => {})
  const code = await once(probe, 'connect').then(
    () => 'EADDRINUSE',
    (error: NodeJS.ErrnoException) => error.code,
  )
  probe.destroy()
  // EAGAIN: somebody listens, with a full queue (unix(7)).
  if (code === 'EADDRINUSE' || code === 'EAGAIN') {
    throw new HeadraceError('listen-failed', `EADDRINUSE unix:${path}: another process listens there`)
  }
  // Whatever else keeps us from asking (EACCES) keeps us from removing, too: then bind(2) says what is wrong.
  if (code === 'ECONNREFUSED') raised(() => unlinkSync(path))
}
