// The polite end of a connection that was answered by us: the answer, FIN, and then what the other side still sends is
// read and dropped for a while. Closing at once would make the system answer those bytes with a RST, which can destroy
// the answer before it was read (RFC 9112 section 9.6).

import type { Reader, Transport } from './transport.ts'

const LINGER_MS = 2_000
const LINGER_BYTES = 1024 * 1024

/** Writes `answer`, ends the connection and closes it: when the other side has closed, or the bounds are reached. */
export function conclude(transport: Transport, answer: Uint8Array | string): void {
  if (transport.isClosed) return
  transport.write(answer)
  transport.end()
  transport.attach(new Lingering(transport))
}

class Lingering implements Reader {
  readonly transport: Transport
  readonly timer: NodeJS.Timeout
  dropped = 0

  constructor(transport: Transport) {
    this.transport = transport
    this.timer = setTimeout(destroy, LINGER_MS, transport)
  }

  data(chunk: Buffer): void {
    this.dropped += chunk.length
    if (this.dropped > LINGER_BYTES) this.transport.destroy()
  }

  // Our FIN was sent or waits behind the answer: node closes when both directions have ended.
  end(): void {}

  drain(): void {}

  closed(): void {
    clearTimeout(this.timer)
  }
}

function destroy(transport: Transport): void {
  transport.destroy()
}
