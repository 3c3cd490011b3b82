// Usage: what is counted four times a second for all open tunnels, and what is written of it.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Delta } from '../../src/usage/amounts.ts'
import { createJournal } from '../../src/usage/journal.ts'
import { formatLine } from '../../src/usage/line.ts'
import type { Micro } from './micro.ts'

const delta: Delta = {
  service: 'bench',
  amounts: {
    connections: 12,
    minutes: 3_456,
    clientToOrigin: 7_890_123,
    originToClient: 45_678_901,
    headToOrigin: 8_192,
    headToClient: 2_048,
  },
}

const folder = mkdtempSync(join(tmpdir(), 'bench-usage-'))
process.once('exit', () => rmSync(folder, { recursive: true }))
// Not to be left for the next file, which would be another thing to measure.
const journal = createJournal(folder, 'bench', Number.POSITIVE_INFINITY)

export const usage: readonly Micro[] = [
  {
    name: 'usage, format a line',
    run() {
      formatLine('2026-11/bench-1.usage', 0, delta)
    },
  },
  {
    name: 'usage, append a line, durable',
    async run() {
      journal.put({ month: '2026-11', deltas: [delta] })
      await journal.flush()
      await journal.sync()
    },
  },
]
