// `headrace upgrade`: the release that is on the disk takes over.

import type { Upgraded } from '../operations.ts'
import { load } from './config.ts'
import { askRunning } from './control-client.ts'

export async function upgrade(file: string): Promise<number> {
  const config = await load(file)
  if (config === null) return 1
  const { pid, version, node, workers, moved, stayed, pauseMs, durationMs } = await askRunning<Upgraded>(
    config,
    {
      method: 'POST',
      path: '/upgrade',
    },
  )
  const lines = [
    `headrace ${version} on node ${node} has taken over: pid ${pid}, ${workers} workers`,
    `tunnels moved: ${moved}, longest pause ${shown(pauseMs.max)} ms, p99 ${shown(pauseMs.p99)} ms, p50 ${shown(pauseMs.p50)} ms`,
    `tunnels that stay with the release before until they end: ${stayed}`,
    `after ${Math.round(durationMs)} ms`,
  ]
  process.stdout.write(`${lines.join('\n')}\n`)
  return 0
}

function shown(ms: number): string {
  return ms.toFixed(1)
}
