// What the commands do. Each resolves with the exit code.

import { loadCertificates } from '../accept/certificates.ts'
import { loadConfig } from '../config/load.ts'
import type { Config } from '../config/parse.ts'
import { problemLine, problemsOf } from '../config/problems.ts'
import { jsonSchema } from '../config/schema.ts'
import { createBackend } from '../dial/backend.ts'
import { HeadraceError } from '../errors.ts'
import { loadHandler } from '../handoff/handler.ts'
import { start } from '../process/main.ts'

export async function run(file: string): Promise<number> {
  const config = await load(file)
  if (config === null) return 1
  if (config.listeners.length === 0) throw new HeadraceError('config-invalid', `${file} has no listeners`)
  if (config.notice !== '') process.stderr.write(`headrace: ${config.notice}\n`)
  const { addresses, stopped } = await start(config)
  process.stdout.write(`headrace listens on ${addresses.join(', ')}\n`)
  await stopped
  return 0
}

export async function check(file: string): Promise<number> {
  const config = await load(file)
  if (config === null) return 1
  const troubles = await tryFiles(config)
  for (const one of troubles) process.stderr.write(`${file}: ${one.detail}; ${one.remedy}\n`)
  if (troubles.length > 0) return 1
  if (config.notice !== '') process.stderr.write(`headrace: ${config.notice}\n`)
  const { listeners, edge } = config
  process.stdout.write(`${file}: ok, ${count(listeners, 'listener')}, ${count(edge.services, 'service')}\n`)
  return 0
}

export function printSchema(): number {
  process.stdout.write(`${JSON.stringify(jsonSchema(), null, 2)}\n`)
  return 0
}

/** Says every problem, one in a line. */
async function load(file: string): Promise<Config | null> {
  try {
    return await loadConfig(file, process.env)
  } catch (error) {
    if (!(error instanceof HeadraceError)) throw error
    for (const one of problemsOf(error))
      process.stderr.write(`${problemLine(one, one.line === undefined ? '' : file)}\n`)
    return null
  }
}

/** What only shows when the files that a config names are opened. */
async function tryFiles({ listeners, edge }: Config): Promise<HeadraceError[]> {
  const troubles: HeadraceError[] = []
  const attempt = async (act: () => unknown) => {
    try {
      await act()
    } catch (error) {
      if (!(error instanceof HeadraceError)) throw error
      troubles.push(error)
    }
  }
  for (const { tls } of listeners) {
    if (tls !== undefined)
      await attempt(() => loadCertificates(tls, (trouble) => troubles.push(trouble)).close())
  }
  for (const { backends, handler } of edge.services) {
    for (const backend of backends) await attempt(() => createBackend(backend))
    if (typeof handler === 'string') await attempt(() => loadHandler(handler))
  }
  return troubles
}

function count(items: readonly unknown[], word: string): string {
  return `${items.length} ${word}${items.length === 1 ? '' : 's'}`
}
