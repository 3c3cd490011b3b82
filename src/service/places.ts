// Where named sessions live: each in one process of those that serve together, the same for whoever asks. That is a
// rendezvous hash of service and name over the workers' names, which a worker that takes the place of a dead one has again.

import { createHash } from 'node:crypto'
import type { Backend } from '../dial/backend.ts'
import { bareOptions, createBackend } from '../dial/backend.ts'

export interface Places {
  /** The way to the process where a session lives; null: it is this one. */
  of(service: string, session: string): Backend | null
}

export interface Peer {
  readonly name: string
  /** Of the Unix socket on which it takes what others pass on. */
  readonly path: string
}

/** There is one process. */
export const onlyHere: Places = { of: () => null }

/** What an owner may take to decide about what it was passed, in ms: its code has a limit of its own. */
const ANSWER_TIMEOUT_MS = 60_000

/** `own`: the name of this one, which is one of the peers. */
export function createPlaces(own: string, peers: readonly Peer[]): Places {
  const ways = peers.map(({ name, path }) => ({ name, backend: name === own ? null : wayTo(path) }))
  return {
    of(service, session) {
      let best: { readonly rank: string; readonly backend: Backend | null } | null = null
      for (const { name, backend } of ways) {
        const rank = createHash('sha256').update(`${name}\n${service}\n${session}`).digest('hex')
        if (best === null || rank > best.rank) best = { rank, backend }
      }
      return best === null ? null : best.backend
    },
  }
}

function wayTo(path: string): Backend {
  return localBackend({ path })
}

/** What tunnels have in the place of a backend when their origin is code in these processes. */
export function localBackend(address: { readonly path: string }): Backend {
  const times = { connectTimeoutMs: 5_000, firstByteTimeoutMs: ANSWER_TIMEOUT_MS }
  return createBackend({ ...bareOptions('local', address), ...times })
}
