// `npm run bench`: runs the scenarios in order, prints tables, writes JSON. Ends with 1 if a byte was wrong, a tunnel was
// lost, or anything else failed. Linux only: what processes cost is read from /proc.

import { openAccounting } from './accounting/accounting.ts'
import { bulk } from './bulk.ts'
import { churn } from './churn.ts'
import { concurrency } from './concurrency.ts'
import type { Result } from './figures.ts'
import { messages } from './messages.ts'
import { micro } from './micro.ts'
import { observed } from './observed.ts'
import type { Options, ScenarioName } from './options.ts'
import { parseOptions, USAGE } from './options.ts'
import type { PeerKind } from './peers/peer.ts'
import { peerKinds } from './peers/peers.ts'
import { aboutThis } from './report/about.ts'
import type { Report } from './report/report.ts'
import { save } from './report/report.ts'
import { textOf } from './report/text.ts'
import type { Scenario } from './scenario.ts'
import { attempt } from './scenario.ts'
import { serve } from './serve.ts'

const scenarios: Readonly<Record<ScenarioName, Scenario>> = {
  concurrency,
  messages,
  bulk,
  churn,
  observed,
  serve,
  micro,
}

async function run(options: Options, command: string): Promise<Report> {
  const { present, missing } = rollCall(options.proxies)
  const accounting = await openAccounting()
  const startedAt = performance.now()
  const progress = (line: string) => {
    console.log(`${((performance.now() - startedAt) / 1_000).toFixed(0).padStart(4)} s  ${line}`)
  }
  try {
    const results: Result[] = []
    const failures: string[] = []
    const failed = (what: string) => {
      failures.push(what)
      progress(`FAILED: ${what}`)
    }
    const surroundings = { kinds: present, accounting, options, progress, failed }
    for (const name of options.only) {
      results.push(...(await attempt(surroundings, name, () => scenarios[name](surroundings))))
    }
    progress('done')
    const proxies = Object.fromEntries(present.map((kind) => [kind.name, kind.version()]))
    const about = aboutThis(command, accounting.how, proxies, missing)
    return { ...about, smoke: options.smoke, results, failures }
  } finally {
    await accounting.stop()
  }
}

/** Who was asked for and is there, and who is missing, and why. */
function rollCall(names: readonly string[]): { present: PeerKind[]; missing: Record<string, string> } {
  const missing: Record<string, string> = {}
  const present = peerKinds.filter((kind) => {
    if (!names.includes(kind.name)) return false
    const why = kind.missing()
    if (why !== null) missing[kind.name] = why
    return why === null
  })
  return { present, missing }
}

function optionsOf(given: readonly string[]): Options | 'help' | null {
  try {
    return parseOptions(given)
  } catch (error) {
    console.error(`${error instanceof Error ? error.message : error}\n\n${USAGE}`)
    return null
  }
}

const given = process.argv.slice(2)
const options = optionsOf(given)
if (options === 'help') console.log(USAGE)
else if (options === null) process.exitCode = 1
else {
  const report = await run(
    options,
    ['npm run bench', ...(given.length > 0 ? ['--', ...given] : [])].join(' '),
  )
  console.log(textOf(report))
  console.log(save(report))
  if (report.failures.length > 0) process.exitCode = 1
}
