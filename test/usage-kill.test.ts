// Usage and SIGKILL: the program in the middle of tunnels that open and close, and a process in the middle of its folding.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readdirSync, writeFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import type { Socket } from 'node:net'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import t from 'tap'
import { monthOf } from '../src/usage/minutes.ts'
import { readMonth } from '../src/usage/month.ts'
import { readUsage } from '../src/usage/usage.ts'
import { switching, upgradeRequest } from './support/origin.ts'
import { placeOf } from './support/peer.ts'
import { killWhole, startProgram } from './support/program.ts'
import { generator } from './support/splices.ts'

const RUNS = 10
const TUNNELS = 1_000
/** How many are open at once. */
const CROWD = 60
/** What a SIGKILL may cost, in ms. */
const MAY_BE_LOST_MS = 1_000

function newFolder(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'headrace-usage-'))
  t.teardown(() => rm(folder, { recursive: true, force: true }))
  return folder
}

/** What both sides of the tunnels see, and when. */
interface Counts {
  readonly connections: number
  readonly clientToOrigin: number
  readonly originToClient: number
}

const NONE: Counts = { connections: 0, clientToOrigin: 0, originToClient: 0 }

class Ledger {
  readonly #seen: { readonly at: number; readonly what: keyof Counts; readonly size: number }[] = []
  /** Given to a socket: nothing that is above that can be in a tunnel. */
  readonly given: Record<keyof Counts, number> = { ...NONE }

  see(what: keyof Counts, size: number): void {
    this.#seen.push({ at: performance.now(), what, size })
  }

