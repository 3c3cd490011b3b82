// The connection to the target, as listeners of `open` and `close` see it. Bytes of a tunnel do not pass through JavaScript,
// unless somebody has asked for them by the time that it opens.

import { EventEmitter } from 'node:events'
import type { SpliceEnd, Splicing } from '../engine/engine.ts'
import { HeadraceError } from '../errors.ts'
import type { ResponseHead } from '../head/head.ts'
import { flatFields } from '../head/head.ts'
import type { Reader, Transport } from '../transport/transport.ts'

export interface ProxySocketEvents {
  /** What the target sends: only for who begins to listen in the listener of `open`. */
  data: [chunk: Buffer]
  /** The tunnel is over, without an error. */
  end: []
  error: [error: Error]
  /** The tunnel is over: the last event. */
  close: [hadError: boolean]
}

export class ProxySocket extends EventEmitter<ProxySocketEvents> {
  /** The address that was dialled; undefined for a Unix socket. */
  readonly remoteAddress: string | undefined
  readonly remotePort: number | undefined
  destroyed = false
  #splicing: Splicing | null = null
  /** What was asked for before the tunnel was there. */
  #wish: 'fin' | 'reset' | null = null

  /** `origin`: such as `10.0.0.1:443`, `[::1]:443`, or the path of a Unix socket. */
  constructor(origin: string) {
    super()
    const [, host, port] = /^([^/]*):([0-9]+)$/.exec(origin) ?? []
    this.remoteAddress = host?.replace(/^\[|\]$/g, '')
    this.remotePort = port === undefined ? undefined : Number(port)
    ;(this as EventEmitter).on('newListener', (name: string | symbol) => this.#checkListener(String(name)))
  }

  /** Bytes from the target so far. */
  get bytesRead(): number {
    return this.#splicing?.originToClient ?? 0
  }

  /** Bytes to the target so far. */
  get bytesWritten(): number {
    return this.#splicing?.clientToOrigin ?? 0
  }

  /** Ends the tunnel in order: FIN to both sides. Nothing can be written. */
  end(): this {
    return this.#stop('fin')
  }

  /** Ends the tunnel at once. */
  destroy(): this {
    return this.#stop('reset')
  }

  /** The tunnel is there. */
  begin(splicing: Splicing): void {
    this.#splicing = splicing
    if (this.#wish !== null) splicing.stop(this.#wish)
  }

  over(error: Error | null): void {
    this.destroyed = true
    if (error === null) this.emit('end')
    else if (this.listenerCount('error') > 0) this.emit('error', error)
    this.emit('close', error !== null)
  }

  #stop(how: 'fin' | 'reset'): this {
    if (this.#splicing === null) this.#wish = how
    else if (!this.destroyed) this.#splicing.stop(how)
    return this
  }

  #checkListener(name: string): void {
    if (['end', 'error', 'close', 'newListener', 'removeListener'].includes(name)) return
    if (name === 'data' && this.#splicing === null) return
    const why =
      name === 'data'
        ? 'the tunnel is open already, and its bytes do not pass here: listen for data in the listener of open'
        : 'there is no such event'
    throw new HeadraceError('argument-invalid', `proxySocket.on('${name}'): ${why}`)
  }
}

/** The same transport, whose bytes `tell` hears before whoever reads them. They have to pass here for that. */
export function overheard(transport: Transport, tell: (chunk: Buffer) => void): Transport {
  const told = (reader: Reader): Reader => ({
    data(chunk) {
      tell(chunk)
      reader.data(chunk)
    },
    end: () => reader.end(),
    drain: () => reader.drain(),
    closed: (error) => reader.closed(error),
  })
  return {
    attach: (reader) => transport.attach(told(reader)),
    pause: () => transport.pause(),
    resume: () => transport.resume(),
    write: (bytes) => transport.write(bytes),
    end: () => transport.end(),
    reset: () => transport.reset(),
    destroy: () => transport.destroy(),
    get isClosed() {
      return transport.isClosed
    },
    release: () => transport.release(),
    isDetachable: false,
    detach: () => null,
  }
}

/** The target's 101: what of node's IncomingMessage is its head. */
export interface SwitchingResponse {
  readonly httpVersion: string
  readonly statusCode: number
  readonly statusMessage: string
  /** By name in lower case; those of one name with `, ` between them, Set-Cookie as a list. */
  readonly headers: Readonly<Record<string, string | string[]>>
  readonly rawHeaders: readonly string[]
}

export function switchingResponse({ version, status, reason, fields }: ResponseHead): SwitchingResponse {
  const headers: Record<string, string | string[]> = {}
  for (const { key, value } of fields) {
    const known = headers[key]
    if (key === 'set-cookie') headers[key] = [...(known ?? []), value]
    else headers[key] = known === undefined ? value : `${known}, ${value}`
  }
  const rawHeaders = flatFields(fields)
  return { httpVersion: version, statusCode: status, statusMessage: reason, headers, rawHeaders }
}

/** What has ended a tunnel, if it was no orderly end; with the code that node's error would have. */
export function errorOfEnd({ who, how, error }: SpliceEnd): Error | null {
  if (error === '' || who === 'operator') return null
  const what = how === 'reset' ? `the ${who} reset the connection` : `the connection of the ${who} failed`
  return Object.assign(new Error(`${what}: ${error}`), { code: error })
}
