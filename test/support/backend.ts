// A backend's options as the config makes them for nothing but an address; what a test is about is given.

import type { BackendOptions } from '../../src/dial/backend.ts'
import { bareOptions } from '../../src/dial/backend.ts'

export function backendOptions(given: Partial<BackendOptions> = {}): BackendOptions {
  const times = { connectTimeoutMs: 1_000, firstByteTimeoutMs: 1_000, keepaliveMs: 60_000 }
  return { ...bareOptions('origin', { host: '127.0.0.1', port: 1 }), ...times, ...given }
}
