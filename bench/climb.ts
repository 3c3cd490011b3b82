// One climb: a stand is taken from few tunnels to many, and looked at on each rung.

import { setTimeout as sleep } from 'node:timers/promises'
import type { Accounting } from './accounting/accounting.ts'
import { cpuNs, kernelBytes, processBytes } from './accounting/proc.ts'
import type { Spending } from './accounting/windows.ts'
import { touches } from './accounting/windows.ts'
import type { Rate } from './crowd.ts'
import { askEach, connectionsAtOrigins, openUpTo, pace, reset } from './crowd.ts'
import { quantile } from './figures.ts'
import type { Paced } from './load/pacing.ts'
import type { Stand } from './stand.ts'

export interface Climb {
  /** Tunnels through each process that are opened and closed first, so that compiled code is not counted as the tunnels'. */
  readonly warmUp: number
  /** How long a process may take to come to rest before its memory is read. */
  readonly patienceMs: number
  readonly idleMs: number
  /** Questions per second, whatever the number of tunnels. */
  readonly perSecond: number
  readonly talkMs: number
  /** Rounds of talking for each share. */
  readonly rounds: number
}

export interface Rung {
  readonly tunnels: number
  /** What the proxy's processes hold, and that less what they held before the first tunnel. */
  readonly processBytes: number
  readonly grownBytes: number
  /** The same of the kernel: all ends of all connections are on this machine. */
  readonly kernelBytes: number
  readonly openedPerSecond: number
  /** From the dial to the 101. */
  readonly openMs: { readonly p50: number; readonly p99: number }
  /** Share of a CPU that the proxy takes while nobody talks. */
  readonly idleShare: number
  readonly talks: readonly Talk[]
}

export interface Talk {
  /** Of the tunnels. */
  readonly share: number
  /** Milliseconds from a question to its answer, of those that no stall of a CPU touched. */
  readonly p50: number
  readonly p99: number
  /** Of the proxy for each relayed message, kernel threads included, in clean windows. */
  readonly cpuUs: number
  readonly cleanShare: number
  readonly lateP99: number
}

const TRAFFIC = { kind: 'echo', size: 64 } as const
const SHARES = [0.01, 0.1]
const KERNEL_MS = 1_500
const WARM_UP_MS = 300
/** The accounts are open a little longer than the talk lasts: each answer's stalls are known. */
const LEAD_MS = 50

export async function climb(
  stand: Stand,
  accounting: Accounting,
  counts: readonly number[],
  plan: Climb,
): Promise<Rung[]> {
  await openUpTo(stand, plan.warmUp * stand.peers.length, TRAFFIC)
  await askEach(stand)
  await reset(stand)
  await settle(stand, plan.patienceMs)
  const before = { process: processBytes(stand.pids.proxy), kernel: kernelBytes() }
  const rungs: Rung[] = []
  for (const tunnels of counts) {
    const opened = await openUpTo(stand, tunnels, TRAFFIC)
    await settle(stand, plan.patienceMs)
    opened.waits.sort()
    const held = { process: processBytes(stand.pids.proxy), kernel: kernelBytes() }
    rungs.push({
      tunnels,
      processBytes: held.process,
      grownBytes: held.process - before.process,
      kernelBytes: held.kernel - before.kernel,
      openedPerSecond: opened.waits.length / opened.seconds,
      openMs: { p50: quantile(opened.waits, 0.5), p99: quantile(opened.waits, 0.99) },
      idleShare: await idleShare(stand, plan.idleMs),
      talks: await talk(stand, accounting, plan),
    })
    const open = await connectionsAtOrigins(stand)
    if (open !== tunnels)
      throw new Error(`${stand.name}: the origins have ${open} connections for ${tunnels} tunnels`)
  }
  // Idle, but alive, every one of them.
  await askEach(stand)
  await connectionsAtOrigins(stand)
  await reset(stand)
  return rungs
}

async function settle({ peers }: Stand, patienceMs: number): Promise<void> {
  // The kernel frees and gathers for about a second, too.
  await Promise.all([sleep(Math.min(patienceMs, KERNEL_MS)), ...peers.map((peer) => peer.settle(patienceMs))])
}

async function idleShare({ pids }: Stand, ms: number): Promise<number> {
  const before = cpuNs(pids.proxy)
  await sleep(ms)
  return (cpuNs(pids.proxy) - before) / 1e6 / ms
}

async function talk(stand: Stand, accounting: Accounting, plan: Climb): Promise<Talk[]> {
  const talks: Talk[] = []
  // Not counted: code that has not run yet is slow.
  await pace(stand, { share: 1, perSecond: plan.perSecond }, WARM_UP_MS)
  for (const share of SHARES) {
    const rate: Rate = { share, perSecond: plan.perSecond }
    for (let round = 0; round < plan.rounds; round += 1) {
      const accounts = accounting.during(stand.pids, plan.talkMs + 2 * LEAD_MS)
      await sleep(LEAD_MS)
      const paced = await pace(stand, rate, plan.talkMs)
      talks.push(talkOf(share, paced, await accounts))
    }
  }
  return talks
}

/** Answers that a stall touches are left out. */
export function talkOf(share: number, { askedAt, tookMs, lateMs }: Paced, spent: Spending): Talk {
  const clean = tookMs.filter((took, at) => {
    const from = askedAt[at] ?? 0
    return !touches(from, from + took * 1e6, spent.stalls)
  })
  clean.sort()
  // A message is a segment to the proxy and one from it.
  const messages = spent.segments / 2
  return {
    share,
    p50: quantile(clean, 0.5),
    p99: quantile(clean, 0.99),
    cpuUs: (spent.proxy + spent.kernel) / messages / 1e3,
    cleanShare: clean.length / tookMs.length,
    lateP99: quantile(lateMs.slice().sort(), 0.99),
  }
}
