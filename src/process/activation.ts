// The sockets that a service manager has started this process with: descriptors 3, 4, … (sd_listen_fds(3)).

import type { GivenSocket } from '../accept/given.ts'
import { HeadraceError } from '../errors.ts'

const FIRST = 3

const VARIABLES = ['LISTEN_PID', 'LISTEN_PIDFDID', 'LISTEN_FDS', 'LISTEN_FDNAMES']

/**
 * None if they are another process's. Takes what concerns it out of the environment, so that no other process believes
 * that it was meant. Throws activation-failed.
 */
export function activatedSockets(
  environment: Record<string, string | undefined>,
  pid: number,
): readonly GivenSocket[] {
  const { LISTEN_PID: meant, LISTEN_FDS: fds = '0', LISTEN_FDNAMES: names = '' } = environment
  for (const name of VARIABLES) delete environment[name]
  if (meant !== String(pid)) return []
  const count = Number(fds)
  if (!/^[0-9]{1,4}$/.test(fds)) {
    throw new HeadraceError(
      'activation-failed',
      `LISTEN_FDS is ${JSON.stringify(fds)} and no number of sockets`,
    )
  }
  const given = names.split(':')
  // As the manager calls those without a name.
  return Array.from({ length: count }, (_, at) => ({ descriptor: FIRST + at, name: given[at] || 'unknown' }))
}
