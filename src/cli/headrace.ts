#!/usr/bin/env node
// The command line: words come in, a command runs, an exit code goes out.
//
// How it speaks: lower case and no full stop at the end; first what is wrong, then a hint on the next line.

import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { suggestion } from '../config/problems.ts'
import { HeadraceError } from '../errors.ts'
import { isMonth, monthOf } from '../usage/minutes.ts'
import type { Wanted } from './usage.ts'
import { UsageError } from './usage-error.ts'

const USAGE = `usage: headrace COMMAND [OPTIONS]

commands:
  run --config FILE      run until SIGTERM or SIGINT; a second signal ends it at once
  run --fastly FILE | --worker FILE [--backend NAME=ADDRESS …] [--listen ADDRESS …]
                         a program of Fastly Compute or Cloudflare Workers, as it is; default 127.0.0.1:8080
  check --config FILE    say what is wrong with a config, and do nothing else
  usage --config FILE    connections, minutes and bytes of each service, of all processes; while it runs, up to now
        [--month 2026-11] [--service ID] [--json | --csv]
  demo [--port N]        a chat through the tunnel, to try in two browser tabs; default port 8080
  schema                 print the JSON Schema of the config, for editors

of a program that runs (--config FILE says which):
  health                 0 if it takes new connections, else 1 and why: for probes that run a command
  websockets on|off SERVICE [--close-tunnels]            the product switch; kept, also if nothing runs
  reload                                                 read config, handlers, certificates, tokens again: all or nothing
  tunnels list [--service ID] [--limit N] [--json]       open tunnels, the oldest first
  tunnels end ID [--reset], or --service ID [--reset]    end one, or all of a service
  upgrade                                                the release on the disk takes over, open tunnels live on
  drain [--timeout 30s] [--wait]                         end it as SIGTERM does, with another drainTimeout
        [--worker worker-1]                              only this worker, whose place a fresh one takes

tokens of the admin API (--config FILE has admin.tokens):
  token create --name NAME --role user|engineer|superuser
  token list
  token revoke --name NAME

options:
  --help, --version

exit codes: 0 all is well, 1 the config is not valid or what was asked can't be done, 2 wrong usage,
            3 could not listen or keep state, 4 tunnels were cut at the end, 70 a fault of headrace

example:
  headrace check --config headrace.yaml && headrace run --config headrace.yaml
`

interface Command {
  /** The options that it takes. */
  readonly options: readonly string[]
  /** How many words may follow it. */
  readonly words: number
  run(values: Values, words: readonly string[]): Promise<number>
}

/** Each loads what it needs when it is meant: a probe asks `health` every few seconds, and needs little of the program. */
const COMMANDS: Readonly<Record<string, Command>> = {
  run: {
    options: ['config', 'fastly', 'worker', 'backend', 'listen'],
    words: 0,
    async run(values) {
      const isProgram = values.fastly !== undefined || values.worker !== undefined
      const file = isProgram ? null : configOf(values, 'run')
      if (isProgram && values.config !== undefined)
        throw new UsageError('run takes --config, or --fastly or --worker')
      const { run, runProgram } = await import('./run.ts')
      return await (file === null ? runProgram(values) : run(file))
    },
  },
  check: {
    options: ['config'],
    words: 0,
    run: async (values) => (await import('./check.ts')).check(configOf(values, 'check')),
  },
  demo: {
    options: ['port'],
    words: 0,
    run: async (values) => (await import('./demo.ts')).demo(portOf(values)),
  },
  schema: { options: [], words: 0, run: async () => (await import('./schema.ts')).printSchema() },
  usage: {
    options: ['config', 'month', 'service', 'json', 'csv'],
    words: 0,
    async run(values) {
      const [file, wanted] = [configOf(values, 'usage'), wantedOf(values)]
      return await (await import('./usage.ts')).usage(file, wanted)
    },
  },
  health: {
    options: ['config'],
    words: 0,
    run: async (values) => (await import('./health.ts')).health(configOf(values, 'health')),
  },
  websockets: {
    options: ['config', 'close-tunnels'],
    words: 2,
    async run(values, words) {
      const { switchWebsockets } = await import('./switching.ts')
      const mayClose = values['close-tunnels'] ?? false
      return await switchWebsockets(configOf(values, 'websockets'), words, mayClose)
    },
  },
  reload: {
    options: ['config'],
    words: 0,
    run: async (values) => (await import('./reload.ts')).reload(configOf(values, 'reload')),
  },
  tunnels: {
    options: ['config', 'service', 'limit', 'json', 'reset'],
    words: 2,
    async run(values, [act, id]) {
      const file = configOf(values, 'tunnels')
      const { endTunnels, listTunnels } = await import('./tunnels.ts')
      if (act === 'list' && id === undefined) return await listTunnels(file, values)
      if (act === 'end') return await endTunnels(file, id, values)
      throw new UsageError('write tunnels list, or tunnels end')
    },
  },
  upgrade: {
    options: ['config'],
    words: 0,
    run: async (values) => (await import('./upgrade.ts')).upgrade(configOf(values, 'upgrade')),
  },
  drain: {
    options: ['config', 'worker', 'timeout', 'wait'],
    words: 0,
    run: async (values) => (await import('./drain.ts')).drain(configOf(values, 'drain'), values),
  },
  token: {
    options: ['config', 'name', 'role'],
    words: 1,
    async run(values, [act]) {
      const file = configOf(values, 'token')
      const { createOne, listAll, revokeOne } = await import('./tokens.ts')
      if (act === 'create') return await createOne(file, values)
      if (act === 'list') return await listAll(file)
      if (act === 'revoke') return await revokeOne(file, values)
      throw new UsageError('write token create, token list or token revoke')
    },
  },
}

