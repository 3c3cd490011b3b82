// What a new release does when the one before tells it to: the right side of upgrade.ts.

import { createRequire } from 'node:module'
import { setTimeout as pause } from 'node:timers/promises'
import type { Inherited } from '../accept/inherited.ts'
import { asHeadraceError } from '../errors.ts'
import type { Verdict } from '../gate/claims.ts'
import type { Operations } from '../operations.ts'
import type { Switches } from '../service/switch.ts'
import type { Child } from './child.ts'
import { wireOf } from './child.ts'
import { HANDOVER_FORMAT } from './handover-letters.ts'
import type { AfterAnswers, ControlAnswers, ControlStarted, LastState, Place, Release } from './protocol.ts'
import type { HostedLedger } from './shared-ledger.ts'
import type { Worker } from './workers.ts'

/** Who holds the seats that are the release before's. */
export const BEFORE = 'the release before'

export interface SuccessionParts {
  readonly workers: readonly Worker[]
  readonly control: Child<ControlAnswers, ControlStarted>
  readonly ledger: HostedLedger
  readonly switches: Switches
  readonly fleet: Pick<Operations, 'websockets'>
  readonly doors: readonly Place[]
  readonly sockets: readonly Inherited[]
}

export interface Succession {
  readonly release: Release
  readonly answers: Omit<AfterAnswers, 'takeOver' | 'drain' | 'farewell'>
  /** Once this program is in charge: the admin API listens. Resolves with its address. */
  finish(state: LastState): Promise<string | null>
}

/** What a worker may take to listen, in ms. */
const ACCEPT_TIMEOUT_MS = 10_000

const { version } = createRequire(import.meta.url)('headrace/package.json') as { readonly version: string }

/** Between two asks of a worker that has died, in ms. */
const AGAIN_MS = 20

export function succession(parts: SuccessionParts): Succession {
  const { workers, control, ledger, switches, fleet, doors, sockets } = parts
  return {
    release: {
      version,
      node: process.version,
      workers: workers.length,
      format: HANDOVER_FORMAT,
      doors,
      kept: sockets.map(({ address }) => address),
    },
    answers: {
      rates: async (rates) => ledger.adoptRates(rates),
      async seats(seats, spikes = []) {
        ledger.adoptSpikes(spikes)
        ledger.seat(BEFORE, seats)
      },
      async accept() {
        await Promise.all(workers.map((worker) => accepts(worker, performance.now() + ACCEPT_TIMEOUT_MS)))
      },
      take: async (claims) => (await ledger.ask(BEFORE, { kind: 'take', claims })) as Verdict,
      give: async (id) => void ledger.ask(BEFORE, { kind: 'give', id }),
    },
    async finish({ switched }) {
      for (const [id, { websockets }] of Object.entries(switched)) {
        // What was switched while this program started. A service that the config has no more is nobody's.
        if (switches.state(id).websockets !== websockets)
          await fleet.websockets(id, websockets).catch(() => {})
      }
      return (await wireOf(control).ask('open', [], ACCEPT_TIMEOUT_MS)).address
    },
  }
}

/** One that has died meanwhile is asked again when there is another one in its place. */
async function accepts(worker: Worker, deadline: number): Promise<void> {
  try {
    await wireOf(worker).ask('accept', [], ACCEPT_TIMEOUT_MS)
  } catch (error) {
    if (asHeadraceError(error).code !== 'process-silent' || performance.now() > deadline) throw error
    await pause(AGAIN_MS)
    await accepts(worker, deadline)
  }
}
