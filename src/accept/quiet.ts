// The last moments of a listening socket. Whoever closes it resets all that waits in its queue, and all handshakes that are
// not complete (tcp(7) has no word for it). So first no handshake is begun any more, then what has begun is accepted, then
// it is closed. A SYN that is dropped is sent again a second later, and meets whoever listens then, or nobody.

import type { Libc } from '../linux/libc.ts'
import { SO_ATTACH_FILTER, SOL_SOCKET } from '../linux/libc.ts'

/** What handshakes that have begun may take, in ms: a round trip to the other side of the earth. */
export const LAST_HANDSHAKES_MS = 250

/** Classic BPF (linux/filter.h), in which a packet starts with its TCP header: drop it if SYN is among its flags. */
const DROP_SYN: readonly (readonly [code: number, ifTrue: number, ifFalse: number, value: number])[] = [
  [0x30, 0, 0, 13], // load the byte at 13, the flags
  [0x45, 0, 1, 0x02], // is SYN set?
  [0x06, 0, 0, 0], // take nothing of it
  [0x06, 0, 0, 0xff_ff_ff_ff], // take all of it
]

/** On a listening TCP socket, and all duplicates of it. Needs no privilege; if the system refuses, nothing has changed. */
export function beginNoMore(calls: Libc, descriptor: number): void {
  const filter = Buffer.alloc(DROP_SYN.length * 8)
  for (const [at, [code, ifTrue, ifFalse, value]] of DROP_SYN.entries()) {
    filter.writeUInt16LE(code, at * 8)
    filter.writeUInt8(ifTrue, at * 8 + 2)
    filter.writeUInt8(ifFalse, at * 8 + 3)
    filter.writeUInt32LE(value, at * 8 + 4)
  }
  // struct sock_fprog: a length, and where the instructions are.
  const program = Buffer.alloc(16)
  program.writeUInt16LE(DROP_SYN.length, 0)
  program.writeBigUInt64LE(calls.address(filter), 8)
  calls.setsockopt(descriptor, SOL_SOCKET, SO_ATTACH_FILTER, program, program.length)
}
