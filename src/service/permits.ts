// How many connections a backend may have: counted by the ledger that counts for gates, and so together with all workers
// of a program. A backend of any number asks nobody.

import type { BackendOptions, Permits } from '../dial/backend.ts'
import { HeadraceError } from '../errors.ts'
import type { Ledger, SeatClaim, Verdict } from '../gate/claims.ts'

/** Who counts, and ids that no other process has. */
export interface Counter {
  readonly ledger: Ledger
  newId(): string
}

export function permitsFor(
  service: string,
  { name, maxConnections }: BackendOptions,
  { ledger, newId }: Counter,
): Permits | null {
  if (maxConnections === undefined) return null
  const seat: SeatClaim = {
    rule: 'maxConnections',
    // No key of a gate has a line break in it.
    key: `${service}\n${name}`,
    limit: maxConnections,
    expected: null,
    code: 'backend-full',
  }
  const seats = [seat]

  function heed(verdict: Verdict): void {
    if (verdict.isGranted) return
    const { code, retryAfterMs } = verdict
    const detail = `${name} has ${maxConnections} connections`
    throw new HeadraceError(code, detail, undefined, { retryAfterMs })
  }

  return {
    newId,
    take(id) {
      const verdict = ledger.take({ id, service, rates: [], seats })
      return verdict instanceof Promise ? verdict.then(heed) : heed(verdict)
    },
    give: ledger.give,
  }
}
