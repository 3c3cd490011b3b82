// What `npm run bench` is asked to do.

import { parseArgs } from 'node:util'
import { peerKinds, usualKinds } from './peers/peers.ts'

export const SCENARIOS = ['concurrency', 'messages', 'bulk', 'churn', 'observed', 'serve', 'micro'] as const
export type ScenarioName = (typeof SCENARIOS)[number]

export interface Options {
  readonly smoke: boolean
  readonly only: readonly ScenarioName[]
  /** Names of proxies. */
  readonly proxies: readonly string[]
  /** Numbers of tunnels for the scenario concurrency; null: its own. */
  readonly tunnels: readonly number[] | null
  readonly profile: boolean
  readonly saveBaseline: boolean
}

export const USAGE = `usage: npm run bench -- [flags]
  --smoke                  everything at a tiny size: does it work, not how fast is it
  --only messages,churn    some scenarios: ${SCENARIOS.join(', ')}
  --proxies headrace,nginx some proxies: ${peerKinds.map(({ name }) => name).join(', ')};
                           default: ${usualKinds.map(({ name }) => name).join(', ')}
  --tunnels 1000,20000     how many tunnels concurrency opens
  --profile                CPU profiles of the proxies that are node programs, in bench/results/
  --save-baseline          the micro-benchmarks of this run become bench/baseline.json

example: npm run bench -- --only concurrency --proxies headrace,haproxy`

const MOST_TUNNELS = 200_000

/** Throws with a sentence for whoever typed it. */
export function parseOptions(given: readonly string[]): Options | 'help' {
  const { values } = parseArgs({
    args: [...given],
    options: {
      smoke: { type: 'boolean', default: false },
      only: { type: 'string' },
      proxies: { type: 'string' },
      tunnels: { type: 'string' },
      profile: { type: 'boolean', default: false },
      'save-baseline': { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) return 'help'
  if (values.smoke && values['save-baseline']) {
    throw new Error('--save-baseline: a run of --smoke is too short for that')
  }
  const names = peerKinds.map(({ name }) => name)
  return {
    smoke: values.smoke,
    only: picked('--only', values.only, SCENARIOS, SCENARIOS),
    proxies: picked(
      '--proxies',
      values.proxies,
      names,
      usualKinds.map(({ name }) => name),
    ),
    tunnels: values.tunnels === undefined ? null : counts('--tunnels', values.tunnels),
    profile: values.profile,
    saveBaseline: values['save-baseline'],
  }
}

function counts(flag: string, given: string): number[] {
  const numbers = given.split(',').map(Number)
  if (numbers.some((one) => !Number.isInteger(one) || one < 1 || one > MOST_TUNNELS)) {
    throw new Error(`${flag}: write numbers from 1 to ${MOST_TUNNELS}, such as 1000,20000`)
  }
  return numbers.sort((a, b) => a - b)
}

function picked<Name extends string>(
  flag: string,
  given: string | undefined,
  known: readonly Name[],
  usual: readonly Name[],
): readonly Name[] {
  if (given === undefined) return usual
  const wanted = given.split(',')
  const strange = wanted.find((name) => !known.some((one) => one === name))
  if (strange !== undefined) throw new Error(`${flag}: ${strange} is none of ${known.join(', ')}`)
  return known.filter((name) => wanted.includes(name))
}
