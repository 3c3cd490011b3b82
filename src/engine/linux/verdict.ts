// The program that the kernel runs for each packet (skb) that arrives on a joined socket, in softirq and never twice at
// once for one socket. It gives the packet to the other socket's send side, or leaves it for user space.
//
// What it knows of a direction is one line of an array that user space has mapped. Each field has one writer, so nothing
// needs a lock: the program counts, user space allows.
//
//   len = 0 (a bare FIN)             dropped: redirected it would break the other socket's send side (EPIPE)
//   seq < next                       cut: its first bytes have come before. A sender that repeats a packet may put new bytes
//                                    behind it, and so does the receiver with two packets in its backlog; TCP leaves it to
//                                    whoever reads to skip what is old (tcp_recvmsg), and tcp_read_skb does not
//   passed > 0                       passed: something before it was, and what follows must not overtake it
//   cost + len + PACKET_COST > limit passed, and user space is told: it stays on its socket, whose window closes
//   passed > ceiling                 dropped, and user space is told: the tunnel has lost bytes and must be reset. All
//                                    that follows is dropped as well
//   else                             redirected; user space is told once when cost goes over notice

import type { Instruction } from './bpf.ts'
import {
  add,
  add32,
  addValue,
  assemble,
  call,
  copy,
  exit,
  jump,
  jumpIfEqual,
  jumpIfGreater,
  jumpIfGreaterThan,
  jumpIfZero,
  jumpUnlessPositive32,
  jumpUnlessZero,
  load32,
  load64,
  loadMap,
  multiply,
  negate,
  set,
  store32,
  store64,
  subtract32,
} from './bpf.ts'

/** Places of the 64-bit fields in a direction's line. Written by the program: */
export const BYTES = 0 // payload redirected
export const COST = 1 // what they cost: payload and PACKET_COST each
export const PASSED = 2 // payload left to user space
export const TOLD = 3 // what user space was last told: a notice, or one of the two below
/** Written by user space: */
export const LIMIT = 4 // of COST
export const NOTICE = 5 // of COST
export const CEILING = 6 // of PASSED
/** Written by user space before the first packet, then by the program: */
export const NEXT = 7 // TCP's number of the byte that is next
/** A cache line: two directions don't share one. */
export const FIELDS = 8

/** No notice is one of them. */
const TOLD_PASSED = -1
const TOLD_LOST = -2

/** An skb's own memory, about: without it a sender of single bytes could fill a thousand times what the limit says. */
export const PACKET_COST = 1024

export interface VerdictMaps {
  /** SOCKHASH: a socket's cookie → its other socket. */
  readonly peers: number
  /** Hash: a socket's cookie → its side's number. */
  readonly sides: number
  /** Array: a side's number → its line. */
  readonly states: number
  /** Ring buffer: the side's number, when there is something to look at. */
  readonly ring: number
  /** SOCKHASH: the sockets that the program runs for. */
  readonly verdicts: number
}

// Helpers (linux/bpf.h).
const MAP_LOOKUP_ELEM = 1
const GET_SOCKET_COOKIE = 46
const SK_REDIRECT_HASH = 72
const SKB_ADJUST_ROOM = 50
const RINGBUF_OUTPUT = 130
const RB_FORCE_WAKEUP = 2

/** Its square is more than any ceiling. */
const FAR = 2 ** 31 - 1

/** Of a struct __sk_buff: its length, and TCP_SKB_CB(skb)->seq in its cb. */
const LENGTH_AT = 0
const SEQUENCE_AT = 48
/** The most that SKB_ADJUST_ROOM cuts at a time, and how often it is asked to. */
const CUT_BYTES = 4095
const CUTS = 256

const SK_DROP = 0
const SK_PASS = 1

// Registers: r0 results, r1 to r5 arguments (lost in a call), r6 to r9 kept, r10 the frame.
const [r0, r1, r2, r3, r4, r6, r7, r8, r9, r10] = [0, 1, 2, 3, 4, 6, 7, 8, 9, 10] as const
const COOKIE = -8
const SIDE = -16
const VERDICT = -24
const COUNT = -32

