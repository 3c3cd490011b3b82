// The product switch: whether a service takes WebSockets. The config says how it begins; what was switched later wins, and
// is kept in a file, so that it lasts over restarts.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { writeDurably } from '../durable.ts'
import { HeadraceError } from '../errors.ts'

export type SwitchValue = 'on' | 'off'

export interface SwitchState {
  readonly websockets: SwitchValue
  /** When it was switched, in ISO 8601; null: it is as the config has it. */
  readonly changedAt: string | null
}

/** What was switched, by service. Services that the config doesn't have any more keep their state. */
export type Switched = Readonly<Record<string, SwitchState>>

export interface Switches {
  isOn(service: string): boolean
  state(service: string): SwitchState
  /** Resolves with the state before, when the new one holds and is on the disk. Throws state-failed. */
  set(service: string, websockets: SwitchValue): Promise<SwitchState>
  /** The config has changed. What was switched stays so. */
  configure(services: SwitchOptions['services']): void
  readonly switched: Switched
}

export interface SwitchOptions {
  /** As the config has it. */
  readonly services: readonly { readonly id: string; readonly websockets: boolean }[]
  /** Null: what is switched is kept by somebody else, or forgotten at the end. */
  readonly file: string | null
  /** What was switched, if somebody else keeps it. */
  readonly switched?: Switched
}

/** Throws state-failed if what was switched can't be read. */
export function createSwitches({ services, file, switched: given = {} }: SwitchOptions): Switches {
  let initial = initialOf(services)
  let switched: Switched = file === null ? given : readSwitched(file)
  /** One change after the other: each writes the whole file. */
  let last: Promise<unknown> = Promise.resolve()

  function state(service: string): SwitchState {
    const preset = { websockets: initial.get(service) ? 'on' : 'off', changedAt: null } as const
    return Object.hasOwn(switched, service) ? (switched[service] ?? preset) : preset
  }

  async function change(service: string, websockets: SwitchValue): Promise<SwitchState> {
    const before = state(service)
    if (before.websockets === websockets) return before
    const next = { ...switched, [service]: { websockets, changedAt: new Date().toISOString() } }
    if (file !== null) await writeSwitched(file, next)
    switched = next
    return before
  }

  return {
    state,
    isOn: (service) => state(service).websockets === 'on',
    set(service, websockets) {
      const changing = last.then(() => change(service, websockets))
      last = changing.catch(() => {})
      return changing
    },
    configure(next) {
      initial = initialOf(next)
    },
    get switched() {
      return switched
    },
  }
}

function initialOf(services: SwitchOptions['services']): ReadonlyMap<string, boolean> {
  return new Map(services.map(({ id, websockets }) => [id, websockets]))
}

export function switchFileIn(stateDirectory: string): string {
  return join(stateDirectory, 'websockets.json')
}

const VERSION = 1

async function writeSwitched(file: string, services: Switched): Promise<void> {
  const text = `${JSON.stringify({ version: VERSION, services }, null, 2)}\n`
  try {
    await writeDurably(file, text, { mode: 0o600 })
  } catch (error) {
    throw new HeadraceError('state-failed', `${file} can't be written: ${codeOf(error)}`, error)
  }
}

function readSwitched(file: string): Switched {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    // Nothing was switched yet. Anything else must not turn a service on or off.
    if (['ENOENT', 'ENOTDIR'].includes(codeOf(error))) return {}
    throw new HeadraceError('state-failed', `${file} can't be read: ${codeOf(error)}`, error)
  }
  const services = parseSwitched(text)
  if (services === undefined)
    throw new HeadraceError('state-failed', `${file} is not what headrace wrote: mend or remove it`)
  return services
}

function parseSwitched(text: string): Switched | undefined {
  try {
    const { version, services } = JSON.parse(text) as { version?: unknown; services?: unknown }
    if (version !== VERSION || typeof services !== 'object' || services === null) return undefined
    return Object.values(services).every(isState) ? (services as Switched) : undefined
  } catch {
    return undefined
  }
}

function isState(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false
  const { websockets, changedAt } = value as Partial<SwitchState>
  return (websockets === 'on' || websockets === 'off') && typeof changedAt === 'string'
}

function codeOf(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? String(error)
}
