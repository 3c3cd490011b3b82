// Reloads, asked for by signal and by command in turn.

import { setTimeout as sleep } from 'node:timers/promises'
import { kill } from './process-faults.ts'
import type { Stand } from './stand.ts'
import { ended, mustOpen, mustSay, restored } from './stand.ts'

/** What the command takes, more or less: a worker is killed somewhere in it. */
const RELOAD_MS = 900
const DONE = '"msg":"reloaded"'
const REJECTED = '"msg":"not reloaded: nothing has changed"'

/** Other limits, other fields, and a listener more, that a tunnel is opened through; it goes again, the tunnel stays. */
export async function reloadChanged(stand: Stand): Promise<number> {
  const { program, random, spare, traffic, config } = stand
  const { listeners, services } = config() as { listeners: object[]; services: object[] }
  const headers = { set: { 'X-Soak': String(random.below(1_000)) } }
  program.configure(
    config({
      listeners: [...listeners, { address: spare }],
      services: services.map((one) => ({ ...one, headers })),
      limits: { headTimeout: `${5 + random.below(10)}s` },
    }),
  )
  await bySignal(stand, DONE)
  await traffic.dial(spare)
  await mustOpen(stand, 4, 1_000, 'after a reload')
  program.configure(config())
  await mustSay(stand, ['reload'])
  return traffic.open.length
}

export async function reloadBroken(stand: Stand): Promise<number> {
  const { program, traffic, config, random } = stand
  const texts = [
    'listeners: [',
    JSON.stringify(config({ listners: [] })),
    JSON.stringify(config({ workers: 5 })),
    JSON.stringify(config({ tracing: './no-such-module.js' })),
    '',
  ]
  for (const text of random.some(texts, 2)) {
    program.configure(text)
    await mustSay(stand, ['reload'], 1)
    await bySignal(stand, REJECTED)
  }
  program.configure(config())
  await bySignal(stand, DONE)
  await mustOpen(stand, 4, 1_000, 'after a rejected reload')
  return traffic.open.length
}

/** A worker dies in the middle of it: whatever was decided, all that live then have it. */
export async function reloadWhileKilled(stand: Stand): Promise<number> {
  const { program, random, config } = stand
  program.configure(config({ limits: { headTimeout: `${5 + random.below(10)}s` } }))
  const [pid = 0] = random.some(program.pids('worker'), 1)
  const reloading = program.command('reload')
  await sleep(random.below(RELOAD_MS))
  const meant = await kill(stand, pid)
  const { code, stderr } = await reloading
  if (code !== 0 && !/worker|process/.test(stderr))
    stand.fail(`reload while a worker was killed: ${code} ${stderr.trim()}`)
  await ended(stand, meant, 'their worker was killed')
  await restored(stand)
  program.configure(config())
  await mustSay(stand, ['reload'])
  return meant.length
}

async function bySignal({ program, traffic }: Stand, line: string): Promise<void> {
  const count = () => program.lines.filter((one) => one.includes(line)).length
  const before = count()
  const [primary = 0] = program.pids('primary')
  process.kill(primary, 'SIGHUP')
  await traffic.until(() => count() > before, `SIGHUP is answered with ${line}`)
}