  /** What had arrived by then. */
  by(time: number): Counts {
    const counts: Record<keyof Counts, number> = { ...NONE }
    for (const { at, what, size } of this.#seen) if (at <= time) counts[what] += size
    return counts
  }

  /** How long before `time` everything that was seen is in `counts`, in ms. */
  behind(counts: Counts, time: number): number {
    const sums: Record<keyof Counts, number> = { ...NONE }
    for (const { at, what, size } of this.#seen) {
      sums[what] += size
      if (at <= time && sums[what] > counts[what]) return time - at
    }
    return 0
  }
}

/** What is behind the head in the chunks of a connection. */
function behindHead(socket: Socket, headEnds: (head: string) => void, data: (size: number) => void): void {
  let head: string | null = ''
  socket.on('error', () => {})
  socket.on('data', (chunk: Buffer) => {
    if (head === null) return data(chunk.length)
    head += chunk.toString('latin1')
    const at = head.indexOf('\r\n\r\n')
    if (at === -1) return
    const size = head.length - at - 4
    const whole = head.slice(0, at + 4)
    head = null
    headEnds(whole)
    if (size > 0) data(size)
  })
}

/** An origin that sends back as many bytes as it gets. */
async function startCountingOrigin(t: Test, ledgers: { current: Ledger }): Promise<string> {
  const open = new Set<Socket>()
  const server = createServer({ noDelay: true }, (socket) => {
    const ledger = ledgers.current
    open.add(socket)
    socket.on('close', () => open.delete(socket))
    behindHead(
      socket,
      (head) => {
        ledger.given.connections += 1
        socket.write(switching(head))
      },
      (size) => {
        ledger.see('clientToOrigin', size)
        ledger.given.originToClient += size
        socket.write(Buffer.alloc(size, 'o'))
      },
    )
  })
  server.listen({ port: 0, host: '127.0.0.1', backlog: 1_024 })
  await once(server, 'listening')
  t.teardown(() => {
    for (const socket of open) socket.destroy()
    server.close()
  })
  return `127.0.0.1:${(server.address() as { port: number }).port}`
}

/** One tunnel from its request to its end: some messages there and back, some of them unanswered when it closes. */
async function live(address: string, ledger: Ledger, random: (below: number) => number): Promise<void> {
  const socket = connect({ ...placeOf(address), noDelay: true })
  const say = () => {
    const size = 1 + random(2_000)
    ledger.given.clientToOrigin += size
    socket.write(Buffer.alloc(size, 'c'))
  }
  let left = 1 + random(6)
  behindHead(
    socket,
    () => {
      ledger.see('connections', 1)
      const timer = setInterval(() => {
        left -= 1
        if (left > 0) say()
        else if (random(3) === 0) socket.resetAndDestroy()
        else socket.end()
      }, 20 + random(40))
      socket.on('close', () => clearInterval(timer))
      say()
    },
    (size) => ledger.see('originToClient', size),
  )
  socket.write(upgradeRequest())
  await new Promise((resolve) => socket.on('close', resolve))
}

/** Opens tunnels until so many were, or `signal` says that there is nobody any more. */
async function crowd(address: string, ledger: Ledger, seed: number, signal: AbortSignal): Promise<void> {
  const random = generator(seed)
  let begun = 0
  const one = async () => {
    while (begun < TUNNELS && !signal.aborted) {
      begun += 1
      await live(address, ledger, random)
    }
  }
  await Promise.all(Array.from({ length: CROWD }, one))
}

t.test(
  `a SIGKILL among ${TUNNELS} opening and closing tunnels costs a second at most, and counts nothing twice`,
  { timeout: 100_000 },
  async (t) => {
    const folder = newFolder(t)
    const stateDirectory = join(folder, 'state')
    const ledgers = { current: new Ledger() }
    const origin = await startCountingOrigin(t, ledgers)
    writeFileSync(
      join(folder, 'headrace.yaml'),
      `listeners: [{ address: "127.0.0.1:0" }]
services:
  - { id: chat, domains: ["*"], websockets: on, backends: [{ name: origin, address: "${origin}" }] }
log: { level: warn }
`,
    )
    const month = monthOf(Date.now())
    let before = (await readUsage(stateDirectory, month)).total
    for (let run = 1; run <= RUNS; run += 1) {
      const ledger = new Ledger()
      ledgers.current = ledger
      const program = startProgram(t, ['run', '--config', 'headrace.yaml'], { cwd: folder })
      const [, address = ''] = /^headrace listens on (\S+)$/.exec(await program.line()) ?? []
      const over = new AbortController()
      const all = crowd(address, ledger, run, over.signal)
      while (ledger.given.connections < 450 + 40 * run)
        await new Promise((resolve) => setTimeout(resolve, 10))
      const killedAt = performance.now()
      killWhole(program)
      over.abort()
      await program.ended
      await all
      const { total, skipped, troubles } = await readUsage(stateDirectory, month)
      const counted = {
        connections: total.connections - before.connections,
        minutes: total.minutes - before.minutes,
        clientToOrigin: total.bytes.clientToOrigin - before.bytes.clientToOrigin,
        originToClient: total.bytes.originToClient - before.bytes.originToClient,
      }
      before = total
      const least = ledger.by(killedAt - MAY_BE_LOST_MS)
      const { given } = ledger
      const behindMs = Math.round(ledger.behind(counted, killedAt))
      t.comment(`run ${run}: ${given.connections} tunnels, the journal was ${behindMs} ms behind`)
      t.ok(given.connections < TUNNELS, `in the middle: ${given.connections}`)
      for (const what of ['connections', 'clientToOrigin', 'originToClient'] as const) {
        t.ok(least[what] > 0 && counted[what] >= least[what], `${what}: ${counted[what]} of ${least[what]}`)
        t.ok(counted[what] <= given[what], `${what}: ${counted[what]}, no more than ${given[what]}`)
      }
      t.equal(counted.minutes, counted.connections, 'each of them shorter than a minute')
      t.strictSame([skipped, troubles], [{ torn: 0, foreign: 0 }, []], 'the journal reads clean')
    }
    const files = readdirSync(join(stateDirectory, 'usage', month))
    t.ok(files.length <= 3, `what the killed ones left was folded: ${files.join(', ')}`)
  },
)

const MONTH = '2026-11'
const FOLDS = 40

t.test(
  'a SIGKILL among writing and folding changes no sum, whenever it comes',
  { timeout: 100_000 },
  async (t) => {
    const folder = newFolder(t)
    mkdirSync(folder, { recursive: true })
    const script = fileURLToPath(new URL('./support/fold-process.js', import.meta.url))
    const random = generator(1)
    let before = 0
    let torn = 0
    const stages = new Set<string>()
    for (let run = 1; run <= FOLDS; run += 1) {
      const child = spawn('env', ['-u', 'NODE_OPTIONS', process.execPath, script, folder, MONTH])
      t.teardown(() => child.kill('SIGKILL'))
      const closed = once(child, 'close')
      let said = 0
      const lines = createInterface({ input: child.stdout })
      lines.on('line', (line) => {
        said = Number(line)
      })
      await Promise.race([once(lines, 'line'), closed])
      const killed = new Promise((resolve) => setTimeout(resolve, 5 + random(60))).then(() =>
        child.kill('SIGKILL'),
      )
      // Beside it, a reader sees everything that was said before, and nothing twice.
      for (let isOver = false; !isOver; ) {
        isOver = child.killed
        const least = before + said
        const { services } = await readMonth(folder, MONTH)
        const found = services.get('chat')?.connections ?? 0
        if (found < least) t.fail(`run ${run}: a reader found ${found}, ${least} were written`)
      }
      await killed
      await closed
      const { services, skipped, troubles } = await readMonth(folder, MONTH)
      const found = services.get('chat')?.connections ?? 0
      // The last line may have been written and not said.
      t.ok(
        found === before + said || found === before + said + 1,
        `run ${run}: ${found} of ${before} + ${said}`,
      )
      t.equal(services.get('chat')?.minutes, found)
      t.equal(skipped.foreign, 0)
      t.ok(skipped.torn <= torn + 1)
      t.strictSame(
        troubles.filter((one) => !/has [0-9]+ torn lines?, not counted$/.test(one)),
        [],
      )
      torn = skipped.torn
      before = found
      const names = readdirSync(join(folder, MONTH))
      stages.add(`${names.includes('summary.usage.new')} ${names.length > 3}`)
    }
    t.ok(before > FOLDS, `${before} lines`)
    t.ok(stages.size > 1, `killed in the middle: ${[...stages].join(', ')}`)
  },
)
