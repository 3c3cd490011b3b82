// Proxies that are node programs: each is a module of its own, started as a child process.

import { mkdirSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { getHeapSpaceStatistics } from 'node:v8'
import { RESULTS } from '../places.ts'
import { answerCalls, startProcess } from '../process.ts'
import type { PeerKind, PeerOptions } from './peer.ts'

/**
 * V8's young generation grows to 32 MiB while much is allocated, and shrinks to 1 or 2 in a collection after some quiet
 * seconds. Before that it would be counted as the tunnels' memory.
 */
const QUIET_NEW_SPACE = 2 * 1024 * 1024
const COLLECTION_PAUSE_MS = 250
const COLLECTIONS_QUIET = 6

/** In the child: `start` resolves with the address, host:port. */
export function serveNodePeer(start: (options: PeerOptions) => Promise<string>): void {
  answerCalls(nodePeerCalls(start))
}

type NodePeerCalls = ReturnType<typeof nodePeerCalls>

function nodePeerCalls(start: (options: PeerOptions) => Promise<string>) {
  return {
    start,
    /** Collects garbage until the heap is as small as it gets. */
    async settle(patienceMs: number): Promise<void> {
      const until = performance.now() + patienceMs
      let quiet = 0
      while (quiet < COLLECTIONS_QUIET && performance.now() < until) {
        globalThis.gc?.()
        // V8 gives pages back a little later, from another thread.
        await sleep(COLLECTION_PAUSE_MS)
        quiet = newSpaceBytes() <= QUIET_NEW_SPACE ? quiet + 1 : 0
      }
    },
  }
}

function newSpaceBytes(): number {
  const space = getHeapSpaceStatistics().find(({ space_name }) => space_name === 'new_space')
  return space?.physical_space_size ?? 0
}

/** In the parent. */
export function nodePeer(
  kind: Omit<PeerKind, 'start'>,
  module: URL,
  more: Partial<PeerOptions> = {},
): PeerKind {
  const { name } = kind
  return {
    ...kind,
    async start(options) {
      if (options.withProfile) mkdirSync(RESULTS, { recursive: true })
      const profile = [
        '--cpu-prof',
        `--cpu-prof-dir=${RESULTS}`,
        `--cpu-prof-name=${name}-${Date.now()}.cpuprofile`,
      ]
      const flags = ['--expose-gc', ...(options.withProfile ? profile : [])]
      const child = await startProcess<NodePeerCalls>(name, module, { flags, cpus: options.cpus })
      const address = await child.call('start', { ...options, ...more })
      return { address, pids: [child.pid], settle: (ms) => child.call('settle', ms), stop: child.stop }
    },
  }
}
