// `headrace token …`: the tokens of the admin API. A program that runs sees every change at once.

import type { Role } from '../admin/roles.ts'
import { ROLES } from '../admin/roles.ts'
import { createToken, readTokens, revokeToken } from '../admin/tokens.ts'
import { HeadraceError } from '../errors.ts'
import { load } from './config.ts'
import { table } from './table.ts'
import { UsageError } from './usage-error.ts'

export interface TokenOptions {
  readonly name?: string
  readonly role?: string
}

/** The token alone on standard output, for scripts; what is to be said of it is for people. */
export async function createOne(config: string, { name, role }: TokenOptions): Promise<number> {
  const wanted = ROLES.find((one) => one === role)
  if (name === undefined || wanted === undefined) {
    throw new UsageError(`token create needs --name NAME and --role ${ROLES.join('|')}`)
  }
  const file = await fileOf(config)
  if (file === null) return 1
  const token = await createToken(file, name, wanted satisfies Role)
  process.stdout.write(`${token}\n`)
  process.stderr.write(`headrace: this token of ${name}, role ${wanted}, is not shown again\n`)
  return 0
}

export async function listAll(config: string): Promise<number> {
  const file = await fileOf(config)
  if (file === null) return 1
  const rows = readTokens(file).map(({ name, role, createdAt, id }) => [name, role, createdAt, id])
  process.stdout.write(table(['name', 'role', 'created', 'id'], rows))
  return 0
}

export async function revokeOne(config: string, { name }: TokenOptions): Promise<number> {
  if (name === undefined) throw new UsageError('token revoke needs --name NAME')
  const file = await fileOf(config)
  if (file === null) return 1
  await revokeToken(file, name)
  process.stdout.write(`${name}: revoked\n`)
  return 0
}

/** Null if the config is not valid, which has been told. Throws config-invalid if it has no tokens. */
async function fileOf(config: string): Promise<string | null> {
  const loaded = await load(config)
  if (loaded === null) return null
  const { admin } = loaded
  if (admin?.tokens != null) return admin.tokens
  const example = 'admin: { address: 127.0.0.1:9901, tokens: tokens.json }'
  throw new HeadraceError('config-invalid', `${config} has no admin.tokens: write such as ${example}`)
}
