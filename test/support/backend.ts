// A backend's options as the config makes them for nothing but an address; what a test is about is given.

import type { BackendOptions } from '../../src/dial/backend.ts'

export function backendOptions(given: Partial<BackendOptions> = {}): BackendOptions {
  return {
    name: 'origin',
    address: { host: '127.0.0.1', port: 1 },
    tls: false,
    overrideHost: undefined,
    certHostname: undefined,
    sniHostname: undefined,
    connectTimeoutMs: 1_000,
    firstByteTimeoutMs: 1_000,
    maxConnections: undefined,
    keepaliveMs: 60_000,
    keepaliveIntervalMs: undefined,
    keepaliveProbes: undefined,
    userTimeoutMs: undefined,
    localAddress: [],
    clientCertificate: undefined,
    allowLinkLocal: false,
    check: undefined,
    ejection: undefined,
    ...given,
  }
}
