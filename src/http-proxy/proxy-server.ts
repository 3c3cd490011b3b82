// http-proxy's ProxyServer, for WebSockets.

import { EventEmitter } from 'node:events'
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import { createServer as createHttpServer } from 'node:http'
import type { Server as HttpsServer } from 'node:https'
import { createServer as createHttpsServer } from 'node:https'
import type { AddressInfo, Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { HeadraceError } from '../errors.ts'
import { checkOptions } from './check.ts'
import type { ErrorCallback, ProxyServerEvents } from './events.ts'
import { guarded, isNeverTold } from './events.ts'
import type { ServerOptions } from './options.ts'
import { edge } from './targets.ts'
import type { Tally } from './upgrade.ts'
import { Upgrade } from './upgrade.ts'

type More = readonly (Buffer | ServerOptions | ErrorCallback | undefined)[]

export class ProxyServer extends EventEmitter<ProxyServerEvents> {
  static readonly createProxyServer = createProxyServer
  static readonly createServer = createProxyServer
  static readonly createProxy = createProxyServer

  readonly options: ServerOptions
  #server: Server | HttpsServer | null = null
  #tunnels = 0
  /** Told when the last tunnel is over. */
  readonly #waiting: (() => void)[] = []
  #hasWarned = false

  /** Opens and dials nothing. Throws HeadraceError config-invalid with all that is wrong with the options. */
  constructor(options: ServerOptions = {}) {
    super()
    checkOptions(options)
    this.options = options
    this.on('error', (error) => this.#warn(error))
    ;(this as EventEmitter).on('newListener', (event: string | symbol) => this.#checkListener(event))
  }

  /**
   * Gives an upgrade to the target: `request, socket, head, options, callback`, the last two optional. The connection is
   * answered, tunnelled and closed from here on; nothing is thrown, whatever the client has sent. What goes wrong is told to
   * the callback, or to the listeners of `error`, who may answer on the socket then.
   */
  readonly ws = (
    request: IncomingMessage,
    socket: Duplex,
    ...more:
      | [head?: Buffer, options?: ServerOptions, callback?: ErrorCallback]
      | [head: Buffer, callback: ErrorCallback]
  ): void => {
    const { head, options, callback } = argumentsOf(more)
    const merged = options === undefined ? this.options : { ...this.options, ...options }
    const call = { request, socket: socket as Socket, head, options: merged, callback }
    edge().upgrade(request, socket, head, new Upgrade(call, this, this.#tally))
  }

  /**
   * Plain HTTP stays with http-proxy. The callback, or the listeners of `error`, are told and may answer; if they don't, the
   * client gets a 426 that says so.
   */
  readonly web = (
    request: IncomingMessage,
    response: ServerResponse,
    ...more: [options?: ServerOptions, callback?: ErrorCallback] | [callback: ErrorCallback]
  ): void => {
    const { options, callback } = argumentsOf(more)
    const error = new HeadraceError(
      'upgrade-required',
      'proxy.web() is not offered: keep http-proxy for plain HTTP',
    )
    const told = [error, request, response, options?.target ?? this.options.target] as const
    if (callback !== undefined) guarded(() => callback(...told))
    else guarded(() => this.emit('error', ...told))
    if (response.headersSent || response.writableEnded) return
    const fields = { 'Content-Type': 'text/plain; charset=utf-8', Upgrade: 'websocket', Connection: 'close' }
    guarded(() => response.writeHead(426, fields).end(`426 Upgrade Required: ${error.message}\n`))
  }

  /** Opens a server of its own, for TLS with the option `ssl`, which takes upgrades with the option `ws`. */
  listen(port: number, hostname?: string): this {
    const { ssl, ws } = this.options
    this.#server = ssl ? createHttpsServer(ssl, this.web) : createHttpServer(this.web)
    if (ws) this.#server.on('upgrade', this.ws)
    this.#server.listen(port, hostname)
    return this
  }

  /** Of the server that `listen` has opened. */
  address(): string | AddressInfo | null | undefined {
    return this.#server?.address()
  }

  /** Closes that server. `done`: when its connections are over, tunnels included. */
  close(done?: (error?: Error) => void): void {
    const server = this.#server
    if (server === null) return void done?.()
    this.#server = null
    server.close((error) => {
      if (this.#tunnels === 0) done?.(error)
      else this.#waiting.push(() => done?.(error))
    })
  }

  /** Throws HeadraceError argument-invalid: there are no passes. */
  before(_type: string, name: string, _pass: unknown): never {
    throw new HeadraceError(
      'argument-invalid',
      `before: there is no pass ${name} here, listen for proxyReqWs`,
    )
  }

  /** Throws as `before` does. */
  after(_type: string, name: string, _pass: unknown): never {
    throw new HeadraceError('argument-invalid', `after: there is no pass ${name} here, listen for proxyReqWs`)
  }

  readonly #tally: Tally = {
    opened: () => {
      this.#tunnels += 1
    },
    over: () => {
      this.#tunnels -= 1
      if (this.#tunnels === 0) for (const tell of this.#waiting.splice(0)) guarded(tell)
    },
  }

  /** http-proxy would throw, and end the process. */
  #warn(error: Error): void {
    if (this.#hasWarned || this.listenerCount('error') > 1) return
    this.#hasWarned = true
    const advice = "listen with proxy.on('error', …): further errors of this proxy are not told"
    process.emitWarning(`headrace/http-proxy: ${error.message}; ${advice}`, 'HeadraceWarning')
  }

  #checkListener(event: string | symbol): void {
    if (!isNeverTold(event)) return
    const detail = `on('${String(event)}'): there is no such event here: plain HTTP stays with http-proxy`
    throw new HeadraceError('argument-invalid', detail)
  }
}

/** Works with `new` as well, as http-proxy's does. Throws as the constructor. */
export function createProxyServer(options?: ServerOptions): ProxyServer {
  return new ProxyServer(options)
}

/** Each by its kind, since any may be left out. */
function argumentsOf(more: More): {
  readonly head: Buffer
  readonly options: ServerOptions | undefined
  readonly callback: ErrorCallback | undefined
} {
  const head = more.find((one) => Buffer.isBuffer(one))
  const callback = more.find((one) => typeof one === 'function')
  const options = more.find((one) => typeof one === 'object' && one !== null && !Buffer.isBuffer(one))
  return {
    head: (head as Buffer | undefined) ?? Buffer.alloc(0),
    options: options as ServerOptions,
    callback: callback as ErrorCallback,
  }
}
