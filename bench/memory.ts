// Memory: what an idle tunnel costs the proxy's process. PSS with all tunnels open, less PSS before, divided by their
// number; both after garbage was collected. Before: after a warm-up, so that compiled code and first buffers are not counted
// as the tunnels'. The kernel's share (sockets) is not in it.

import { setTimeout as sleep } from 'node:timers/promises'
import { cpuNs, memoryBytes } from './cpu.ts'
import type { Result } from './figures.ts'
import { figure } from './figures.ts'
import type { Options } from './options.ts'
import type { PeerKind } from './peers/peer.ts'
import type { Stand } from './stand.ts'
import { withStands } from './stand.ts'

const SIZES = {
  full: { plain: 9_000, tls: 1_000, warmUp: 300, patienceMs: 15_000, idleMs: 5_000 },
  smoke: { plain: 200, tls: 50, warmUp: 10, patienceMs: 300, idleMs: 200 },
} as const

const MESSAGE_SIZE = 64
const KIB = 1_024

export async function memory(
  kinds: readonly PeerKind[],
  options: Options,
  progress: (line: string) => void,
): Promise<Result[]> {
  const sizes = options.smoke ? SIZES.smoke : SIZES.full
  const results: Result[] = []
  for (const tls of [false, true]) {
    const count = tls ? sizes.tls : sizes.plain
    const title = `memory: ${count} idle ${tls ? 'TLS' : 'plain'} tunnels`
    for (const kind of kinds.filter(({ name }) => name !== 'direct')) {
      progress(`${title}, ${kind.name}`)
      const measured = await withStands([kind], { tls, withProfile: false }, ([stand]) =>
        stand === undefined ? Promise.reject(new Error('no stand')) : idle(stand, count, sizes),
      )
      results.push({ title, subject: kind.name, figures: measured })
    }
  }
  return results
}

async function idle(
  { peer, client, origin, target }: Stand,
  count: number,
  { warmUp, patienceMs, idleMs }: { readonly [Size in 'warmUp' | 'patienceMs' | 'idleMs']: number },
) {
  await client.call('open', target, warmUp, MESSAGE_SIZE)
  await client.call('echo')
  await client.call('close')
  await peer.settle(patienceMs)
  const before = memoryBytes(peer.pids)

  await client.call('open', target, count, MESSAGE_SIZE)
  await client.call('echo')
  const peak = memoryBytes(peer.pids)
  await peer.settle(patienceMs)
  const after = memoryBytes(peer.pids)
  const spent = cpuNs(peer.pids)
  await sleep(idleMs)
  const idleNs = cpuNs(peer.pids) - spent

  // Idle, but alive, every one of them.
  await client.call('echo')
  const open = await origin.call('open')
  if (open !== count) throw new Error(`the origin has ${open} connections for ${count} tunnels`)
  await client.call('close')
  return [
    figure('KiB per tunnel', [(after - before) / count / KIB]),
    figure('idle: CPU ms per second', [idleNs / 1e3 / idleMs]),
    figure('process MiB: before', [before / KIB / KIB]),
    figure('just opened', [peak / KIB / KIB]),
    figure('idle', [after / KIB / KIB]),
  ]
}
