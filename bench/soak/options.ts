// What `npm run soak` is asked to do.

import { parseArgs } from 'node:util'

export interface Options {
  readonly seed: number
  /** How long new faults are begun; the last one, and the end, come on top. */
  readonly seconds: number
  /** How many tunnels there are while nothing happens. */
  readonly tunnels: number
  /** How long a fault lasts, of those that last. */
  readonly holdMs: number
  /** Each fault once, whatever the time. */
  readonly isSmoke: boolean
}

export const USAGE = `usage: npm run soak -- [flags]
  --seconds 180   how long faults are begun
  --smoke         each of them once, with fewer tunnels: about a minute
  --seed 42       the order of the faults, and whom they meet; printed at the start, by default the time
  --tunnels 80    how many are open at once

example: npm run soak -- --seconds 600 --seed 42`

const MOST_TUNNELS = 2_000

/** Throws with a sentence for whoever typed it. */
export function parseOptions(given: readonly string[]): Options | 'help' {
  const { values } = parseArgs({
    args: [...given],
    options: {
      seconds: { type: 'string', default: '180' },
      seed: { type: 'string', default: String(Date.now() % 1_000_000) },
      tunnels: { type: 'string' },
      smoke: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) return 'help'
  return {
    seed: whole('--seed', values.seed, 0, 2 ** 31),
    seconds: whole('--seconds', values.seconds, 1, 86_400),
    tunnels: whole('--tunnels', values.tunnels ?? (values.smoke ? '30' : '80'), 2, MOST_TUNNELS),
    holdMs: values.smoke ? 600 : 2_000,
    isSmoke: values.smoke,
  }
}

function whole(flag: string, text: string, least: number, most: number): number {
  const number = Number(text)
  if (text === '' || !Number.isInteger(number) || number < least || number > most) {
    throw new Error(`${flag}: write a number from ${least} to ${most}`)
  }
  return number
}
