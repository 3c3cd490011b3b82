// Letters from one process to another that carry descriptors (SCM_RIGHTS, unix(7)), over a connection of the type
// SOCK_SEQPACKET: each letter arrives whole, with what belongs to it. A descriptor that was received is a new one, of the
// same open file; whoever receives it closes it.

import type { Libc } from './libc.ts'
import {
  EAGAIN,
  ECONNRESET,
  EINTR,
  EPOLLHUP,
  EPOLLOUT,
  ETOOMANYREFS,
  MSG_CMSG_CLOEXEC,
  MSG_CTRUNC,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  SCM_RIGHTS,
  SHUT_RD,
  SOL_SOCKET,
} from './libc.ts'
import type { Loop, Watcher } from './loop.ts'
import { CONNECTION_EDGES } from './loop.ts'

/** Of one letter: SCM_MAX_FD of the kernel. */
export const DESCRIPTORS_LIMIT = 253

/** Of one letter; what a send buffer of the usual size takes twice (net.core.wmem_default). */
export const LETTER_BYTES = 64 * 1024

export interface Letter {
  readonly bytes: Buffer
  /** The receiver's from now on. */
  readonly descriptors: readonly number[]
  /** Some of its descriptors are missing: the process may have no more. */
  readonly isCut: boolean
}

export interface LetterReader {
  letter(letter: Letter): void
  /** The other side has gone, or `close` was called: once, and nothing comes after it. */
  closed(): void
}

/** How long it is waited when too many descriptors are under way (unix(7), ETOOMANYREFS), in ms. */
const CROWDED_MS = 2

interface Waiting {
  readonly bytes: Uint8Array
  readonly descriptors: readonly number[]
}

/** A connected socket, which it owns. */
export class Passage implements Watcher {
  readonly #loop: Loop
  readonly #fd: number
  readonly #reader: LetterReader
  readonly #incoming: Envelope
  #outgoing: Envelope | null = null
  #waiting: Waiting[] = []
  #isClosed = false
  #isDeaf = false

  constructor(loop: Loop, fd: number, reader: LetterReader) {
    this.#loop = loop
    this.#fd = fd
    this.#reader = reader
    this.#incoming = envelope(loop.calls, Buffer.allocUnsafeSlow(LETTER_BYTES), DESCRIPTORS_LIMIT)
    // Told later, like any end of it.
    if (!loop.watch(fd, this, CONNECTION_EDGES)) process.nextTick(() => this.close())
  }

