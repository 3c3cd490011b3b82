// An operator as a process: all tunnels are listed page by page, metrics are scraped and the page is open, for a while.

import type { IncomingMessage } from 'node:http'
import { Agent, get } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { answerCalls } from '../process.ts'

export interface Watched {
  /** How often all tunnels were listed, and how many of them each time. */
  readonly listings: number
  readonly tunnels: number
  readonly scrapes: number
  /** Each of one second of the page. */
  readonly pulses: number
}

const INTERVAL_MS = 1_000
/** The most that the admin API gives at a time. */
const PAGE = 1_000

const agent = new Agent({ keepAlive: true })

function ask(admin: string, path: string): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    get(`http://${admin}${path}`, { agent }, resolve).on('error', reject)
  })
}

async function read(admin: string, path: string): Promise<string> {
  const response = await ask(admin, path)
  let text = ''
  for await (const chunk of response.setEncoding('utf8')) text += chunk
  if (response.statusCode !== 200) throw new Error(`${path}: ${response.statusCode} ${text}`)
  return text
}

async function list(admin: string): Promise<number> {
  let tunnels = 0
  for (let cursor = ''; ; ) {
    const page = JSON.parse(await read(admin, `/tunnels?limit=${PAGE}${cursor}`)) as {
      readonly tunnels: readonly unknown[]
      readonly next: string | null
    }
    tunnels += page.tunnels.length
    if (page.next === null) return tunnels
    cursor = `&cursor=${page.next}`
  }
}

/** Once each second, and at least once; one that takes longer is not overtaken. */
async function eachSecond(until: number, act: () => Promise<void>): Promise<number> {
  for (let count = 1; ; count += 1) {
    const next = performance.now() + INTERVAL_MS
    await act()
    if (next >= until) return count
    await sleep(next - performance.now())
  }
}

const calls = {
  /** For `ms`, and until the last answer has come. */
  async watch(admin: string, ms: number): Promise<Watched> {
    const until = performance.now() + ms
    const stream = await ask(admin, '/events')
    let pulses = 0
    stream.setEncoding('utf8').on('data', (text: string) => {
      pulses += text.split('event: pulse').length - 1
    })
    let tunnels = 0
    const [listings, scrapes] = await Promise.all([
      eachSecond(until, async () => {
        tunnels = await list(admin)
      }),
      eachSecond(until, async () => {
        await read(admin, '/metrics')
      }),
    ])
    stream.destroy()
    return { listings, tunnels, scrapes, pulses }
  },
}

export type WatcherCalls = typeof calls
answerCalls(calls)
