// Reloads of a running program: the three ways to ask for one, and what clients see of its config.

import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import type { Answer, Fleet } from './control.ts'
import { ask } from './control.ts'
import { upgradeRequest } from './origin.ts'
import { connectTo } from './peer.ts'
import { startProgram } from './program.ts'

/** Upgrades go to the origin, everything else gets `one`. */
export function site(origin: string, more = '', listeners = '[{ address: "127.0.0.1:0" }]'): string {
  return `listeners: ${listeners}
workers: 2
services:
  - id: chat
    domains: ["*"]
    websockets: on
    backends: [{ name: origin, address: "${origin}" }]
    routes:
      - match: { upgrade: websocket }
        handoff: origin
      - respond: { status: 200, body: one }
${more}`
}

/** As an editor does it: nobody ever reads a half. */
export function write({ folder }: Pick<Fleet, 'folder'>, file: string, text: string): void {
  writeFileSync(join(folder, `${file}.next`), text)
  renameSync(join(folder, `${file}.next`), join(folder, file))
}

/** Puts `text` in the place of `found` in the config. */
export function edit(fleet: Fleet, found: string, text: string): void {
  const config = readFileSync(join(fleet.folder, 'headrace.yaml'), 'utf8')
  if (!config.includes(found)) throw new Error(`no ${found} in ${config}`)
  write(fleet, 'headrace.yaml', config.replace(found, text))
}

export interface Outcome {
  readonly isDone: boolean
  /** One line for each problem, or what has changed. */
  readonly said: string
}

export type Way = (t: Test, fleet: Fleet) => Promise<Outcome>

const counts = new WeakMap<Fleet, number>()

/** The log must be at info. */
export const bySignal: Way = async (_, fleet) => {
  const seen = counts.get(fleet) ?? outcomes(fleet).length
  counts.set(fleet, seen + 1)
  fleet.program.child.kill('SIGHUP')
  while (outcomes(fleet).length <= seen) await fleet.program.line()
  const line = outcomes(fleet)[seen] ?? {}
  const problems = line.problems as readonly string[] | undefined
  return { isDone: problems === undefined, said: problems?.join('\n') ?? JSON.stringify(line) }
}

function outcomes(fleet: Fleet): Record<string, unknown>[] {
  return fleet.program.lines
    .filter((line) => /"msg":"(not )?reloaded/.test(line))
    .map((line) => JSON.parse(line) as Record<string, unknown>)
}

export const byCommand: Way = async (t, { folder }) => {
  const running = startProgram(t, ['reload', '--config', 'headrace.yaml'], { cwd: folder })
  const { code, stdout, stderr } = await running.ended
  if (code !== 0 && code !== 1) throw new Error(`exit code ${code}: ${stderr}`)
  return { isDone: code === 0, said: code === 0 ? stdout : stderr }
}

export const byRequest: Way = async (_, fleet) => {
  const { status, json, text } = await fleet.control('/reload', { method: 'POST' })
  if (status !== 200 && status !== 422) throw new Error(`${status}: ${text}`)
  return { isDone: status === 200, said: JSON.stringify(json) }
}

/** Requests enough that each of two workers has some: all answers, each once. */
export async function answers(address: string, path = '/', host = 'chat.test'): Promise<string[]> {
  const all: Answer[] = await Promise.all(
    Array.from({ length: 16 }, () => ask(address, path, { headers: { Host: host, Connection: 'close' } })),
  )
  return [...new Set(all.map(({ status, text }) => `${status} ${text}`))]
}

/** The same for upgrades: the status lines. */
export async function upgrades(t: Test, address: string, target = '/chat'): Promise<string[]> {
  const all = await Promise.all(
    Array.from({ length: 12 }, async () => {
      const client = await connectTo(t, address)
      client.write(upgradeRequest({}, target))
      const head = await client.until('\r\n\r\n')
      client.socket.destroy()
      return head.slice(0, head.indexOf('\r\n'))
    }),
  )
  return [...new Set(all)]
}
