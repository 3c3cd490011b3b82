// Proxies that are node programs: each is a module of its own, started as a child process.

import { mkdirSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { RESULTS } from '../places.ts'
import { answerCalls, startProcess } from '../process.ts'
import type { PeerKind, PeerOptions } from './peer.ts'

/** Collections until the heap is as small as it gets: the first ones free objects, the next the pages that they were on. */
const COLLECTIONS = 6
const COLLECTION_PAUSE_MS = 150

/** In the child: `start` resolves with the address, host:port. */
export function serveNodePeer(start: (options: PeerOptions) => Promise<string>): void {
  answerCalls(nodePeerCalls(start))
}

type NodePeerCalls = ReturnType<typeof nodePeerCalls>

function nodePeerCalls(start: (options: PeerOptions) => Promise<string>) {
  return {
    start,
    async settle(): Promise<void> {
      for (let round = 0; round < COLLECTIONS; round += 1) {
        globalThis.gc?.()
        await sleep(COLLECTION_PAUSE_MS)
      }
    },
  }
}

/** In the parent. */
export function nodePeer(kind: Omit<PeerKind, 'start'>, module: URL): PeerKind {
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
      const child = await startProcess<NodePeerCalls>(module, [
        '--expose-gc',
        ...(options.withProfile ? profile : []),
      ])
      const address = await child.call('start', options)
      return { address, pids: [child.pid], settle: () => child.call('settle'), stop: child.stop }
    },
  }
}
