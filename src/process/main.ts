// The program in one process, for the demo: one edge that runs until a signal says stop.

import type { ListenerOptions } from '../accept/listener.ts'
import type { Edge, EdgeOptions } from '../edge.ts'
import { createEdge } from '../edge.ts'
import { NOW } from '../tunnel/drain.ts'
import { twoSignals } from './signals.ts'

export interface Program {
  readonly listeners: readonly ListenerOptions[]
  readonly edge: EdgeOptions
}

/** Resolves once it listens, with the addresses, and with what resolves when it has stopped. */
export async function start({ listeners, edge: options }: Program): Promise<{
  readonly addresses: readonly string[]
  readonly stopped: Promise<void>
}> {
  const edge = createEdge(options)
  const { addresses } = await edge.listen(listeners)
  return { addresses, stopped: stopOnSignal(edge) }
}

/** The first SIGTERM or SIGINT drains; the second does not wait any longer. */
async function stopOnSignal(edge: Edge): Promise<void> {
  const { first, second } = twoSignals()
  await first
  const closing = edge.close()
  await Promise.race([closing, second])
  await edge.close(NOW)
}
