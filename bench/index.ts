// `npm run bench`: runs the scenarios in order, prints tables, writes JSON. Ends with 1 if a byte was wrong, a tunnel was
// lost, or anything else failed. Linux only: what processes cost is read from /proc.

import { bulk } from './bulk.ts'
import { churn } from './churn.ts'
import type { Result } from './figures.ts'
import { memory } from './memory.ts'
import { micro } from './micro.ts'
import type { Options, ScenarioName } from './options.ts'
import { parseOptions, USAGE } from './options.ts'
import type { PeerKind } from './peers/peer.ts'
import { peerKinds } from './peers/peers.ts'
import { relay } from './relay.ts'
import { reportOf, save, textOf } from './report.ts'

type Scenario = (
  kinds: readonly PeerKind[],
  options: Options,
  progress: (line: string) => void,
) => Promise<Result[]>

const scenarios: Readonly<Record<ScenarioName, Scenario>> = { memory, relay, bulk, churn, micro }

async function run(options: Options): Promise<void> {
  const wanted = peerKinds.filter(({ name }) => options.proxies.includes(name))
  const missing: Record<string, string> = {}
  const present = wanted.filter((kind) => {
    const why = kind.missing()
    if (why !== null) missing[kind.name] = why
    return why === null
  })
  const startedAt = performance.now()
  const progress = (line: string) => {
    console.log(`${((performance.now() - startedAt) / 1_000).toFixed(0).padStart(4)} s  ${line}`)
  }
  const results: Result[] = []
  for (const name of options.only) results.push(...(await scenarios[name](present, options, progress)))
  progress('done')
  const proxies = Object.fromEntries(present.map((kind) => [kind.name, kind.version()]))
  const report = reportOf(options, proxies, missing, results)
  console.log(textOf(report))
  console.log(save(report))
}

function optionsOf(given: readonly string[]): Options | 'help' | null {
  try {
    return parseOptions(given)
  } catch (error) {
    console.error(`${error instanceof Error ? error.message : error}\n\n${USAGE}`)
    return null
  }
}

const options = optionsOf(process.argv.slice(2))
try {
  if (options === 'help') console.log(USAGE)
  else if (options === null) process.exitCode = 1
  else await run(options)
} catch (error) {
  console.error(error)
  process.exitCode = 1
}
