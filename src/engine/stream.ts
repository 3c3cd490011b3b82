// The portable engine: node streams, plain and TLS. Chunks travel by reference from one transport to the other; when
// one does not take more, the other is not read (node's high-water marks and the kernel's buffers are all that is held).
// Three small objects per tunnel: the splicing and its two directions.

import type { Reader, Transport } from '../transport/transport.ts'
import type { EarlyBytes, Engine, SpliceEnd, SpliceOwner, Splicing } from './engine.ts'
import { howOf, STOP_TIMEOUT_MS } from './engine.ts'

export const streamEngine: Engine = {
  name: 'stream',
  ready: Promise.resolve(),
  splice(client, origin, early, owner) {
    return new StreamSplicing(client, origin, early, owner)
  },
}

class StreamSplicing implements Splicing {
  readonly owner: SpliceOwner
  readonly fromClient: Direction
  readonly fromOrigin: Direction
  /** Set by the first thing that ended a side, told when both are closed. */
  end: SpliceEnd | null = null
  closedSides = 0

  constructor(client: Transport, origin: Transport, early: EarlyBytes, owner: SpliceOwner) {
    this.owner = owner
    this.fromClient = new Direction(this, client, origin)
    this.fromOrigin = new Direction(this, origin, client)
    this.fromClient.start(early.fromClient)
    this.fromOrigin.start(early.fromOrigin)
  }

  get engine(): 'stream' {
    return 'stream'
  }

  get clientToOrigin(): number {
    return this.fromClient.bytes
  }

  get originToClient(): number {
    return this.fromOrigin.bytes
  }

  stop(how: 'fin' | 'reset'): void {
    const client = this.fromClient.from
    const origin = this.fromOrigin.from
    this.end = { who: 'operator', how, error: '' }
    if (how === 'reset') {
      client.reset()
      origin.reset()
      return
    }
    client.end()
    origin.end()
    // Nobody is told any more that the other side takes bytes again; what comes now is dropped, up to the FIN.
    client.resume()
    origin.resume()
    setTimeout(destroyBoth, STOP_TIMEOUT_MS, client, origin).unref()
  }

  /** A side is closed: in order, which the FIN of each side led to, or with an error, which takes the other side along. */
  sideClosed(direction: Direction, error: NodeJS.ErrnoException | undefined): void {
    this.closedSides += 1
    // An error after a FIN says more than the FIN; nothing says more than the first error or an operator.
    const isOpen = this.end === null || (this.end.how === 'fin' && this.end.who !== 'operator')
    if (isOpen && (error !== undefined || this.end === null)) {
      this.end = {
        who: this.sideOf(direction),
        how: howOf(error?.code ?? ''),
        error: error?.code ?? error?.message ?? '',
      }
    }
    if (this.closedSides === 2) process.nextTick(tellOwner, this)
    // Last, since the other side may be closed inside this call.
    if (error !== undefined || !direction.hasEnded) direction.to.reset()
  }

  sideOf(direction: Direction): 'client' | 'origin' {
    return direction === this.fromClient ? 'client' : 'origin'
  }
}

/** Later, so that an owner is never told inside its own call of `splice`. */
function tellOwner({ owner, end }: StreamSplicing): void {
  if (end !== null) owner.spliceEnded(end)
}

function destroyBoth(client: Transport, origin: Transport): void {
  client.destroy()
  origin.destroy()
}

/** One direction: what `from` brings goes to `to`. It is also told when `from` can be written again. */
class Direction implements Reader {
  readonly splicing: StreamSplicing
  readonly from: Transport
  readonly to: Transport
  bytes = 0
  hasEnded = false

  constructor(splicing: StreamSplicing, from: Transport, to: Transport) {
    this.splicing = splicing
    this.from = from
    this.to = to
  }

  start(early: readonly Buffer[]): void {
    let takesMore = true
    for (const chunk of early) {
      this.bytes += chunk.length
      takesMore = this.to.write(chunk)
    }
    this.from.attach(this)
    if (!takesMore) this.from.pause()
  }

  data(chunk: Buffer): void {
    this.bytes += chunk.length
    if (!this.to.write(chunk)) this.from.pause()
  }

  end(): void {
    this.hasEnded = true
    this.splicing.end ??= { who: this.splicing.sideOf(this), how: 'fin', error: '' }
    this.to.end()
  }

  /** `from` takes bytes again: the other side, whose bytes they were, is read on. */
  drain(): void {
    this.to.resume()
  }

  closed(error: NodeJS.ErrnoException | undefined): void {
    this.splicing.sideClosed(this, error)
  }
}
