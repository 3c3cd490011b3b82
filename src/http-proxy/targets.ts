// One edge for all proxies of this process, since there may be one for each request, and the backends of their targets, since
// there may be any number of them. This module's only state, made with the first WebSocket.

import { LRUCache } from 'lru-cache'
import { parseConfig } from '../config/parse.ts'
import type { Backend, BackendOptions } from '../dial/backend.ts'
import { createBackend } from '../dial/backend.ts'
import type { Edge } from '../edge.ts'
import { createEdge } from '../edge.ts'

/** Of so many targets the TLS context is kept, and the count of connections. More are dialled as well. */
const TARGETS_KEPT = 256

const backends = new LRUCache<string, Backend>({ max: TARGETS_KEPT })

let running: Edge | undefined

export function edge(): Edge {
  running ??= createEdge(
    parseConfig({
      services: [
        {
          id: 'http-proxy',
          domains: ['*'],
          websockets: 'on',
          // What all of them are counted as.
          backends: [{ name: 'target', address: 'target.invalid:80' }],
        },
      ],
    }).edge,
  )
  return running
}

/** Throws config-invalid if its client certificate can't be used. */
export function backendFor(options: BackendOptions): Backend {
  const key = JSON.stringify(options)
  const known = backends.get(key)
  if (known !== undefined) return known
  const backend = createBackend(options)
  backends.set(key, backend)
  return backend
}
