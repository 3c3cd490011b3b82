// The maps of the engine sockmap: made once by the main thread, used by the relay's. The rest is in sockmap.ts.

import type { Libc } from '../../linux/libc.ts'
import { libc } from '../../linux/libc.ts'
import type { Bpf } from './bpf.ts'
import {
  ATTACH_SK_SKB_VERDICT,
  createBpf,
  MAP_MMAPABLE,
  MAP_NO_PREALLOC,
  MAP_TYPE_ARRAY,
  MAP_TYPE_HASH,
  MAP_TYPE_RINGBUF,
  MAP_TYPE_SOCKHASH,
  PROGRAM_TYPE_SK_SKB,
} from './bpf.ts'
import { ringSizeFor } from './ring.ts'
import { FIELDS, type VerdictMaps, verdictProgram } from './verdict.ts'

/** Descriptors and sizes: what a worker thread needs to use the maps that the main thread has made. */
export interface SockmapHandle extends VerdictMaps {
  readonly slots: number
  readonly program: number
  readonly ringBytes: number
}

/** An event of one side can be outstanding in three ways (notice, passed, lost), of 16 bytes each. */
const RING_BYTES_PER_SIDE = 48

/** Throws an Error whose message says what is missing, in words. Needs CAP_BPF and CAP_NET_ADMIN. */
export function openSockmap(slots: number): SockmapHandle {
  const calls = libc()
  const bpf = createBpf(calls)
  const made: number[] = []
  const keep = (fd: number) => {
    made.push(fd)
    return fd
  }
  try {
    return makeMaps(calls, bpf, slots, keep)
  } catch (error) {
    for (const fd of made) calls.close(fd)
    throw new Error(reasonOf(error as NodeJS.ErrnoException), { cause: error })
  }
}

function makeMaps(calls: Libc, bpf: Bpf, slots: number, keep: (fd: number) => number): SockmapHandle {
  const count = slots * 2
  const sockets = { type: MAP_TYPE_SOCKHASH, key: 8, value: 4, size: count }
  const peers = keep(bpf.createMap({ ...sockets, name: 'headrace_peers' }))
  const verdicts = keep(bpf.createMap({ ...sockets, name: 'headrace_verdic' }))
  const ringBytes = ringSizeFor(calls, count * RING_BYTES_PER_SIDE)
  const ring = keep(
    bpf.createMap({ type: MAP_TYPE_RINGBUF, key: 0, value: 0, size: ringBytes, name: 'headrace_ring' }),
  )
  const sides = keep(
    bpf.createMap({
      type: MAP_TYPE_HASH,
      key: 8,
      value: 4,
      size: count,
      flags: MAP_NO_PREALLOC,
      name: 'headrace_sides',
    }),
  )
  const states = keep(
    bpf.createMap({
      type: MAP_TYPE_ARRAY,
      key: 4,
      value: FIELDS * 8,
      size: count,
      flags: MAP_MMAPABLE,
      name: 'headrace_states',
    }),
  )
  const maps = { peers, sides, states, ring, verdicts }
  const program = keep(bpf.load(PROGRAM_TYPE_SK_SKB, verdictProgram(maps), 'headrace'))
  bpf.attach(program, verdicts, ATTACH_SK_SKB_VERDICT)
  return { ...maps, slots, program, ringBytes }
}

/** When every user of it has been closed. What the sockets in them need of the maps lives on with them (verdict.ts). */
export function closeSockmap(handle: SockmapHandle): void {
  const { program, verdicts, peers, sides, states, ring } = handle
  for (const fd of [program, verdicts, peers, sides, states, ring]) libc().close(fd)
}

function reasonOf({ code, message, syscall = '' }: NodeJS.ErrnoException): string {
  switch (code) {
    case 'EPERM':
    case 'EACCES':
      return `${syscall}: not permitted, it needs the capabilities CAP_BPF and CAP_NET_ADMIN`
    case 'ENOSYS':
      return `${syscall}: the kernel has no bpf(2) (CONFIG_BPF_SYSCALL)`
    case 'EINVAL':
      return `${syscall}: unknown to this kernel, it needs Linux 5.13 with CONFIG_BPF_STREAM_PARSER`
    default:
      return message
  }
}
