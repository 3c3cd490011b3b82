// What `npm run bench` is asked to do.

import { parseArgs } from 'node:util'
import { peerKinds } from './peers/peers.ts'

export const SCENARIOS = ['memory', 'relay', 'bulk', 'churn', 'micro'] as const
export type ScenarioName = (typeof SCENARIOS)[number]

export interface Options {
  readonly smoke: boolean
  readonly only: readonly ScenarioName[]
  /** Names of proxies. */
  readonly proxies: readonly string[]
  /** How many tunnels `relay` plays on, one contest for each. */
  readonly tunnels: readonly number[]
  readonly tls: boolean
  readonly profile: boolean
}

export const USAGE = `usage: npm run bench -- [flags]
  --smoke                    everything at a tiny size: does it work, not how fast is it
  --only memory,relay        some scenarios: ${SCENARIOS.join(', ')}
  --proxies headrace-epoll,nginx  some proxies: ${peerKinds.map(({ name }) => name).join(', ')}
  --tunnels 100,2000         how many tunnels relay plays on; default 100,2000,5000
  --tls                      relay and churn with TLS clients, too
  --profile                  CPU profiles of the proxies that are node programs, in bench/results/

example: npm run bench -- --only relay --proxies headrace-epoll,haproxy`

/** Throws with a sentence for whoever typed it. */
export function parseOptions(given: readonly string[]): Options | 'help' {
  const { values } = parseArgs({
    args: [...given],
    options: {
      smoke: { type: 'boolean', default: false },
      only: { type: 'string' },
      proxies: { type: 'string' },
      tunnels: { type: 'string', default: '100,2000,5000' },
      tls: { type: 'boolean', default: false },
      profile: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) return 'help'
  const names = peerKinds.map(({ name }) => name)
  return {
    smoke: values.smoke,
    only: picked('--only', values.only, SCENARIOS),
    proxies: picked('--proxies', values.proxies, names),
    tunnels: counts('--tunnels', values.tunnels),
    tls: values.tls,
    profile: values.profile,
  }
}

function counts(flag: string, given: string): number[] {
  const numbers = given.split(',').map(Number)
  if (numbers.some((one) => !Number.isInteger(one) || one < 1 || one > 9_000)) {
    throw new Error(`${flag}: write numbers from 1 to 9000, such as 100,2000`)
  }
  return numbers
}

function picked<Name extends string>(
  flag: string,
  given: string | undefined,
  known: readonly Name[],
): readonly Name[] {
  if (given === undefined) return known
  const wanted = given.split(',')
  const strange = wanted.find((name) => !known.some((one) => one === name))
  if (strange !== undefined) throw new Error(`${flag}: ${strange} is none of ${known.join(', ')}`)
  return known.filter((name) => wanted.includes(name))
}
