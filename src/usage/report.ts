// The usage of a month as others get it: per service, and what could not be counted.

import type { Amounts } from './amounts.ts'
import { add, nothing } from './amounts.ts'
import type { Month } from './month.ts'
import type { Skipped } from './summary.ts'

export interface ServiceUsage {
  readonly service: string
  /** Tunnels that began in the month. */
  readonly connections: number
  /** Started minutes: of each connection one at once, and one whenever another minute is over. */
  readonly minutes: number
  /** The same as an invoice shows it. */
  readonly minutesInMillions: number
  readonly bytes: {
    /** Behind the heads. */
    readonly clientToOrigin: number
    readonly originToClient: number
    /** Of the heads that Headrace sent: the upgrade request to the origin, the 101 to the client. */
    readonly headToOrigin: number
    readonly headToClient: number
  }
}

export interface UsageReport {
  /** UTC, such as `2026-11`. */
  readonly month: string
  /** Sorted by their ids. */
  readonly services: readonly ServiceUsage[]
  readonly total: Omit<ServiceUsage, 'service'>
  /** Lines that were not counted: written in part by a process that was killed, or by somebody else. */
  readonly skipped: Readonly<Skipped>
  /** What is not in the sums, or should not be where they are kept, in words: a sentence for each file. */
  readonly troubles: readonly string[]
}

/** `service`: only this one; all zeros if nothing is known of it. */
export function reportOf(
  month: string,
  { services, skipped, troubles }: Month,
  service?: string,
): UsageReport {
  const chosen: [string, Amounts][] =
    service === undefined ? [...services] : [[service, services.get(service) ?? nothing()]]
  chosen.sort(([one], [other]) => (one < other ? -1 : 1))
  const total = nothing()
  for (const [, amounts] of chosen) add(total, amounts)
  return {
    month,
    services: chosen.map(([id, amounts]) => ({ service: id, ...shown(amounts) })),
    total: shown(total),
    skipped: { ...skipped },
    troubles: [...troubles],
  }
}

function shown(amounts: Amounts): Omit<ServiceUsage, 'service'> {
  const { connections, minutes, ...bytes } = amounts
  return { connections, minutes, minutesInMillions: minutes / 1e6, bytes }
}
