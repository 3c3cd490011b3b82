// One upgrade that was given to a proxy, from the call to the end of its tunnel: what the options say is done to it, and what
// becomes of it is told to the listeners of the proxy.

import type { EventEmitter } from 'node:events'
import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import type { Backend } from '../dial/backend.ts'
import type { EarlyBytes, Engine, SpliceEnd, SpliceOwner, Splicing } from '../engine/engine.ts'
import { streamEngine } from '../engine/stream.ts'
import { entry, HeadraceError } from '../errors.ts'
import type { RequestView } from '../handoff/request-view.ts'
import type { ResponseHead } from '../head/head.ts'
import type { Referral } from '../service/referral.ts'
import type { Transport } from '../transport/transport.ts'
import { checkedTarget } from './check.ts'
import type { ErrorCallback, ProxyServerEvents } from './events.ts'
import { errorFor, guarded } from './events.ts'
import type { ServerOptions } from './options.ts'
import { changeRequest } from './outgoing.ts'
import { ProxyRequest } from './proxy-request.ts'
import type { SwitchingResponse } from './proxy-socket.ts'
import { errorOfEnd, overheard, ProxySocket, switchingResponse } from './proxy-socket.ts'
import { backendOptionsOf } from './target.ts'
import { backendFor } from './targets.ts'

/** What `ws` was called with. */
export interface Call {
  readonly request: IncomingMessage
  readonly socket: Socket
  readonly head: Buffer
  /** Those of the proxy, with those of the call over them. */
  readonly options: ServerOptions
  /** Told of errors in the place of the proxy's listeners. */
  readonly callback: ErrorCallback | undefined
}

/** Whoever counts the tunnels of a proxy. */
export interface Tally {
  opened(): void
  over(): void
}

/** Who listens for these on the client's socket sees what passes there; besides node and the transport, which do so too. */
const WATCHED: Readonly<Record<string, number>> = { data: 1, close: 1, end: 2 }

export class Upgrade implements Referral, SpliceOwner {
  readonly call: Call
  readonly proxy: EventEmitter<ProxyServerEvents>
  readonly tally: Tally
  /** A listener has answered the client, and nothing is dialled. */
  isDenied = false
  /** Of the tunnel: set when that is open. */
  owner: SpliceOwner | null = null
  proxySocket: ProxySocket | null = null
  response: SwitchingResponse | null = null
  /** What came from the target right behind its answer. */
  proxyHead: Buffer = NOTHING

  constructor(call: Call, proxy: EventEmitter<ProxyServerEvents>, tally: Tally) {
    this.call = call
    this.proxy = proxy
    this.tally = tally
  }

  decide(view: RequestView): Backend {
    const { request, socket, head, options } = this.call
    const target = checkedTarget(options)
    changeRequest(view, options, target, request.socket.remoteAddress ?? '')
    const wasOver = isOver(socket)
    this.proxy.emit('proxyReqWs', new ProxyRequest(view), request, socket, options, head)
    this.isDenied = isOver(socket) && !wasOver
    if (this.isDenied) throw new HeadraceError('rule-denied', 'a listener of proxyReqWs has ended it')
    return backendFor(backendOptionsOf(target, options))
  }

  switched(answer: ResponseHead, origin: string): void {
    const { proxy } = this
    if (proxy.listenerCount('open') + proxy.listenerCount('close') === 0) return
    this.proxySocket = new ProxySocket(origin)
    this.response = switchingResponse(answer)
  }

  splicing(engine: Engine): Engine['splice'] {
    return (client, origin, early, owner) => {
      this.owner = owner
      this.tally.opened()
      return this.#splice(engine, client, origin, early)
    }
  }

  #splice(engine: Engine, client: Transport, origin: Transport, early: EarlyBytes): Splicing {
    const { proxySocket } = this
    const { splice } = isWatched(this.call.socket) ? streamEngine : engine
    if (proxySocket === null) return splice(client, origin, early, this)
    this.proxyHead = Buffer.concat(early.fromOrigin)
    guarded(() => this.proxy.emit('open', proxySocket))
    const isHeard = proxySocket.listenerCount('data') > 0
    const tell = (chunk: Buffer) => guarded(() => proxySocket.emit('data', chunk))
    if (isHeard && this.proxyHead.length > 0) tell(this.proxyHead)
    const splicing = isHeard
      ? streamEngine.splice(client, overheard(origin, tell), early, this)
      : splice(client, origin, early, this)
    proxySocket.begin(splicing)
    return splicing
  }

  /** What a client does wrong, or that it has left, is no error of a proxy; http-proxy tells of resets. */
  refused(error: HeadraceError): boolean {
    if (this.isDenied) return true
    const { who, how } = entry(error.code)
    if (who === 'client' && how !== 'reset') return false
    const { socket } = this.call
    const { bytesWritten } = socket
    this.#tell(errorFor(error))
    return socket.writableEnded || socket.bytesWritten !== bytesWritten
  }

  spliceEnded(end: SpliceEnd): void {
    const { proxySocket, response, proxyHead } = this
    this.owner?.spliceEnded(end)
    const error = errorOfEnd(end)
    if (error !== null) this.#tell(error)
    if (proxySocket !== null && response !== null) {
      guarded(() => proxySocket.over(error))
      guarded(() => this.proxy.emit('close', response, proxySocket, proxyHead))
    }
    this.tally.over()
  }

  #tell(error: Error): void {
    const { request, socket, options, callback } = this.call
    const told = [error, request, socket, options.target] as const
    if (callback !== undefined) guarded(() => callback(...told))
    else guarded(() => this.proxy.emit('error', ...told))
  }
}

function isOver(socket: Socket): boolean {
  return socket.writableEnded || socket.destroyed
}

function isWatched(socket: Socket): boolean {
  return Object.entries(WATCHED).some(([name, own]) => socket.listenerCount(name) > own)
}

const NOTHING = Buffer.alloc(0)
