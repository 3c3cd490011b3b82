// Who the processes run as, if root has started the program and the config names a user. Whatever faces the network is
// started as that user, without supplementary groups, and can never be root again. The primary stays root in name only: it
// opens ports below 1024 at a reload, too, and starts processes. Whatever else it does, files above all, it does as the user.
//
//   root ──settle()──▶ acting as the user ◀──raised(act)──▶ root, for one synchronous call
//
// The umask goes the same way: what is made is this user's alone, but for what others are to reach.

import { constants, lchownSync, lstatSync } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import { mkdir, open, readdir } from 'node:fs/promises'
import { userInfo } from 'node:os'
import type { Rights } from '../accept/inherited.ts'
import { HeadraceError } from '../errors.ts'

export interface RunAs {
  /** A name, or a number. */
  readonly user: string | number
  /** Undefined: the group of the user. */
  readonly group: string | number | undefined
}

export interface Credentials {
  readonly uid: number
  readonly gid: number
}

export interface Identity extends Rights {
  /** For processes to be started with, inside `raised`; null: as this one. */
  readonly credentials: Credentials | null
  /** Gives the user its files, and acts as the user from now on. Throws state-failed. */
  settle(stateDirectory: string | undefined, sockets: readonly string[]): Promise<void>
}

/** What the umask leaves to others: nothing. */
const OWN_ALONE = 0o077

/** Throws user-unavailable. */
export function createIdentity(wanted: RunAs | null): Identity {
  const credentials = wanted === null ? null : changed(resolve(wanted))
  const umask = process.umask()

  function withUmask<Result>(act: () => Result): Result {
    const current = process.umask(umask)
    try {
      return act()
    } finally {
      process.umask(current)
    }
  }

  function raised<Result>(act: () => Result): Result {
    return withUmask(() => (credentials === null ? act() : asRoot(act, credentials)))
  }

  return {
    credentials,
    async settle(stateDirectory, sockets) {
      process.umask(OWN_ALONE)
      if (credentials === null) return
      for (const path of sockets) giveSocket(path, credentials)
      if (stateDirectory !== undefined) await giveState(stateDirectory, credentials)
      actAs(credentials)
    },
    raised,
    named(path, bind) {
      if (withUmask(bind) || credentials === null) return
      if (raised(bind)) raised(() => giveSocket(path, credentials))
    },
  }
}

/** Null: this process is that one already. */
function changed(credentials: Credentials): Credentials | null {
  const isSame = process.geteuid?.() === credentials.uid && process.getegid?.() === credentials.gid
  return isSame ? null : credentials
}

function asRoot<Result>(act: () => Result, credentials: Credentials): Result {
  process.seteuid?.(0)
  process.setegid?.(0)
  try {
    return act()
  } finally {
    lower(credentials)
  }
}

/** For a command that reads and writes the same files, and starts nothing. Throws user-unavailable. */
export function actAsUser(wanted: RunAs | null): void {
  if (wanted === null || process.geteuid?.() !== 0) return
  actAs(resolve(wanted))
}

function actAs(credentials: Credentials): void {
  process.setgroups?.([])
  lower(credentials)
}

/** The group first: a user that is not root may not change it. */
function lower({ uid, gid }: Credentials): void {
  process.setegid?.(gid)
  process.seteuid?.(uid)
}

/**
 * The system itself knows what a name means, also by LDAP: for a moment we are that user, and look who we are. Node has no
 * call for it (getpwnam(3)).
 */
function resolve({ user, group }: RunAs): Credentials {
  if (process.platform !== 'linux') throw unavailable('it needs Linux')
  const own = { uid: process.geteuid?.() ?? -1, gid: process.getegid?.() ?? -1 }
  if (own.uid !== 0) {
    // One that is this user already has nothing to change.
    if ((user === own.uid || user === nameOf()) && (group === undefined || group === own.gid)) return own
    throw unavailable(`only root can become ${user}, and this is user ${own.uid}`)
  }
  try {
    const gid = group === undefined ? null : gidOf(group)
    const uid = asUser(user, () => process.geteuid?.() ?? -1)
    if (uid === 0) throw unavailable(`${user} is root`)
    return { uid, gid: gid ?? asUser(user, groupOfUser) }
  } finally {
    process.setegid?.(own.gid)
  }
}

/** Of this user; null: it has none. */
function nameOf(): string | null {
  try {
    return userInfo().username
  } catch {
    return null
  }
}

function asUser<Result>(user: string | number, act: () => Result): Result {
  try {
    process.seteuid?.(user)
  } catch (error) {
    throw unavailable(`there is no user ${user}`, error)
  }
  try {
    return act()
  } finally {
    process.seteuid?.(0)
  }
}

function groupOfUser(): number {
  try {
    return userInfo().gid
  } catch (error) {
    throw unavailable('the user has no entry that says its group: name a group as well', error)
  }
}

function gidOf(group: string | number): number {
  try {
    process.setegid?.(group)
    return process.getegid?.() ?? -1
  } catch (error) {
    throw unavailable(`there is no group ${group}`, error)
  }
}

function unavailable(detail: string, cause?: unknown): HeadraceError {
  return new HeadraceError('user-unavailable', detail, cause)
}

/** Who may connect to a Unix socket is who may write to its file. */
function giveSocket(path: string, { uid, gid }: Credentials): void {
  if (lstatSync(path).isSocket()) lchownSync(path, uid, gid)
}

async function giveState(folder: string, credentials: Credentials): Promise<void> {
  try {
    await mkdir(folder, { recursive: true, mode: 0o700 })
    await give(folder, credentials)
  } catch (error) {
    const { code = String(error) } = error as NodeJS.ErrnoException
    throw new HeadraceError(
      'state-failed',
      `${folder} can't be given to user ${credentials.uid}: ${code}`,
      error,
    )
  }
}

/**
 * The folder may be the user's already, who might have put a link there to a file of somebody else: no link is followed,
 * of either kind, and what is below a folder is named by that folder's descriptor, not by its path.
 */
async function give(path: string, { uid, gid }: Credentials): Promise<void> {
  const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = constants
  const handle = await open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK).catch(
    (error: NodeJS.ErrnoException) => {
      // A link, a socket, or gone meanwhile.
      if (['ELOOP', 'ENXIO', 'ENOENT'].includes(error.code ?? '')) return null
      throw error
    },
  )
  if (handle === null) return
  try {
    await giveOpened(handle, { uid, gid })
  } finally {
    await handle.close()
  }
}

async function giveOpened(handle: FileHandle, credentials: Credentials): Promise<void> {
  const found = await handle.stat()
  if (!found.isDirectory() && (!found.isFile() || found.nlink > 1)) return
  if (found.uid !== credentials.uid || found.gid !== credentials.gid) {
    await handle.chown(credentials.uid, credentials.gid)
  }
  if (!found.isDirectory()) return
  const here = `/proc/self/fd/${handle.fd}`
  for (const name of await readdir(here)) await give(`${here}/${name}`, credentials)
}
