// bpf(2): maps, programs, and as much of an assembler as one short program needs (linux/bpf.h; the instruction set is RFC
// 9669). What fails throws the system's error with `call` in it; for a program the verifier's words are in the message.

import type { Libc, Memory } from '../../linux/libc.ts'
import { SYS_BPF, systemError } from '../../linux/libc.ts'

export const MAP_TYPE_HASH = 1
export const MAP_TYPE_ARRAY = 2
export const MAP_TYPE_SOCKHASH = 18
export const MAP_TYPE_RINGBUF = 27

/** Elements are made when they are needed, not all at the start. */
export const MAP_NO_PREALLOC = 1
/** The values can be mapped into a process with mmap(2). */
export const MAP_MMAPABLE = 1 << 10

export const PROGRAM_TYPE_SK_SKB = 14
export const ATTACH_SK_SKB_VERDICT = 38

const MAP_CREATE = 0
const MAP_LOOKUP = 1
const MAP_UPDATE = 2
const MAP_DELETE = 3
const MAP_NEXT_KEY = 4
const PROGRAM_LOAD = 5
const PROGRAM_ATTACH = 8

export interface MapShape {
  readonly type: number
  /** Bytes; 0 for a ring buffer, as is the value's. */
  readonly key: number
  readonly value: number
  /** Most elements; bytes for a ring buffer. */
  readonly size: number
  readonly flags?: number
  /** At most 15 characters, for bpftool. */
  readonly name: string
}

export interface Bpf {
  /** A descriptor. */
  createMap(shape: MapShape): number
  /** A descriptor. */
  load(type: number, program: Buffer, name: string): number
  attach(program: number, map: number, type: number): void
  /** 0, or the error's number: that an element can't be there is often no surprise. So for the next three. */
  update(map: number, key: Memory, value: Memory): number
  remove(map: number, key: Memory): number
  lookup(map: number, key: Memory, value: Memory): number
  /** How many elements a map has, by walking them: for tests. */
  count(map: number, keyBytes: number): number
}

/** Parts of `union bpf_attr`: the longest of those used here, for the loading of a program, is shorter. */
const ATTRIBUTES_BYTES = 128
const LOG_BYTES = 64 * 1024

export function createBpf(calls: Libc): Bpf {
  const attributes = Buffer.alloc(ATTRIBUTES_BYTES)
  /** One for all calls that are about an element, which are the frequent ones. */
  const element = Buffer.alloc(32)

  function run(command: number, bytes: Buffer): number {
    return calls.syscall(SYS_BPF, command, bytes, bytes.length)
  }

  function orThrow(result: number, call: string): number {
    if (result === -1) throw systemError(calls.errno(), `bpf ${call}`)
    return result
  }

  function onElement(command: number, map: number, key: Memory, value: Memory | null): number {
    element.writeUInt32LE(map, 0)
    element.writeBigUInt64LE(calls.address(key), 8)
    element.writeBigUInt64LE(value === null ? 0n : calls.address(value), 16)
    return run(command, element) === -1 ? calls.errno() : 0
  }

  function load(type: number, program: Buffer, name: string, log: Buffer | null): number {
    const licence = Buffer.from('GPL\0')
    attributes.fill(0)
    attributes.writeUInt32LE(type, 0)
    attributes.writeUInt32LE(program.length / 8, 4)
    attributes.writeBigUInt64LE(calls.address(program), 8)
    attributes.writeBigUInt64LE(calls.address(licence), 16)
    if (log !== null) {
      attributes.writeUInt32LE(1, 24)
      attributes.writeUInt32LE(log.length, 28)
      attributes.writeBigUInt64LE(calls.address(log), 32)
    }
    attributes.write(name, 48, 'latin1')
    return run(PROGRAM_LOAD, attributes)
  }

  return {
    createMap({ type, key, value, size, flags = 0, name }) {
      attributes.fill(0)
      for (const [index, word] of [type, key, value, size, flags].entries()) {
        attributes.writeUInt32LE(word, index * 4)
      }
      attributes.write(name, 28, 'latin1')
      return orThrow(run(MAP_CREATE, attributes), `map ${name}`)
    },
    load(type, program, name) {
      const descriptor = load(type, program, name, null)
      if (descriptor !== -1) return descriptor
      const error = systemError(calls.errno(), `bpf program ${name}`)
      const log = Buffer.alloc(LOG_BYTES)
      load(type, program, name, log)
      error.message += `\n${log.toString('latin1', 0, log.indexOf(0))}`
      throw error
    },
    attach(program, map, type) {
      attributes.fill(0)
      for (const [index, word] of [map, program, type].entries()) attributes.writeUInt32LE(word, index * 4)
      orThrow(run(PROGRAM_ATTACH, attributes), 'attach')
    },
    update: (map, key, value) => onElement(MAP_UPDATE, map, key, value),
    remove: (map, key) => onElement(MAP_DELETE, map, key, null),
    lookup: (map, key, value) => onElement(MAP_LOOKUP, map, key, value),
    count(map, keyBytes) {
      const key = Buffer.alloc(keyBytes)
      const next = Buffer.alloc(keyBytes)
      let count = 0
      // A key that isn't there, such as the first one of zeros, is followed by the first that is.
      while (onElement(MAP_NEXT_KEY, map, key, next) === 0) {
        next.copy(key)
        count += 1
      }
      return count
    },
  }
}

