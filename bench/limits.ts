// How many processes so many tunnels need, and what else bounds their number.

import { availableBytes, descriptorLimit, machineDescriptorLimit } from './accounting/proc.ts'

/** So that everybody who repeats a run has the same processes. */
const DESCRIPTORS_PER_PROCESS = 20_000
/** For everything but tunnels. */
const SPARE_DESCRIPTORS = 400
/** A tunnel is four connections' ends: the client's, two of the proxy, the origin's. */
const DESCRIPTORS_PER_TUNNEL = 4
/** Of kernel and processes together; more than the best need, less than the worst. */
const BYTES_PER_TUNNEL = 60 * 1_024

const perProcess = Math.min(descriptorLimit(), DESCRIPTORS_PER_PROCESS) - SPARE_DESCRIPTORS

/** Tunnels that go through one process of a proxy. */
export const TUNNELS_PER_PROXY = Math.floor(perProcess / 2)

export interface Crew {
  readonly proxies: number
  readonly origins: number
  readonly clients: number
}

export function crewFor(tunnels: number, tls: boolean): Crew {
  const proxies = Math.max(1, Math.ceil(tunnels / TUNNELS_PER_PROXY))
  return {
    proxies,
    // Two proxies share one.
    origins: Math.ceil(proxies / 2),
    // One client's TLS costs more than that of a proxy in C.
    clients: Math.max(tls ? 2 : 1, Math.ceil(tunnels / perProcess)),
  }
}

/** Which limit of this machine keeps so many tunnels from being opened; null: none. */
export function limitAgainst(tunnels: number): string | null {
  const descriptors = tunnels * DESCRIPTORS_PER_TUNNEL
  if (descriptors > machineDescriptorLimit()) {
    return `${tunnels} tunnels need ${descriptors} descriptors, and /proc/sys/fs/file-max is ${machineDescriptorLimit()}`
  }
  const bytes = tunnels * BYTES_PER_TUNNEL
  if (bytes > availableBytes()) {
    return `${tunnels} tunnels may need ${gib(bytes)} GiB of memory, and ${gib(availableBytes())} are available`
  }
  return null
}

function gib(bytes: number): string {
  return (bytes / 1_024 ** 3).toFixed(1)
}
