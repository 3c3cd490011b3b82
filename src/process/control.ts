// The control process: it serves the admin API, on a Unix socket in the state folder and on the address that the config
// has, and asks the primary for all of it.

import { mkdir } from 'node:fs/promises'
import type { AdminOperations } from '../admin/route.ts'
import type { Admin, PreparedAdmin } from '../admin/server.ts'
import { createAdmin } from '../admin/server.ts'
import { HeadraceError } from '../errors.ts'
import type { ProgramLines } from '../observe/program-lines.ts'
import { createProgramLines } from '../observe/program-lines.ts'
import type { RenewableWebhook } from '../observe/webhook.ts'
import { renewableWebhook } from '../observe/webhook.ts'
import { monthOf } from '../usage/minutes.ts'
import type { Wire } from './messages.ts'
import { wire } from './messages.ts'
import type { ControlAnswers, ControlConfig, ControlStarted, PrimaryAnswers } from './protocol.ts'
import { CONTROL_SOCKET } from './protocol.ts'
import { ignoreSignals } from './signals.ts'

/** A worker may take as long as an ask of the primary takes, and then the answer still has to come. */
const ANSWER_TIMEOUT_MS = 8_000

/** One reload may have to end before the one that is asked for begins. */
const RELOAD_TIMEOUT_MS = 120_000

// Signals are for the primary, also those that a terminal or a service manager sends to all processes.
ignoreSignals()
// Whatever is made here is this user's alone; a mode that is set afterwards would be late.
process.umask(0o077)

interface Started {
  readonly admin: Admin
  readonly webhook: RenewableWebhook
  readonly lines: ProgramLines
}

interface Ready {
  readonly admin: PreparedAdmin
  readonly edge: ControlConfig['edge']
}

let begun: (parts: Started) => void = () => {}
/** A reload waits until it listens. */
const started = new Promise<Started>((resolve) => {
  begun = resolve
})
let preparing: Promise<Ready> | null = null
/** Until what was dropped has gone, nothing new begins. */
let dropping: Promise<void> = Promise.resolve()
let admin: Admin | null = null

/** Listens, when it is time. */
let open: () => Promise<ControlStarted> = async () => ({ address: null })

const primary = wire<ControlAnswers, PrimaryAnswers>('the primary', process, {
  async start({ isStandby, edge, admin: options }) {
    const lines = createProgramLines(edge.log.level)
    const webhook = renewableWebhook(edge.webhook, lines.trouble)
    const opened = createAdmin(operationsOf(primary), lines)
    admin = opened
    open = async () => {
      const address = options === null ? null : await opened.open(options)
      if (edge.stateDirectory !== undefined) await openSocket(opened, edge.stateDirectory)
      begun({ admin: opened, webhook, lines })
      return { address }
    }
    return isStandby ? { address: null } : await open()
  },
  open: () => open(),
  async leave() {
    admin?.leave()
  },
  async prepare(config) {
    preparing = dropping.then(() => makeReady(config))
    const { address } = (await preparing).admin
    return { address }
  },
  async commit() {
    const ready = await preparing
    preparing = null
    if (ready === null) return
    const { webhook, lines } = await started
    ready.admin.commit()
    webhook.configure(ready.edge.webhook)
    lines.configure(ready.edge.log.level)
  },
  async drop() {
    dropping = undo(preparing)
    preparing = null
    await dropping
  },
  async spike(crossing) {
    const { webhook } = await started
    webhook.tell({ event: 'spike', ...crossing, at: new Date().toISOString() })
  },
})

async function makeReady({ edge, admin: options }: ControlConfig): Promise<Ready> {
  const parts = await started
  return { edge, admin: await parts.admin.prepare(options) }
}

async function undo(prepared: Promise<Ready> | null): Promise<void> {
  const ready = await prepared?.catch(() => null)
  ready?.admin.drop()
}

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
    reload: () => ask('reload', [], RELOAD_TIMEOUT_MS),
    status: () => ask('status', [], ANSWER_TIMEOUT_MS),
    // Every step of it has a time limit of its own.
    upgrade: () => ask('upgrade', [], Number.POSITIVE_INFINITY),
    // What is undefined is left out of what JSON carries.
    drain: (wanted) => ask('drain', [wanted], ANSWER_TIMEOUT_MS),
  }
}

/** The program stops, or its primary was killed: there is nothing left to ask. */
process.on('disconnect', () => {
  admin?.close()
  process.exit()
})