/** Eight bytes of a program; `to` and `from` are numbers of registers. A jump's offset is a label until it is assembled. */
export interface Instruction {
  readonly code: number
  readonly to?: number
  readonly from?: number
  readonly offset?: number | string
  readonly value?: number
  /** Takes sixteen bytes: a 64-bit value. */
  readonly isWide?: boolean
}

export const copy = (to: number, from: number): Instruction => ({ code: 0xbf, to, from })
export const set = (to: number, value: number): Instruction => ({ code: 0xb7, to, value })
export const add = (to: number, from: number): Instruction => ({ code: 0x0f, to, from })
export const addValue = (to: number, value: number): Instruction => ({ code: 0x07, to, value })
/** Of the lower 32 bits, as the next one; the upper ones become 0. */
export const add32 = (to: number, from: number): Instruction => ({ code: 0x0c, to, from })
export const subtract32 = (to: number, from: number): Instruction => ({ code: 0x1c, to, from })
export const multiply = (to: number, from: number): Instruction => ({ code: 0x2f, to, from })
export const negate = (to: number): Instruction => ({ code: 0x87, to })
export const load32 = (to: number, from: number, offset: number): Instruction => ({
  code: 0x61,
  to,
  from,
  offset,
})
export const load64 = (to: number, from: number, offset: number): Instruction => ({
  code: 0x79,
  to,
  from,
  offset,
})
export const store32 = (to: number, offset: number, from: number): Instruction => ({
  code: 0x63,
  to,
  from,
  offset,
})
export const store64 = (to: number, offset: number, from: number): Instruction => ({
  code: 0x7b,
  to,
  from,
  offset,
})
/** A map, by its descriptor, as an argument for a helper. */
export const loadMap = (to: number, map: number): Instruction => ({
  code: 0x18,
  to,
  from: 1,
  value: map,
  isWide: true,
})
export const call = (helper: number): Instruction => ({ code: 0x85, value: helper })
export const exit = (): Instruction => ({ code: 0x95 })
export const jump = (label: string): Instruction => ({ code: 0x05, offset: label })
export const jumpIfZero = (to: number, label: string): Instruction => ({ code: 0x15, to, offset: label })
export const jumpUnlessZero = (to: number, label: string): Instruction => ({ code: 0x55, to, offset: label })
export const jumpIfEqual = (to: number, from: number, label: string): Instruction => ({
  code: 0x1d,
  to,
  from,
  offset: label,
})
/** Unsigned. */
export const jumpIfGreater = (to: number, from: number, label: string): Instruction => ({
  code: 0x2d,
  to,
  from,
  offset: label,
})

export const jumpIfGreaterThan = (to: number, value: number, label: string): Instruction => ({
  code: 0x25,
  to,
  value,
  offset: label,
})
/** Of the lower 32 bits, signed. */
export const jumpUnlessPositive32 = (to: number, label: string): Instruction => ({
  code: 0xd6,
  to,
  offset: label,
})

/** A string in the list is a label: the place of what follows it. */
export function assemble(lines: readonly (Instruction | string)[]): Buffer {
  const labels = new Map<string, number>()
  let place = 0
  for (const line of lines) {
    if (typeof line === 'string') labels.set(line, place)
    else place += line.isWide ? 2 : 1
  }
  const program = Buffer.alloc(place * 8)
  place = 0
  for (const line of lines) {
    if (typeof line === 'string') continue
    encode(program.subarray(place * 8), line, offsetOf(line, place, labels))
    place += line.isWide ? 2 : 1
  }
  return program
}

function offsetOf({ offset = 0 }: Instruction, place: number, labels: ReadonlyMap<string, number>): number {
  if (typeof offset === 'number') return offset
  const target = labels.get(offset)
  if (target === undefined) throw new Error(`no label ${offset}`)
  return target - place - 1
}

function encode(bytes: Buffer, { code, to = 0, from = 0, value = 0 }: Instruction, offset: number): void {
  bytes[0] = code
  bytes[1] = to | (from << 4)
  bytes.writeInt16LE(offset, 2)
  bytes.writeInt32LE(value, 4)
}
