// `headrace websockets on|off SERVICE`: acts on the program that runs, or on what it will find when it starts.

import type { LoadedConfig } from '../config/load.ts'
import { suggestion } from '../config/problems.ts'
import type { SwitchValue } from '../service/switch.ts'
import { createSwitches, switchFileIn } from '../service/switch.ts'
import { load } from './config.ts'
import { askProgram } from './control-client.ts'
import { UsageError } from './usage-error.ts'

export async function switchWebsockets(
  file: string,
  [value, service]: readonly string[],
  closeTunnels: boolean,
): Promise<number> {
  if ((value !== 'on' && value !== 'off') || service === undefined) {
    throw new UsageError('write websockets on SERVICE, or websockets off SERVICE')
  }
  if (closeTunnels && value === 'on') throw new UsageError('--close-tunnels is for websockets off')
  const config = await load(file)
  if (config === null) return 1
  const known = config.edge.services.map(({ id }) => id)
  if (!known.includes(service)) throw new UsageError(`no service "${service}"${suggestion(service, known)}`)
  process.stdout.write(`${await switched(config, service, value, closeTunnels)}\n`)
  return 0
}

async function switched(
  config: LoadedConfig,
  id: string,
  value: SwitchValue,
  closeTunnels: boolean,
): Promise<string> {
  const done = await askProgram<{ readonly ended: number }>(config, {
    method: 'PATCH',
    path: `/services/${id}`,
    body: { websockets: value, closeTunnels },
  })
  const said = `${id}: websockets are ${value}`
  if (done !== undefined) return done.ended === 0 ? said : `${said}, open tunnels that end now: ${done.ended}`
  const { services, stateDirectory = 'state' } = config.edge
  const switches = createSwitches({ services, file: switchFileIn(stateDirectory) })
  await switches.set(id, value)
  return `${said}, from the next start on: headrace does not run`
}
