// The splicing to a session in another process. An operator's end has to go by way of that process, which owes the client a
// close frame: it learns of it by a FIN, and what it says before its own FIN is still spliced.

import type { EarlyBytes, SpliceEnd, SpliceOwner, Splicing } from '../engine/engine.ts'
import { STOP_TIMEOUT_MS } from '../engine/engine.ts'
import { streamEngine } from '../engine/stream.ts'
import type { Transport } from '../transport/transport.ts'

/** As an engine's `splice`. */
export function splicePolitely(
  client: Transport,
  origin: Transport,
  early: EarlyBytes,
  owner: SpliceOwner,
): Splicing {
  return new PoliteSplicing(client, origin, early, owner)
}

class PoliteSplicing implements Splicing, SpliceOwner {
  readonly engine = 'stream'
  readonly inner: Splicing
  readonly origin: Transport
  readonly owner: SpliceOwner
  timer: NodeJS.Timeout | null = null

  constructor(client: Transport, origin: Transport, early: EarlyBytes, owner: SpliceOwner) {
    this.origin = origin
    this.owner = owner
    this.inner = streamEngine.splice(client, origin, early, this)
  }

  get clientToOrigin(): number {
    return this.inner.clientToOrigin
  }

  get originToClient(): number {
    return this.inner.originToClient
  }

  stop(how: 'fin' | 'reset'): void {
    if (how === 'reset') this.inner.stop(how)
    if (how === 'reset' || this.timer !== null) return
    this.origin.end()
    this.timer = setTimeout(stopAnyway, STOP_TIMEOUT_MS, this.inner)
  }

  spliceEnded(end: SpliceEnd): void {
    const isStopped = this.timer !== null
    if (this.timer !== null) clearTimeout(this.timer)
    this.owner.spliceEnded(isStopped ? { who: 'operator', how: 'fin', error: '' } : end)
  }
}

function stopAnyway(splicing: Splicing): void {
  splicing.stop('fin')
}
