// Programs that people have: in the shape of another product, each ends in the same decision as a handler does.

import { HeadraceError } from '../errors.ts'
import type { Program } from '../handoff/handler.ts'
import { told } from '../stack.ts'
import { loadFastly } from './fastly.ts'
import { loadWorker } from './worker.ts'

export interface ProgramChoice {
  readonly kind: 'fastly' | 'worker'
  /** Absolute. */
  readonly file: string
  readonly env: Readonly<Record<string, unknown>>
  readonly objects: Readonly<Record<string, string>>
  readonly backend: string
}

/** `trouble` is told what goes wrong beside a request. Throws config-invalid. */
export function loadProgram(
  options: ProgramChoice,
  service: string,
  trouble: (what: HeadraceError) => void,
): Promise<Program> {
  const report = (error: unknown) =>
    trouble(new HeadraceError('handler-failed', `service ${service}: ${told(error)}`, error))
  return options.kind === 'fastly' ? loadFastly({ ...options, service }, report) : loadWorker(options, report)
}
