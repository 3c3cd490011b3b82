// One connection of the load, as client and origin see it: on a bare descriptor where that can be had, else, and for TLS,
// on a node socket.

/** Told of everything that becomes of its connection. */
export interface Reader {
  /** A dialled connection is there (with TLS: its handshake is over). */
  opened(): void
  /** The first `length` bytes are new; they are valid during the call only. */
  received(bytes: Buffer, length: number): void
  /** After a `send` that took less than all: it may take more now. */
  writable(): void
  /** FIN was read. */
  ended(): void
  /** Once; the connection is closed. Not called after `close` or `reset`. */
  failed(error: Error): void
}

export interface Wire {
  reader: Reader
  /** Sends the first `length` bytes, or as many as there is room for; returns how many. They may change after the call. */
  send(bytes: Buffer, length: number): number
  /** Whether to read. */
  pause(): void
  resume(): void
  /** Sends FIN. */
  end(): void
  /** Closes it, in order if FIN went both ways. */
  close(): void
  /** RST: both ends forget it at once, and no port waits for stray packets. */
  reset(): void
}

export interface Address {
  readonly host: string
  readonly port: number
}

/** `host:port` of IPv4. */
export function addressOf(text: string): Address {
  const [host = '', port] = text.split(':')
  return { host, port: Number(port) }
}
