// Writes and folds without a pause until it is killed: node fold-process.js FOLDER MONTH. Says each count that is in a file.

import { writeSync } from 'node:fs'
import { nothing } from '../../src/usage/amounts.ts'
import { fold } from '../../src/usage/fold.ts'
import { createJournal } from '../../src/usage/journal.ts'
import { hold } from '../../src/usage/lock.ts'

const [, , folder = '', month = ''] = process.argv
await hold(folder, 'main')
// Two lines to a file.
const journal = createJournal(folder, 'main', 80)
const owner = { writer: 'main', openPath: () => journal.path }

async function foldOn(): Promise<never> {
  for (;;) await fold(folder, month, owner)
}

async function writeOn(): Promise<never> {
  for (let count = 1; ; count += 1) {
    journal.put({
      month,
      deltas: [{ service: 'chat', amounts: { ...nothing(), connections: 1, minutes: 1 } }],
    })
    await journal.flush()
    writeSync(1, `${count}\n`)
    if (count % 5 === 0) await journal.sync()
  }
}

await Promise.all([writeOn(), foldOn()])
