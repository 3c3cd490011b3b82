#!/usr/bin/env node
// The command line: words come in, a command runs, an exit code goes out.
//
// How it speaks: lower case and no full stop at the end; first what is wrong, then a hint on the next line.

import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { suggestion } from '../config/problems.ts'
import { HeadraceError } from '../errors.ts'
import { isMonth, monthOf } from '../usage/minutes.ts'
import { check, printSchema, run, usage } from './commands.ts'
import { demo } from './demo.ts'
import type { Wanted } from './usage.ts'

const USAGE = `usage: headrace COMMAND [OPTIONS]

commands:
  run --config FILE      run until SIGTERM or SIGINT; a second signal ends it at once
  check --config FILE    say what is wrong with a config, and do nothing else
  usage --config FILE    connections, minutes and bytes of each service, of all processes; while it runs, up to now
        [--month 2026-11] [--service ID] [--json | --csv]
  demo [--port N]        a chat through the tunnel, to try in two browser tabs; default port 8080
  schema                 print the JSON Schema of the config, for editors

options:
  --help, --version

exit codes: 0 all is well, 1 the config is not valid, 2 wrong usage, 3 could not listen or keep usage, 70 a fault of headrace

example:
  headrace check --config headrace.yaml && headrace run --config headrace.yaml
`

/** Each with the options that it takes. */
const COMMANDS = new Map<string, readonly string[]>([
  ['run', ['config']],
  ['check', ['config']],
  ['usage', ['config', 'month', 'service', 'json', 'csv']],
  ['demo', ['port']],
  ['schema', []],
])

class UsageError extends Error {}

async function main(words: readonly string[]): Promise<number> {
  const { values, positionals } = readWords(words)
  if (values.help) return print(USAGE)
  if (values.version) return print(`${version()}\n`)
  const [command, ...more] = positionals
  if (command === undefined) throw new UsageError('no command given')
  if (more.length > 0) throw new UsageError(`unexpected word "${more.join(' ')}"`)
  const taken = COMMANDS.get(command)
  if (taken === undefined) {
    throw new UsageError(`unknown command "${command}"${suggestion(command, [...COMMANDS.keys()])}`)
  }
  const stray = Object.keys(values).find((option) => !taken.includes(option))
  if (stray !== undefined) throw new UsageError(`${command} takes no --${stray}`)
  if (command === 'demo') return await demo(portOf(values))
  if (command === 'schema') return printSchema()
  const file = configOf(values, command)
  if (command === 'usage') return await usage(file, wantedOf(values))
  return command === 'run' ? await run(file) : await check(file)
}

interface Values {
  readonly help?: boolean
  readonly version?: boolean
  readonly config?: string
  readonly port?: string
  readonly month?: string
  readonly service?: string
  readonly json?: boolean
  readonly csv?: boolean
}

function readWords(words: readonly string[]): { values: Values; positionals: string[] } {
  const options = {
    help: { type: 'boolean', short: 'h' },
    version: { type: 'boolean', short: 'v' },
    config: { type: 'string', short: 'c' },
    port: { type: 'string', short: 'p' },
    month: { type: 'string', short: 'm' },
    service: { type: 'string', short: 's' },
    json: { type: 'boolean' },
    csv: { type: 'boolean' },
  } as const
  try {
    return parseArgs({ args: [...words], options, allowPositionals: true })
  } catch (error) {
    const [sentence = ''] = (error as Error).message.split('. ')
    const [, unknown] = /^Unknown option '(--[^']+)'/.exec(sentence) ?? []
    const names = Object.keys(options).map((name) => `--${name}`)
    const hint = unknown === undefined ? '' : suggestion(unknown, names)
    throw new UsageError(sentence.charAt(0).toLowerCase() + sentence.slice(1) + hint)
  }
}

function configOf({ config }: Values, command: string): string {
  if (config === undefined) throw new UsageError(`${command} needs --config FILE`)
  return config
}

function portOf({ port }: Values): number | undefined {
  if (port === undefined) return undefined
  if (!/^[0-9]{1,5}$/.test(port) || Number(port) > 65_535) throw new UsageError(`"${port}" is no port`)
  return Number(port)
}

function wantedOf({ month = monthOf(Date.now()), service, json, csv }: Values): Wanted {
  if (!isMonth(month)) throw new UsageError(`"${month}" is no month: write such as 2026-11`)
  if (json && csv) throw new UsageError('--json and --csv exclude each other')
  return { month, service, form: json ? 'json' : csv ? 'csv' : 'table' }
}

/** What keeps an edge from its start, and is no mistake in its config. */
const CANNOT_START = new Set<string>(['listen-failed', 'state-locked', 'state-failed'])

function version(): string {
  const file = new URL('../../package.json', import.meta.url)
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version
}

function print(text: string): number {
  process.stdout.write(text)
  return 0
}

function explain(error: unknown): number {
  if (error instanceof UsageError) {
    process.stderr.write(`headrace: ${error.message}\nsee headrace --help\n`)
    return 2
  }
  if (!(error instanceof HeadraceError)) {
    process.stderr.write(`headrace: ${error instanceof Error ? error.stack : String(error)}\n`)
    return 70
  }
  process.stderr.write(`headrace: ${error.message}\nhint: ${error.remedy}\n`)
  return CANNOT_START.has(error.code) ? 3 : 1
}

process.exitCode = await main(process.argv.slice(2)).catch(explain)
// Watchers and pools must not keep a program alive that has said its last word.
process.exit()
