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
}

export type Scenario = (surroundings: Surroundings) => Promise<Result[]>
