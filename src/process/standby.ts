// A worker of a new release, from when it could accept until it does: everything is loaded, and its door is open for the
// tunnels of the release before. If its primary goes before it is in charge, they go back.

import { loadCertificates } from '../accept/certificates.ts'
import type { ListenerOptions } from '../accept/listener.ts'
import type { Edge } from '../edge.ts'
import { kernel } from '../engine/linux/kernel.ts'
import { loop } from '../linux/loop.ts'
import { doorOf } from './handover-letters.ts'
import type { Taker } from './handover-taker.ts'
import { openTaker } from './handover-taker.ts'
import type { Wire } from './messages.ts'
import type { HostAnswers, Place } from './protocol.ts'
import { giveBack } from './return.ts'
import { keepSeats } from './shared-ledger.ts'

export interface Standby {
  readonly door: Place | null
  /** Accepts from now on. Throws listen-failed or config-invalid. */
  end(): Promise<void>
  /** Its primary has gone: whatever the release before takes is given back. */
  giveBack(): Promise<void>
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
  const taker = await openOrNull(edge, folder, name, primary)
  return {
    door: taker === null ? null : { folder, name },
    async end() {
      await accept()
      // Those that come in are in.
      taker?.close()
    },
    async giveBack() {
      await taker?.end((pids) => giveBack(loop(), edge, folder, pids))
    },
  }
}

/** Null: here the kernel engines can't run, and nobody's tunnels can come. */
async function openOrNull(
  edge: Edge,
  folder: string,
  name: string,
  primary: Wire<HostAnswers>,
): Promise<Taker | null> {
  try {
    await kernel().started
    return openTaker(loop(), edge.handover, folder, name, keepSeats(primary))
  } catch {
    return null
  }
}