export function verdictProgram({ peers, sides, states, ring, verdicts }: VerdictMaps): Buffer {
  return assemble([
    ...findLine(sides, states),

    // Of no use but to be named: a socket has the program and the program its maps, so that they live until the last socket
    // in them is closed, whatever becomes of the process that has made them.
    loadMap(r1, verdicts),

    ...cutOld(),

    // Behind a packet that was passed, all are.
    load64(r1, r8, PASSED * 8),
    jumpUnlessZero(r1, 'pass'),

    // r3 = cost with this packet.
    load64(r3, r8, COST * 8),
    add(r3, r7),
    addValue(r3, PACKET_COST),
    load64(r2, r8, LIMIT * 8),
    jumpIfGreater(r3, r2, 'pass'),

    // Count it.
    store64(r8, COST * 8, r3),
    load64(r2, r8, BYTES * 8),
    add(r2, r7),
    store64(r8, BYTES * 8, r2),

    // Over the notice: what was told is the notice itself.
    load64(r9, r8, NOTICE * 8),
    jumpIfGreater(r3, r9, 'notice'),
    jump('redirect'),
    'notice',
    ...tell(ring, 'redirect'),

    'redirect',
    copy(r1, r6),
    loadMap(r2, peers),
    ...addressOf(r3, COOKIE),
    set(r4, 0),
    call(SK_REDIRECT_HASH),
    exit(),

    // r1 = passed with this packet.
    'pass',
    add(r1, r7),
    store64(r8, PASSED * 8, r1),
    set(r0, SK_PASS),
    set(r9, TOLD_PASSED),
    load64(r2, r8, CEILING * 8),
    jumpIfGreater(r1, r2, 'lose'),
    jump('left'),
    'not cut',
    load64(r1, r8, PASSED * 8),
    // For good, whatever the ceiling becomes.
    'lose',
    set(r2, FAR),
    multiply(r2, r2),
    add(r1, r2),
    store64(r8, PASSED * 8, r1),
    set(r0, SK_DROP),
    set(r9, TOLD_LOST),
    'left',
    store64(r10, VERDICT, r0),
    ...tell(ring, 'end'),
    'end',
    load64(r0, r10, VERDICT),
    exit(),
  ])
}

/** r6 = the packet, r7 = its length, r8 = the direction's line. A packet with none is left alone. */
function findLine(sides: number, states: number): (Instruction | string)[] {
  return [
    copy(r6, r1),
    load32(r7, r6, LENGTH_AT),
    jumpUnlessZero(r7, 'has bytes'),
    set(r0, SK_DROP),
    exit(),
    'has bytes',
    copy(r1, r6),
    call(GET_SOCKET_COOKIE),
    store64(r10, COOKIE, r0),
    loadMap(r1, sides),
    ...addressOf(r2, COOKIE),
    call(MAP_LOOKUP_ELEM),
    jumpIfZero(r0, 'unknown'),
    load32(r1, r0, 0),
    store32(r10, SIDE, r1),
    loadMap(r1, states),
    ...addressOf(r2, SIDE),
    call(MAP_LOOKUP_ELEM),
    jumpIfZero(r0, 'unknown'),
    copy(r8, r0),
    jump('known'),
    'unknown',
    set(r0, SK_PASS),
    exit(),
    'known',
  ]
}

/** Leaves of the packet what is new, r9 its old bytes. */
function cutOld(): (Instruction | string)[] {
  return [
    load32(r2, r6, SEQUENCE_AT),
    load64(r9, r8, NEXT * 8),
    subtract32(r9, r2),
    add32(r2, r7),
    store64(r8, NEXT * 8, r2),
    jumpUnlessPositive32(r9, 'cut'),

    set(r1, 0),
    store64(r10, COUNT, r1),
    'more',
    jumpIfGreaterThan(r9, CUT_BYTES, 'much'),
    copy(r2, r9),
    negate(r2),
    ...adjustRoom(),
    load32(r7, r6, LENGTH_AT),
    jump('cut'),

    'much',
    load64(r1, r10, COUNT),
    addValue(r1, 1),
    store64(r10, COUNT, r1),
    jumpIfGreaterThan(r1, CUTS, 'not cut'),
    addValue(r9, -CUT_BYTES),
    set(r2, -CUT_BYTES),
    ...adjustRoom(),
    jump('more'),
    'cut',
  ]
}

function adjustRoom(): Instruction[] {
  return [copy(r1, r6), set(r3, 0), set(r4, 0), call(SKB_ADJUST_ROOM), jumpUnlessZero(r0, 'not cut')]
}

/** Tells user space once for each value of r9; again with the next packet if the ring took nothing. */
function tell(ring: number, next: string): Instruction[] {
  return [
    load64(r1, r8, TOLD * 8),
    jumpIfEqual(r1, r9, next),
    loadMap(r1, ring),
    ...addressOf(r2, SIDE),
    set(r3, 4),
    set(r4, RB_FORCE_WAKEUP),
    call(RINGBUF_OUTPUT),
    jumpUnlessZero(r0, next),
    store64(r8, TOLD * 8, r9),
  ]
}

function addressOf(register: number, place: number): Instruction[] {
  return [copy(register, r10), addValue(register, place)]
}
