// A worker of a new release, from when it could accept until it does: everything is loaded, and its door is open for the
// tunnels of the release before.

import { loadCertificates } from '../accept/certificates.ts'
import type { ListenerOptions } from '../accept/listener.ts'
import type { Edge } from '../edge.ts'
import { kernel } from '../engine/linux/kernel.ts'
import { loop } from '../linux/loop.ts'
import type { Door } from '../linux/unix-socket.ts'
import { doorOf } from './handover-letters.ts'
import { openTaker } from './handover-taker.ts'
import type { Wire } from './messages.ts'
import type { HostAnswers, Place } from './protocol.ts'
import { KEEP, LEDGER } from './shared-ledger.ts'

export interface Standby {
  readonly door: Place | null
  /** Accepts from now on. Throws listen-failed or config-invalid. */
  end(): Promise<void>
}

export interface StandbyParts {
  readonly listeners: readonly ListenerOptions[]
  /** Throws listen-failed or config-invalid. */
  accept(): Promise<void>
  /** Of the state. */
  readonly folder: string
  readonly primary: Wire<HostAnswers>
}

/** Throws what keeps it from ever accepting. */
export async function stand(
  edge: Edge,
  { listeners, accept, folder, primary }: StandbyParts,
): Promise<Standby> {
  await edge.listen([])
  for (const { tls } of listeners) if (tls !== undefined) loadCertificates(tls, () => {}).close()
  const name = doorOf(process.pid)
  const door = await openOrNull(edge, folder, name, primary)
  return {
    door: door === null ? null : { folder, name },
    async end() {
      await accept()
      // Those that come in are in.
      door?.close()
    },
  }
}

/** Null: here the kernel engines can't run, and nobody's tunnels can come. */
async function openOrNull(
  edge: Edge,
  folder: string,
  name: string,
  { ask }: Wire<HostAnswers>,
): Promise<Door | null> {
  try {
    await kernel().started
    const keep = (ids: readonly string[]) => ask('hosted', [LEDGER, { kind: KEEP, ids }])
    return openTaker(loop(), edge.handover, folder, name, keep)
  } catch {
    return null
  }
}
