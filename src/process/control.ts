// The control process: it serves the admin API, on a Unix socket in the state folder and on the address that the config
// has, and asks the primary for all of it.

import { mkdir } from 'node:fs/promises'
import type { AdminOperations } from '../admin/route.ts'
import type { Admin } from '../admin/server.ts'
import { createAdmin } from '../admin/server.ts'
import { readConfig } from '../config/load.ts'
import { HeadraceError } from '../errors.ts'
import { createProgramLines } from '../observe/program-lines.ts'
import type { Webhook } from '../observe/webhook.ts'
import { createWebhook } from '../observe/webhook.ts'
import { monthOf } from '../usage/minutes.ts'
import type { Wire } from './messages.ts'
import { wire } from './messages.ts'
import type { ControlAnswers, PrimaryAnswers } from './protocol.ts'
import { CONTROL_SOCKET } from './protocol.ts'
import { ignoreSignals } from './signals.ts'

/** A worker may take as long as an ask of the primary takes, and then the answer still has to come. */
const ANSWER_TIMEOUT_MS = 8_000

// Signals are for the primary, also those that a terminal or a service manager sends to all processes.
ignoreSignals()
// Whatever is made here is this user's alone; a mode that is set afterwards would be late.
process.umask(0o077)

let admin: Admin | null = null
let webhook: Webhook | null = null

const primary = wire<ControlAnswers, PrimaryAnswers>('the primary', process, {
  async start({ file, text }) {
    const { edge, admin: options } = readConfig(text, file, process.env)
    const lines = createProgramLines(edge.log.level)
    if (edge.webhook !== undefined) webhook = createWebhook(edge.webhook, lines.trouble)
    const opened = createAdmin(operationsOf(primary), lines)
    admin = opened
    const address = options === null ? null : await opened.open(options)
    if (edge.stateDirectory !== undefined) await openSocket(opened, edge.stateDirectory)
    return { address }
  },
  spike(crossing) {
    webhook?.tell({ event: 'spike', ...crossing, at: new Date().toISOString() })
  },
})

async function openSocket(opened: Admin, folder: string): Promise<void> {
  try {
    await mkdir(folder, { recursive: true, mode: 0o700 })
    // A name of its own has room in sun_path (unix(7)), however deep the folder is.
    process.chdir(folder)
  } catch (error) {
    const { code = String(error) } = error as NodeJS.ErrnoException
    throw new HeadraceError('state-failed', `${folder}: ${code}`, error)
  }
  await opened.openSocket(CONTROL_SOCKET).catch((error: HeadraceError) => {
    throw new HeadraceError('state-locked', `${folder}: ${error.detail}`, error)
  })
}

function operationsOf({ ask }: Wire<PrimaryAnswers>): AdminOperations {
  return {
    websockets: (id, value, options = {}) => ask('websockets', [id, value, options], ANSWER_TIMEOUT_MS),
    tunnels: (query = {}) => ask('tunnels', [query], ANSWER_TIMEOUT_MS),
    find: (id) => ask('find', [id], ANSWER_TIMEOUT_MS),
    end: (meant, how = 'fin') => ask('end', [meant, how], ANSWER_TIMEOUT_MS),
    services: () => ask('services', [], ANSWER_TIMEOUT_MS),
    backends: async () => await ask('backends', [], ANSWER_TIMEOUT_MS),
    gates: async () => await ask('gates', [], ANSWER_TIMEOUT_MS),
    // What is undefined would be null on its way.
    usage: (month = monthOf(Date.now()), service) =>
      ask('usage', service === undefined ? [month] : [month, service], ANSWER_TIMEOUT_MS),
    metrics: () => ask('metrics', [], ANSWER_TIMEOUT_MS),
    activity: () => ask('activity', [], ANSWER_TIMEOUT_MS),
    status: () => ask('status', [], ANSWER_TIMEOUT_MS),
    // What is undefined is left out of what JSON carries.
    drain: (wanted) => ask('drain', [wanted], ANSWER_TIMEOUT_MS),
  }
}

/** The program stops, or its primary was killed: there is nothing left to ask. */
process.on('disconnect', () => {
  admin?.close()
  process.exit()
})
