// Asks a program that runs, through the control socket in its state folder.

import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { request } from 'node:http'
import type { LoadedConfig } from '../config/load.ts'
import type { ErrorCode } from '../errors.ts'
import { errorCodes, HeadraceError } from '../errors.ts'
import { CONTROL_SOCKET } from '../process/protocol.ts'

export interface Asked {
  readonly method: 'GET' | 'POST' | 'PATCH' | 'DELETE'
  readonly path: string
  readonly body?: unknown
  /** Default: as long as it takes. */
  readonly timeoutMs?: number
}

/** What a program that does not run answers with. */
const NOBODY = ['ENOENT', 'ENOTDIR', 'ECONNREFUSED']

export interface Answered {
  readonly status: number
  readonly json: unknown
}

/** Resolves with the answer, whatever it is; undefined if nothing runs. Throws process-silent. */
export async function answerOf({ edge }: LoadedConfig, asked: Asked): Promise<Answered | undefined> {
  // The config of a file always has one.
  const { stateDirectory = 'state' } = edge
  const response = await exchange(stateDirectory, asked).catch((error: NodeJS.ErrnoException) => {
    if (NOBODY.includes(error.code ?? '')) return undefined
    const why = error.code === 'ABORT_ERR' ? 'no answer in time' : (error.code ?? error.message)
    const detail = `the control socket in ${stateDirectory} can't be asked: ${why}`
    throw new HeadraceError('process-silent', detail, error)
  })
  if (response === undefined) return undefined
  let text = ''
  for await (const chunk of response.setEncoding('utf8')) text += chunk
  return { status: response.statusCode ?? 500, json: JSON.parse(text) }
}

/** Resolves with the JSON of the answer; undefined if nothing runs. Throws what the program says is wrong: its `cause` is the list, if that is several things. */
export async function askProgram<Answer>(config: LoadedConfig, asked: Asked): Promise<Answer | undefined> {
  const answer = await answerOf(config, asked)
  if (answer === undefined || answer.status < 400) return answer?.json as Answer | undefined
  const { code = '', detail = JSON.stringify(answer.json), errors } = answer.json as ProblemDetails
  const known = errorCodes.find((one) => one === code)
  throw new HeadraceError(known ?? ('argument-invalid' satisfies ErrorCode), detail, errors)
}

interface ProblemDetails {
  readonly code?: string
  readonly detail?: string
  readonly errors?: readonly unknown[]
}

async function exchange(folder: string, { method, path, body, timeoutMs }: Asked): Promise<IncomingMessage> {
  // As the program does: the whole path may have no room in sun_path (unix(7)).
  process.chdir(folder)
  const headers = body === undefined ? {} : { 'Content-Type': 'application/json' }
  const limit = timeoutMs === undefined ? {} : { signal: AbortSignal.timeout(timeoutMs) }
  const asking = request({ socketPath: CONTROL_SOCKET, host: 'localhost', method, path, headers, ...limit })
  asking.end(body === undefined ? undefined : JSON.stringify(body))
  const [response] = (await once(asking, 'response')) as [IncomingMessage]
  return response
}

/** For what makes no sense without a program. */
export async function askRunning<Answer>(config: LoadedConfig, asked: Asked): Promise<Answer> {
  const answer = await askProgram<Answer>(config, asked)
  if (answer !== undefined) return answer
  const where = config.edge.stateDirectory
  throw new HeadraceError('process-silent', `no headrace runs with the state directory ${where}`)
}
