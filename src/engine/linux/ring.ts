// The reading side of a BPF ring buffer (kernel/bpf/ringbuf.c, Documentation/bpf/ringbuf.rst), mapped: a page that says
// how far it was read, which is ours to write; a page that says how far it is written; the records, mapped twice in a row
// so that none is ever broken.

import type { Libc } from '../../linux/libc.ts'
import { MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, systemError } from '../../linux/libc.ts'

const HEADER_BYTES = 8
const IS_BUSY = 1 << 31
const LENGTH = (1 << 30) - 1

export interface Mapping {
  readonly bytes: ArrayBuffer
  unmap(): void
}

/** `size` is rounded up to whole pages. */
export function mapMemory(
  calls: Libc,
  fd: number,
  offset: number,
  size: number,
  protection: number,
): Mapping {
  const page = calls.getpagesize()
  const whole = Math.ceil(size / page) * page
  const address = calls.mmap(null, whole, protection, MAP_SHARED, fd, offset)
  if (address === MAP_FAILED) throw systemError(calls.errno(), 'mmap')
  return { bytes: calls.view(address, whole), unmap: () => void calls.munmap(address, whole) }
}

export interface Ring {
  /** Gives each new record's first 32 bits. The descriptor is readable (EPOLLIN) again when there are more. */
  drain(visit: (word: number) => void): void
  unmap(): void
}

export function mapRing(calls: Libc, fd: number, size: number): Ring {
  const page = calls.getpagesize()
  const reading = mapMemory(calls, fd, 0, page, PROT_READ | PROT_WRITE)
  const writing = mapMemory(calls, fd, page, page + size * 2, PROT_READ)
  const readTo = new BigUint64Array(reading.bytes, 0, 1)
  const writtenTo = new BigUint64Array(writing.bytes, 0, 1)
  const words = new Int32Array(writing.bytes, page)

  function drain(visit: (word: number) => void): void {
    let place = Number(Atomics.load(readTo, 0))
    // Until nothing is left: the kernel may have added a record while the last one was visited.
    while (place < Number(Atomics.load(writtenTo, 0))) {
      const index = (place % size) / 4
      const header = Atomics.load(words, index)
      if (header & IS_BUSY) return
      const word = words[index + HEADER_BYTES / 4] as number
      place += Math.ceil((HEADER_BYTES + (header & LENGTH)) / 8) * 8
      Atomics.store(readTo, 0, BigInt(place))
      visit(word)
    }
  }

  function unmap(): void {
    reading.unmap()
    writing.unmap()
  }

  return { drain, unmap }
}

/** The least size that a ring may have for so many bytes: a power of two, whole pages. */
export function ringSizeFor(calls: Libc, bytes: number): number {
  return 2 ** Math.ceil(Math.log2(Math.max(bytes, calls.getpagesize())))
}
