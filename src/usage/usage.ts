// The usage of an edge: counted in memory, and with a state directory written to its journal four times a second, off the
// way of any connection. What could not be written is kept and tried again; what goes wrong is told once.

import type { HeadraceError } from '../errors.ts'
import { asHeadraceError } from '../errors.ts'
import type { Tunnel } from '../tunnel/tunnel.ts'
import type { Amounts } from './amounts.ts'
import { addTo } from './amounts.ts'
import { usageFolder } from './folder.ts'
import type { Moved } from './meter.ts'
import { Meter } from './meter.ts'
import { checkMonth, monthOf } from './minutes.ts'
import { emptyMonth, readMonth } from './month.ts'
import type { UsageReport } from './report.ts'
import { reportOf } from './report.ts'
import { createStore } from './store.ts'

export interface UsageOptions {
  /** Where the journal is kept; without it, usage is counted for this process only. */
  readonly stateDirectory: string | undefined
  /** The name of this process among those that share the state directory; default `main`. */
  readonly writer?: string | undefined
}

export interface Usage {
  /** Makes ready to write. Throws state-locked, state-failed, or argument-invalid. A second call is the first. */
  open(): Promise<void>
  begin(tunnel: Tunnel, headToOrigin: number, headToClient: number): void
  settle(tunnel: Tunnel): void
  /** Counts it up to now and no further; returns what `adopt` has to know, here or in another process: ms. */
  release(tunnel: Tunnel): number
  /** Goes on with what was released, when it had moved so many bytes. */
  adopt(tunnel: Tunnel, restMs: number, counted: Moved): void
  /** Reads the counters of all open tunnels. */
  look(): void
  /** When bytes of an open tunnel were seen last, or it began: ms of a clock of its own. */
  movedAt(tunnel: Tunnel): number
  /** Of a month (default: this one), of one service or all, of all writers, up to now. Throws argument-invalid. */
  report(month?: string, service?: string): Promise<UsageReport>
  /** What this process has counted since it started, by service. */
  sinceStart(): Readonly<Record<string, Readonly<Amounts>>>
  /**
   * Writes the last of it. If the disk does not take it, tries again for so long, in ms, and then says what is lost. A second call
   * is the first; it can only give it less time.
   */
  close(withinMs: number): Promise<void>
}

export function createUsage(options: UsageOptions, tell: (trouble: HeadraceError) => void): Usage {
  const { stateDirectory, writer = 'main' } = options
  const meter = new Meter()
  const store =
    stateDirectory === undefined ? null : createStore(usageFolder(stateDirectory), writer, meter, tell)
  let isOpened = store === null

  async function open(): Promise<void> {
    isOpened = true
    await store?.open()
  }

  return {
    open,
    begin(tunnel, headToOrigin, headToClient) {
      meter.begin(tunnel, headToOrigin, headToClient)
      // An edge that only gets upgrades of another server never listens: there is nobody to throw at.
      if (!isOpened) open().catch((error: unknown) => tell(asHeadraceError(error)))
    },
    settle: (tunnel) => meter.settle(tunnel),
    release: (tunnel) => meter.release(tunnel),
    adopt: (tunnel, restMs, counted) => meter.adopt(tunnel, restMs, counted),
    look: () => meter.tick(),
    movedAt: (tunnel) => meter.movedAt(tunnel),
    async report(month = monthOf(Date.now()), service) {
      checkMonth(month)
      meter.tick()
      const read = store === null ? emptyMonth() : await store.read(month)
      for (const delta of meter.pending(month)) addTo(read.services, delta)
      return reportOf(month, read, service)
    },
    sinceStart() {
      meter.tick()
      return meter.totals()
    },
    close: async (withinMs) => await store?.close(withinMs),
  }
}

/** What stands in a state directory, whether a program writes there or not. Throws argument-invalid. */
export async function readUsage(
  stateDirectory: string,
  month: string,
  service?: string,
): Promise<UsageReport> {
  return reportOf(month, await readMonth(usageFolder(stateDirectory), checkMonth(month)), service)
}