async function main(words: readonly string[]): Promise<number> {
  const { values, positionals } = readWords(words)
  if (values.help) return print(USAGE)
  if (values.version) return print(`${version()}\n`)
  const [name, ...more] = positionals
  if (name === undefined) throw new UsageError('no command given')
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined
  const stray = more.slice(command?.words ?? 0)
  if (stray.length > 0) throw new UsageError(`unexpected word "${stray.join(' ')}"`)
  if (command === undefined) {
    throw new UsageError(`unknown command "${name}"${suggestion(name, Object.keys(COMMANDS))}`)
  }
  const foreign = Object.keys(values).find((option) => !command.options.includes(option))
  if (foreign !== undefined) throw new UsageError(`${name} takes no --${foreign}`)
  return await command.run(values, more)
}

interface Values {
  readonly help?: boolean
  readonly version?: boolean
  readonly config?: string
  readonly fastly?: string
  readonly backend?: string[]
  readonly listen?: string[]
  readonly port?: string
  readonly name?: string
  readonly role?: string
  readonly service?: string
  readonly limit?: string
  readonly month?: string
  readonly json?: boolean
  readonly csv?: boolean
  readonly reset?: boolean
  readonly 'close-tunnels'?: boolean
  readonly worker?: string
  readonly timeout?: string
  readonly wait?: boolean
}

function readWords(words: readonly string[]): { values: Values; positionals: string[] } {
  const options = {
    help: { type: 'boolean', short: 'h' },
    version: { type: 'boolean', short: 'v' },
    config: { type: 'string', short: 'c' },
    fastly: { type: 'string' },
    backend: { type: 'string', multiple: true },
    listen: { type: 'string', multiple: true },
    port: { type: 'string', short: 'p' },
    name: { type: 'string' },
    role: { type: 'string' },
    service: { type: 'string', short: 's' },
    limit: { type: 'string' },
    month: { type: 'string', short: 'm' },
    json: { type: 'boolean' },
    csv: { type: 'boolean' },
    reset: { type: 'boolean' },
    'close-tunnels': { type: 'boolean' },
    worker: { type: 'string', short: 'w' },
    timeout: { type: 'string', short: 't' },
    wait: { type: 'boolean' },
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
const CANNOT_START = new Set<string>([
  'listen-failed',
  'activation-failed',
  'user-unavailable',
  'state-locked',
  'state-failed',
])

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

// Whoever reads may leave early, as `head` does.
process.stdout.on('error', () => process.exit())
process.exitCode = await main(process.argv.slice(2)).catch(explain)
// A pipe takes what was said at its reader's speed.
await new Promise((said) => process.stdout.write('', said))
// Watchers and pools must not keep a program alive that has said its last word.
process.exit()
