// The control process.

import { wire } from './messages.ts'
import type { ControlAnswers, PrimaryAnswers } from './protocol.ts'
import { ignoreSignals } from './signals.ts'

ignoreSignals()
wire<ControlAnswers, PrimaryAnswers>('the primary', process, {
  start: async () => ({ address: null, trouble: '' }),
})
process.on('disconnect', () => process.exit())
