// What a scenario gets, and gives.

import type { Accounting } from './accounting/accounting.ts'
import type { Result } from './figures.ts'
import type { Options } from './options.ts'
import type { PeerKind } from './peers/peer.ts'

export interface Surroundings {
  /** Those that were asked for and can run here. */
  readonly kinds: readonly PeerKind[]
  readonly accounting: Accounting
  readonly options: Options
  progress(line: string): void
  /** The run has failed: a wrong byte, a lost tunnel, a process that ended. */
  failed(what: string): void
}

/** What fails is told, and costs the run its good end, but not the others their results. */
export async function attempt<Value>(
  { failed }: Surroundings,
  what: string,
  run: () => Promise<readonly Value[]>,
): Promise<readonly Value[]> {
  try {
    return await run()
  } catch (error) {
    failed(`${what}: ${error instanceof Error ? error.message : String(error)}`)
    return []
  }
}

export type Scenario = (surroundings: Surroundings) => Promise<readonly Result[]>
