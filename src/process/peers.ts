// Where workers find each other: a private socket of each, in the state folder.

import { chmodSync, mkdirSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { HeadraceError } from '../errors.ts'
import type { Peer } from '../service/places.ts'

/**
 * None without a state folder: the config of a file always has one. `fileOf`: a name that no earlier program has used.
 * Throws state-failed.
 */
export function peersOf(
  workers: readonly string[],
  stateDirectory: string | undefined,
  fileOf: (worker: string) => string,
): Peer[] {
  if (stateDirectory === undefined || workers.length < 2) return []
  const way = wayTo(join(stateDirectory, 'sessions'))
  return workers.map((name) => ({ name, path: join(way, `${fileOf(name)}.sock`) }))
}

function wayTo(folder: string): string {
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 })
    chmodSync(folder, 0o700)
    return shortPath(folder)
  } catch (error) {
    const { code = String(error) } = error as NodeJS.ErrnoException
    throw new HeadraceError('state-failed', `${folder}: ${code}`, error)
  }
}

/** sun_path has room for 107 bytes (unix(7)), and a folder may be deeper: on Linux its descriptor stands for it. */
function shortPath(folder: string): string {
  return process.platform === 'linux' ? `/proc/self/fd/${openSync(folder, 'r')}` : folder
}
