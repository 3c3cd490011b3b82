// `headrace run --fastly main.js --backend NAME=ADDRESS`: the config that a program needs, made of words, as if it stood in a
// file in this folder.

import { resolve } from 'node:path'
import type { LoadedConfig } from '../config/load.ts'
import { readConfig } from '../config/load.ts'
import { UsageError } from './usage-error.ts'

export interface ProgramWords {
  readonly fastly?: string
  readonly worker?: string
  /** Each NAME=ADDRESS. */
  readonly backend?: readonly string[]
  readonly listen?: readonly string[]
}

const DEFAULT_LISTEN = '127.0.0.1:8080'

/** What messages call it. */
export const PROGRAM_FILE = 'command line'

/** Throws UsageError, or config-invalid. */
export function programConfig({
  fastly,
  worker,
  backend = [],
  listen = [DEFAULT_LISTEN],
}: ProgramWords): LoadedConfig {
  if (fastly !== undefined && worker !== undefined)
    throw new UsageError('--fastly and --worker exclude each other')
  const program = fastly === undefined ? { worker } : { fastly }
  const backends = backend.length === 0 ? {} : { backends: backend.map(backendOf) }
  const service = { id: 'main', domains: ['*'], websockets: true, program, ...backends }
  const config = { listeners: listen.map((address) => ({ address })), services: [service] }
  return readConfig(JSON.stringify(config, null, 2), resolve(PROGRAM_FILE), process.env)
}

function backendOf(word: string): { name: string; address: string } {
  const mark = word.indexOf('=')
  if (mark < 1)
    throw new UsageError(`--backend ${word}: write NAME=ADDRESS, such as ws_backend=127.0.0.1:9200`)
  return { name: word.slice(0, mark), address: word.slice(mark + 1) }
}
