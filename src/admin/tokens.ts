// Tokens: who they belong to and what role they have, in a file that holds no token, only salted hashes.
//
// The hash is one SHA-256, not scrypt: the secret is 256 random bits and no password, so that nobody guesses it at any
// speed; a slow hash would only let whoever reaches the listener spend our CPU with wrong tokens.

import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import { temporaryOf, writeDurably } from '../durable.ts'
import { HeadraceError } from '../errors.ts'
import type { Role } from './roles.ts'
import { ROLES } from './roles.ts'

export interface TokenRecord {
  /** A part of the token: it finds the record, so that one hash is compared and not all. */
  readonly id: string
  readonly name: string
  readonly role: Role
  readonly createdAt: string
  readonly salt: string
  readonly hash: string
}

const VERSION = 1
const TOKEN = /^headrace_([0-9a-f]{8})_([A-Za-z0-9_-]{43})$/
const NAME = /^[A-Za-z0-9._@-]{1,64}$/

/** Resolves with the token, which nobody can read again. Throws argument-invalid or state-failed. */
export async function createToken(file: string, name: string, role: Role): Promise<string> {
  if (!NAME.test(name)) {
    throw new HeadraceError(
      'argument-invalid',
      `${JSON.stringify(name)} is no name: letters, digits, . _ @ -, at most 64`,
    )
  }
  const records = readTokens(file)
  if (records.some((one) => one.name === name)) {
    throw new HeadraceError(
      'argument-invalid',
      `there is a token named ${name}: revoke it first, or choose another name`,
    )
  }
  const id = randomBytes(4).toString('hex')
  const secret = randomBytes(32).toString('base64url')
  const salt = randomBytes(16).toString('base64url')
  const createdAt = new Date().toISOString()
  await writeTokens(file, [...records, { id, name, role, createdAt, salt, hash: hashOf(salt, secret) }])
  return `headrace_${id}_${secret}`
}

/** Throws argument-invalid or state-failed. */
export async function revokeToken(file: string, name: string): Promise<void> {
  const records = readTokens(file)
  const rest = records.filter((one) => one.name !== name)
  if (rest.length === records.length)
    throw new HeadraceError('argument-invalid', `there is no token named ${name}`)
  await writeTokens(file, rest)
}

/** Throws state-failed. A file that is not there yet has no tokens. */
export function readTokens(file: string): readonly TokenRecord[] {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT') return []
    throw new HeadraceError('state-failed', `${file} can't be read: ${code}`, error)
  }
  const records = parseTokens(text)
  if (records === undefined)
    throw new HeadraceError('state-failed', `${file} is not what headrace wrote: mend or remove it`)
  return records
}

/** Asked for each request: what was created or revoked meanwhile holds at once. */
export interface TokenBook {
  /** Null if it is none, or no more. Throws state-failed. */
  find(token: string): TokenRecord | null
}

export function openTokens(file: string): TokenBook {
  let stamp = ''
  let records: ReadonlyMap<string, TokenRecord> = new Map()
  return {
    find(token) {
      const now = stampOf(file)
      if (now !== stamp) {
        records = new Map(readTokens(file).map((one) => [one.id, one]))
        stamp = now
      }
      const [, id = '', secret = ''] = TOKEN.exec(token) ?? []
      const record = records.get(id)
      return record !== undefined && isSame(record.hash, hashOf(record.salt, secret)) ? record : null
    },
  }
}

/** Changes whenever the file is written: it is a new one each time. */
function stampOf(file: string): string {
  const found = statSync(file, { throwIfNoEntry: false })
  return found === undefined ? 'none' : `${found.ino} ${found.mtimeMs} ${found.size}`
}

async function writeTokens(file: string, tokens: readonly TokenRecord[]): Promise<void> {
  try {
    const text = `${JSON.stringify({ version: VERSION, tokens }, null, 2)}\n`
    await writeDurably(file, text, { mode: 0o600, exclusive: true })
  } catch (error) {
    const { code = String(error) } = error as NodeJS.ErrnoException
    const fresh = temporaryOf(file)
    const why = code === 'EEXIST' ? `somebody else is writing it; if nobody is, remove ${fresh}` : code
    throw new HeadraceError('state-failed', `${file} can't be written: ${why}`, error)
  }
}

function parseTokens(text: string): readonly TokenRecord[] | undefined {
  try {
    const { version, tokens } = JSON.parse(text) as { version?: unknown; tokens?: unknown }
    return version === VERSION && Array.isArray(tokens) && tokens.every(isRecord) ? tokens : undefined
  } catch {
    return undefined
  }
}

function isRecord(value: unknown): value is TokenRecord {
  if (typeof value !== 'object' || value === null) return false
  const { id, name, role, createdAt, salt, hash } = value as Readonly<Record<string, unknown>>
  return (
    [id, name, createdAt, salt, hash].every((one) => typeof one === 'string') && ROLES.includes(role as Role)
  )
}

function hashOf(salt: string, secret: string): string {
  return createHash('sha256').update(Buffer.from(salt, 'base64url')).update(secret).digest('base64url')
}

function isSame(expected: string, given: string): boolean {
  const [one, other] = [Buffer.from(expected), Buffer.from(given)]
  return one.length === other.length && timingSafeEqual(one, other)
}
