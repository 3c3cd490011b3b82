// What is done to the program, its clients and its origins. Each is one function; it says whose tunnels may end by it, by
// their `excuse`, before it strikes, and returns how many it meant.

import { setTimeout as sleep } from 'node:timers/promises'
import { exhaustDescriptors } from './exhaust.ts'
import { pathOf } from './pair.ts'
import { killControl, killWorker, recycleWorker } from './process-faults.ts'
import { reloadBroken, reloadChanged, reloadWhileKilled } from './reload-faults.ts'
import { stalled } from './stalling.ts'
import type { Stand } from './stand.ts'
import { ended, mustOpen, mustSay } from './stand.ts'
import {
  upgradeByCommand,
  upgradeBySignal,
  upgradeOnFullDisk,
  upgradeWhileKilled,
  upgradeWhilePrimaryKilled,
  upgradeWhileStalled,
} from './upgrade-faults.ts'

export interface Fault {
  readonly name: string
  /** Why it can't be done here. */
  lacks?(stand: Stand): Promise<string | null> | string | null
  /** Returns how many tunnels it meant. */
  strike(stand: Stand): Promise<number>
}

/** What an origin that does not accept, or does not answer, is told to clients as. */
const NO_ORIGIN = [502, 503, 504]
/** A journal goes on in the page that it has begun: it is small, and so are the lines. */
const LAST_PAGE_MS = 60_000
const FORBIDDEN = [403]

export const faults: readonly Fault[] = [
  { name: 'nothing', strike: nothing },
  { name: 'worker killed', strike: killWorker },
  { name: 'control process killed', strike: killControl },
  { name: 'worker recycled', strike: recycleWorker },
  { name: 'upgrade, by command', lacks: knowsUpgrade, strike: upgradeByCommand },
  { name: 'upgrade, by signal', lacks: knowsUpgrade, strike: upgradeBySignal },
  { name: 'upgrade, bytes held back', lacks: knowsUpgrade, strike: upgradeWhileStalled },
  { name: 'upgrade, a worker killed', lacks: knowsUpgrade, strike: upgradeWhileKilled },
  { name: 'upgrade, the new primary killed', lacks: knowsUpgrade, strike: upgradeWhilePrimaryKilled },
  { name: 'upgrade, disk full', lacks: knowsUpgradeAndDisk, strike: upgradeOnFullDisk },
  { name: 'reload, changed', strike: reloadChanged },
  { name: 'reload, broken', strike: reloadBroken },
  { name: 'reload, a worker killed', strike: reloadWhileKilled },
  { name: 'clients reset', strike: (stand) => reset(stand, 'client') },
  { name: 'origins reset', strike: (stand) => reset(stand, 'origin') },
  { name: 'clients stall', strike: (stand) => stall(stand, 'client') },
  { name: 'origins stall', strike: (stand) => stall(stand, 'origin') },
  { name: 'origin refuses', strike: originRefuses },
  { name: 'origin hangs', strike: originHangs },
  { name: 'disk full', lacks: hasDisk, strike: fillDisk },
  { name: 'descriptors exhausted', strike: exhaustDescriptors },
  { name: 'switched off and on', strike: switchOff },
  { name: 'ended by operator', strike: endByOperator },
]

async function knowsUpgrade({ program }: Stand): Promise<string | null> {
  const { stdout } = await program.command('--help')
  return /^ {2}upgrade /m.test(stdout) ? null : 'this headrace has no command upgrade'
}

function hasDisk({ disk }: Stand): string | null {
  return typeof disk === 'string' ? disk : null
}

async function knowsUpgradeAndDisk(stand: Stand): Promise<string | null> {
  return hasDisk(stand) ?? (await knowsUpgrade(stand))
}

/** What the others are compared with. */
async function nothing({ options }: Stand): Promise<number> {
  await sleep(options.holdMs)
  return 0
}

async function reset(stand: Stand, by: 'client' | 'origin'): Promise<number> {
  const meant = stand.random.some(stand.traffic.open, 1 + stand.random.below(10))
  for (const pair of meant) pair.reset(by)
  await ended(stand, meant, `reset by their ${by}`)
  return meant.length
}

/** They read nothing for a while, and more is sent to them than fits. */
async function stall(stand: Stand, who: 'client' | 'origin'): Promise<number> {
  const { pairs, over } = stalled(stand, who)
  await sleep(stand.options.holdMs)
  over()
  return pairs.length
}

async function originRefuses(stand: Stand): Promise<number> {
  const { options, origin, traffic } = stand
  traffic.allowed = NO_ORIGIN
  await origin.refuse()
  const until = performance.now() + options.holdMs
  const { outcome } = await traffic.dial()
  if (outcome === 101) stand.fail('a tunnel came to be although its origin refuses')
  await sleep(until - performance.now())
  await origin.answer()
  await mustOpen(stand, 4, 5_000, 'after its origin accepted again')
  traffic.allowed = []
  return 0
}

async function originHangs(stand: Stand): Promise<number> {
  const { options, origin, traffic } = stand
  traffic.allowed = NO_ORIGIN
  origin.hang()
  await sleep(options.holdMs)
  // Longer than firstByteTimeout: it has met somebody.
  const { outcome } = await traffic.dial()
  if (outcome !== 504) stand.fail(`an origin that hangs was told as ${outcome}, not as 504`)
  await origin.answer()
  await traffic.hold()
  traffic.allowed = []
  traffic.start()
  await mustOpen(stand, 4, 5_000, 'after its origin answered again')
  return 0
}

async function fillDisk(stand: Stand): Promise<number> {
  const { disk, options, program, traffic } = stand
  if (typeof disk === 'string') return 0
  const told = () => program.lines.filter((line) => line.includes('"usage-unwritten"')).length
  const before = told()
  disk.fill()
  await traffic.until(() => told() > before, 'a full disk is told', LAST_PAGE_MS)
  await sleep(options.holdMs)
  await mustOpen(stand, 4, 1_000, 'while the disk is full')
  disk.free()
  // It is tried again four times a second.
  await sleep(1_000)
  return 0
}

async function switchOff(stand: Stand): Promise<number> {
  const { traffic, fail } = stand
  traffic.allowed = FORBIDDEN
  await mustSay(stand, ['websockets', 'off', 'soak'])
  const openings = await Promise.all(Array.from({ length: 8 }, () => traffic.dial()))
  if (openings.some(({ outcome }) => outcome !== 403)) fail('a tunnel came to be although its service is off')
  await mustSay(stand, ['websockets', 'on', 'soak'])
  await traffic.hold()
  traffic.allowed = []
  traffic.start()
  await mustOpen(stand, 8, 5_000, 'after the product was switched on')
  return 0
}

async function endByOperator(stand: Stand): Promise<number> {
  const { program, random, traffic } = stand
  const meant = random.some(traffic.open, 4).flatMap((pair) => {
    const line = program.lines.find((one) =>
      one.includes(`"path":"${pathOf(pair.id)}","msg":"tunnel accepted"`),
    )
    return line === undefined ? [] : [{ pair, id: (JSON.parse(line) as { readonly id: string }).id }]
  })
  for (const [at, { pair, id }] of meant.entries()) {
    // One that is being closed in order may be gone already.
    if (pair.state !== 'open') continue
    pair.excuse = 'ended by the operator'
    await mustSay(stand, ['tunnels', 'end', id, ...(at % 2 === 0 ? ['--reset'] : [])])
  }
  const pairs = meant.map(({ pair }) => pair)
  await ended(stand, pairs, 'by the operator')
  return pairs.length
}
