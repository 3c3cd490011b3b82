// What only shows when the files that a config names are opened: certificates, keys, handlers, tokens.

import { existsSync } from 'node:fs'
import { loadCertificates } from '../accept/certificates.ts'
import { readTokens } from '../admin/tokens.ts'
import type { LoadedConfig } from '../config/load.ts'
import type { Path, Problem } from '../config/problems.ts'
import { problem } from '../config/problems.ts'
import { createBackend } from '../dial/backend.ts'
import { HeadraceError } from '../errors.ts'
import { loadHandler } from '../handoff/handler.ts'
import { loadProgram } from '../program/program.ts'

const PAIR = 'name PEM files of a certificate that is valid and of its key'

/** Handlers are loaded: whatever their modules do then is done in this process. */
export async function checkFiles({ listeners, edge, admin, locate }: LoadedConfig): Promise<Problem[]> {
  const problems: Problem[] = []
  const attempt = async (path: Path, remedy: string, act: (tell: (error: unknown) => void) => unknown) => {
    const tell = (error: unknown) => {
      if (!(error instanceof HeadraceError)) throw error
      problems.push(problem(path, error.detail, remedy, locate))
    }
    await Promise.resolve(tell).then(act).catch(tell)
  }
  for (const [at, { tls }] of listeners.entries()) {
    if (tls === undefined) continue
    for (const [index, pair] of tls.pairs.entries()) {
      const path = ['listeners', at, 'tls', ...(tls.pairs.length > 1 ? [index] : [])]
      await attempt(path, PAIR, (tell) => loadCertificates({ pairs: [pair] }, tell).close())
    }
  }
  for (const [at, { id, backends, handler, program }] of edge.services.entries()) {
    for (const [index, backend] of backends.entries()) {
      const path = ['services', at, 'backends', index, 'clientCertificate']
      await attempt(path, 'name PEM files of a certificate and its key', () => createBackend(backend))
    }
    if (program !== undefined) {
      const path = ['services', at, 'program', program.kind]
      await attempt(path, 'mend the program', (tell) => loadProgram(program, id, tell))
    }
    if (typeof handler !== 'string') continue
    const remedy = 'name a module whose default export is a function'
    await attempt(['services', at, 'handler'], remedy, () => openHandler(handler))
  }
  const { tls = null, tokens = null } = admin ?? {}
  if (tls !== null) {
    await attempt(['admin', 'tls'], PAIR, (tell) => loadCertificates({ pairs: [tls] }, tell).close())
  }
  if (tokens !== null) {
    await attempt(['admin', 'tokens'], 'name a file that headrace token has written', () =>
      readTokens(tokens),
    )
  }
  return problems
}

/** Node's own message about a missing module names our files, not the user's. */
async function openHandler(file: string): Promise<void> {
  if (!existsSync(file)) throw new HeadraceError('config-invalid', `${file} can't be read: ENOENT`)
  await loadHandler(file)
}

/** Those that a config names, and its own. */
export function filesOf({ file, listeners, edge, admin }: LoadedConfig): string[] {
  const pairs = [
    ...listeners.flatMap(({ tls }) => tls?.pairs ?? []),
    ...edge.services.flatMap(({ backends }) =>
      backends.flatMap(({ clientCertificate }) => clientCertificate ?? []),
    ),
    ...(admin?.tls == null ? [] : [admin.tls]),
  ]
  const handlers = edge.services.flatMap(({ handler, program }) => [
    ...(typeof handler === 'string' ? [handler] : []),
    ...(program === undefined ? [] : [program.file]),
  ])
  const pems = pairs.flatMap(({ certificate, key }) => [certificate, key])
  const all = [file, ...handlers, ...(admin?.tokens == null ? [] : [admin.tokens]), ...pems]
  return [...new Set(all.filter((one) => !one.includes('-----BEGIN')))]
}
