// The checker: a process that lives for one look at the files of a config. Modules of handlers are other people's code; what
// they do when they are loaded for the first time, be it to hang or to exit, is done here and to nobody's tunnels.

import { readConfig } from '../config/load.ts'
import { checkFiles } from './check-files.ts'
import { wire } from './messages.ts'
import type { CheckerAnswers } from './protocol.ts'
import { ignoreSignals } from './signals.ts'

ignoreSignals()
// As in the process that will load them for good.
process.umask(0o077)

wire<CheckerAnswers, object>('the primary', process, {
  check: async ({ file, text }) => await checkFiles(readConfig(text, file, process.env)),
})

process.on('disconnect', () => process.exit())