  /** In order. The descriptors must stay open until they have arrived. After the end it does nothing. */
  send(bytes: Uint8Array, descriptors: readonly number[] = []): void {
    if (this.#isClosed) return
    this.#waiting.push({ bytes, descriptors })
    if (this.#waiting.length === 1) this.#flush()
  }

  /** Whether the system has all that was said; the other side finds it, whatever becomes of this one. */
  get isSent(): boolean {
    return this.#waiting.length === 0
  }

  /**
   * The other side can say nothing more, whenever it tries (EPIPE, unix(7)); what it has said is read before this returns. It
   * still hears, and its end is still told.
   */
  deafen(): void {
    if (this.#isClosed || this.#isDeaf) return
    this.#isDeaf = true
    this.#loop.calls.shutdown(this.#fd, SHUT_RD)
    this.read()
  }

  ready(events: number): void {
    if (this.#isDeaf && events & EPOLLHUP) this.close()
    if (events & EPOLLOUT) this.#flush()
    this.read()
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#waiting = []
    this.#loop.unwatch(this.#fd)
    this.#loop.calls.close(this.#fd)
    this.#reader.closed()
  }

  #flush(): void {
    const { calls } = this.#loop
    for (let [next] = this.#waiting; next !== undefined; [next] = this.#waiting) {
      const letter = envelope(calls, next.bytes, next.descriptors.length)
      letter.enclose(next.descriptors)
      this.#outgoing = letter
      if (calls.sendmsg(this.#fd, this.#outgoing.header, MSG_DONTWAIT | MSG_NOSIGNAL) === -1) {
        const error = calls.errno()
        if (error === EINTR) continue
        if (error === ETOOMANYREFS) setTimeout(() => this.#flush(), CROWDED_MS)
        // Reading tells of the end, behind all that the other side has said before it.
        return
      }
      this.#waiting.shift()
    }
  }

  /** What has come already is told before this returns. */
  read(): void {
    const { calls } = this.#loop
    while (!this.#isClosed) {
      this.#incoming.reset()
      const size = calls.recvmsg(this.#fd, this.#incoming.header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)
      if (size > 0) {
        this.#reader.letter(this.#incoming.letter(size))
        continue
      }
      if (size === 0 && this.#isDeaf) return
      const error = size === 0 ? 0 : calls.errno()
      if (error === EAGAIN) return
      // It comes before what the other side has said, if that side has left something unread.
      if (error === EINTR || error === ECONNRESET) continue
      this.close()
    }
  }
}

interface Envelope {
  /** A struct msghdr. */
  readonly header: Buffer
  /** What it points to: whoever has the one has to keep the other. */
  readonly held: readonly Uint8Array[]
  enclose(descriptors: readonly number[]): void
  /** Before a letter is received into it. */
  reset(): void
  letter(size: number): Letter
}

// struct msghdr, iovec and cmsghdr on 64-bit Linux (glibc; musl's smaller lengths are followed by zeros).
const HEADER_BYTES = 56
const VECTOR_AT = 16
const VECTOR_COUNT_AT = 24
const CONTROL_AT = 32
const CONTROL_LENGTH_AT = 40
const FLAGS_AT = 48
const VECTOR_BYTES = 16
const CONTROL_HEADER_BYTES = 16

function envelope(calls: Libc, bytes: Uint8Array, count: number): Envelope {
  const header = Buffer.alloc(HEADER_BYTES)
  const vector = Buffer.alloc(VECTOR_BYTES)
  const control = Buffer.alloc(CONTROL_HEADER_BYTES + Math.ceil((count * 4) / 8) * 8)
  vector.writeBigUInt64LE(calls.address(bytes), 0)
  vector.writeBigUInt64LE(BigInt(bytes.length), 8)
  header.writeBigUInt64LE(calls.address(vector), VECTOR_AT)
  header.writeBigUInt64LE(1n, VECTOR_COUNT_AT)

  function reset(): void {
    if (count === 0) return
    header.writeBigUInt64LE(calls.address(control), CONTROL_AT)
    header.writeBigUInt64LE(BigInt(control.length), CONTROL_LENGTH_AT)
  }

  function enclose(descriptors: readonly number[]): void {
    reset()
    if (count === 0) return
    control.writeBigUInt64LE(BigInt(CONTROL_HEADER_BYTES + count * 4), 0)
    control.writeInt32LE(SOL_SOCKET, 8)
    control.writeInt32LE(SCM_RIGHTS, 12)
    for (const [at, descriptor] of descriptors.entries()) {
      control.writeInt32LE(descriptor, CONTROL_HEADER_BYTES + at * 4)
    }
  }

  function letter(size: number): Letter {
    const isCut = (header.readInt32LE(FLAGS_AT) & MSG_CTRUNC) !== 0
    const hasControl = Number(header.readBigUInt64LE(CONTROL_LENGTH_AT)) >= CONTROL_HEADER_BYTES
    const isRights =
      hasControl && control.readInt32LE(8) === SOL_SOCKET && control.readInt32LE(12) === SCM_RIGHTS
    const length = isRights ? Number(control.readBigUInt64LE(0)) - CONTROL_HEADER_BYTES : 0
    const descriptors = Array.from({ length: length / 4 }, (_, at) =>
      control.readInt32LE(CONTROL_HEADER_BYTES + at * 4),
    )
    return { bytes: Buffer.from(bytes.subarray(0, size)), descriptors, isCut }
  }

  return { header, held: [bytes, vector, control], enclose, reset, letter }
}
