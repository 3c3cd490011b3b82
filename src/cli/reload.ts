// `headrace reload`: a program that runs reads its config again.

import { problemsOf } from '../config/problems.ts'
import { HeadraceError } from '../errors.ts'
import type { Changed, Changes } from '../operations.ts'
import { complain, load } from './config.ts'
import { askRunning } from './control-client.ts'

interface Answer {
  readonly file: string
  readonly changes: Changes
  readonly durationMs: number
}

export async function reload(file: string): Promise<number> {
  // It says where the program is to be found.
  const config = await load(file)
  if (config === null) return 1
  try {
    const { changes, durationMs } = await askRunning<Answer>(config, { method: 'POST', path: '/reload' })
    process.stdout.write(`reloaded in ${durationMs} ms: ${textOf(changes)}\n`)
    return 0
  } catch (error) {
    if (!(error instanceof HeadraceError) || !Array.isArray(error.cause)) throw error
    return complain(problemsOf(error), file)
  }
}

function textOf({ services, listeners, settings }: Changes): string {
  const parts = [...wordsOf('service', services), ...wordsOf('listener', listeners)]
  if (settings.length > 0) parts.push(`settings changed: ${settings.join(', ')}`)
  return parts.length === 0 ? 'the config says what it said before' : parts.join('; ')
}

function wordsOf(what: string, changed: Changed): string[] {
  return (['added', 'removed', 'changed'] as const).flatMap((how) => {
    const names = changed[how]
    return names.length === 0 ? [] : [`${what}${names.length === 1 ? '' : 's'} ${how}: ${names.join(', ')}`]
  })
}
