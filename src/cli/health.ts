// `headrace health`: whether a program that runs takes new connections, for probes that run a command, such as Docker's.

import { load } from './config.ts'
import { answerOf } from './control-client.ts'

/** Whoever probes has a limit of its own, such as Docker's 30 s, and would not tell the reason. */
const ANSWER_TIMEOUT_MS = 10_000

/** 0 if it is ready, else 1, with the reason on standard error. */
export async function health(file: string): Promise<number> {
  const config = await load(file)
  if (config === null) return 1
  const answer = await answerOf(config, { method: 'GET', path: '/readyz', timeoutMs: ANSWER_TIMEOUT_MS })
  if (answer === undefined)
    return unready(`nothing runs with the state directory ${config.edge.stateDirectory}`)
  const { status } = answer.json as { readonly status: string }
  if (answer.status !== 200) return unready(status)
  process.stdout.write(`${status}\n`)
  return 0
}

function unready(why: string): number {
  process.stderr.write(`headrace: not ready: ${why}\n`)
  return 1
}
