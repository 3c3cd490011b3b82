// A program of several processes in front of an echo, and its admin API.

import { once } from 'node:events'
import { mkdtempSync, readFileSync, realpathSync, writeFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import type { IncomingHttpHeaders } from 'node:http'
import { request } from 'node:http'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import { upgradeRequest } from './origin.ts'
import type { Peer } from './peer.ts'
import { connectTo, placeOf } from './peer.ts'
import type { How, Running } from './program.ts'
import { startProgram } from './program.ts'

export interface Answer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly text: string
  readonly json: unknown
}

export interface Asking {
  readonly method?: string
  readonly headers?: Readonly<Record<string, string>>
  /** A text is sent as it is, anything else as JSON. */
  readonly body?: unknown
}

/** `address`: host:port, or unix:/path. */
export async function ask(address: string, path: string, asking: Asking = {}): Promise<Answer> {
  const { method = 'GET', headers = {}, body } = asking
  const place = placeOf(address)
  const where = 'path' in place ? { socketPath: place.path } : place
  const text = typeof body === 'string' || body === undefined ? body : JSON.stringify(body)
  const type = typeof body === 'string' || body === undefined ? {} : { 'Content-Type': 'application/json' }
  return await new Promise((resolve, reject) => {
    const asked = request(
      { ...where, path, method, agent: false, headers: { ...type, ...headers } },
      (response) => {
        let received = ''
        response.setEncoding('utf8')
        response.on('data', (chunk) => {
          received += chunk
        })
        // One that does not end is asked for its beginning.
        if (response.headers['content-type'] === 'text/event-stream')
          response.once('data', () => response.emit('end'))
        response.on('end', () => {
          asked.destroy()
          const { statusCode = 0, headers: fields } = response
          const isJson = /json/.test(fields['content-type'] ?? '')
          resolve({
            status: statusCode,
            headers: fields,
            text: received,
            json: isJson ? JSON.parse(received) : null,
          })
        })
      },
    )
    asked.on('error', reject)
    asked.end(text)
  })
}

export interface Fleet {
  readonly program: Running
  readonly folder: string
  /** Of the listeners. */
  readonly addresses: readonly string[]
  /** The first of them. */
  readonly address: string
  /** Through the control socket. What was said before it was answered can be found by `said`. */
  control(path: string, asking?: Asking): Promise<Answer>
  /** The log lines with this message so far. */
  said(message: string): Record<string, unknown>[]
  /** Resolves when there are as many of them, with all. */
  says(message: string, count?: number): Promise<Record<string, unknown>[]>
  /** A client with an open tunnel. */
  open(): Promise<Peer>
}

export interface FleetOptions {
  readonly folder?: string
  /** Instead of the program: a node option, see program.ts. */
  readonly script?: string
  readonly words?: readonly string[]
  /** How the program is started: see program.ts. */
  readonly how?: Pick<How, 'environment' | 'launcher' | 'descriptors'>
}

export function newFolder(t: Test, files: Readonly<Record<string, string>> = {}): string {
  const folder = realpathSync(mkdtempSync(join(tmpdir(), 'headrace-')))
  t.teardown(() => rm(folder, { recursive: true, force: true, maxRetries: 5 }))
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text)
  return folder
}

/** A config with one service `chat`; `more` is appended. */
export function chatConfig(origin: string, more = 'workers: 2\n', listeners = ['127.0.0.1:0']): string {
  return `listeners: [${listeners.map((one) => `{ address: "${one}" }`).join(', ')}]
services:
  - id: chat
    domains: ["*"]
    websockets: on
    backends: [{ name: origin, address: "${origin}" }]
${more}`
}

export async function startFleet(t: Test, config: string, options: FleetOptions = {}): Promise<Fleet> {
  const { folder = newFolder(t), script, words = [], how = {} } = options
  writeFileSync(join(folder, 'headrace.yaml'), config)
  const all = [...words, 'run', '--config', 'headrace.yaml']
  const program = startProgram(t, all, { ...how, cwd: folder, ...(script === undefined ? {} : { script }) })
  const addresses = await listening(program)
  const [address = ''] = addresses
  const said = (message: string) =>
    program.lines
      .filter((line) => line.startsWith('{') && line.includes(message))
      .map((line) => JSON.parse(line) as Record<string, unknown>)
      .filter(({ msg }) => String(msg).startsWith(message))
  return {
    program,
    folder,
    addresses,
    address,
    async control(path, asking) {
      const answer = await ask(`unix:${folder}/state/control.sock`, path, asking)
      await readOut()
      return answer
    },
    said,
    async says(message, count = 1) {
      while (said(message).length < count) await program.line()
      return said(message)
    },
    open: () => openTunnel(t, address),
  }
}

/** Resolves when it listens, with the addresses. */
export async function listening(program: Running): Promise<string[]> {
  let line = await program.line()
  // A client that was there before it has a line of its own.
  while (line.startsWith('{')) line = await program.line()
  return line.replace('headrace listens on ', '').split(', ')
}

export async function openTunnel(t: Test, address: string): Promise<Peer> {
  const client = await connectTo(t, address)
  client.write(upgradeRequest())
  await client.until('\r\n\r\n')
  return client
}

export async function echoes(client: Peer, text: string): Promise<boolean> {
  client.write(text)
  return (await client.until(text)).endsWith(text)
}

export interface Worker {
  readonly name: string
  readonly pid: number
  readonly state: string
  readonly restarts: number
}

export async function workersOf(fleet: Fleet): Promise<readonly Worker[]> {
  const { json } = await fleet.control('/workers')
  return (json as { readonly workers: readonly Worker[] }).workers
}

/** Resolves when there is no such process any more; a zombie is none. */
export async function gone(pid: number): Promise<void> {
  const isThere = () => {
    try {
      return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
    } catch {
      return false
    }
  }
  while (isThere()) await new Promise((resolve) => setTimeout(resolve, 20))
  await readOut()
}

/** What a process has said comes by another way than what it answers or that it has gone: one turn later at most. */
async function readOut(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve))
}

/** Resolves when nobody accepts there any more. */
export async function closed(address: string): Promise<void> {
  const [host = '', port = ''] = address.split(':')
  for (;;) {
    const probe = connect(Number(port), host)
    const isOpen = await once(probe, 'connect').then(
      () => true,
      () => false,
    )
    probe.destroy()
    if (!isOpen) return
  }
}
