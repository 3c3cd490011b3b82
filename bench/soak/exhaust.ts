// Workers without a free descriptor: their limit is lowered to little more than what they have, for a while.

import { execFileSync } from 'node:child_process'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { addressOf } from '../load/wire.ts'
import { descriptorsOf } from './program.ts'
import type { Stand } from './stand.ts'
import { mustOpen } from './stand.ts'

/** Connections that nobody asks anything on: for each free descriptor, since the kernel spreads them as it likes, and more. */
const IDLERS_EACH = 2
const IDLERS_MORE = 60
const SPARE_DESCRIPTORS = 10
/** A client that was accepted, but whose origin could not be dialled. */
const NO_DESCRIPTOR = [502, 503, 504]

export async function exhaustDescriptors(stand: Stand): Promise<number> {
  const { options, program, traffic, config } = stand
  const workers = program.pids('worker')
  const limits = workers.map((pid) => ({ pid, soft: softLimit(pid) }))
  const { listeners } = config() as { readonly listeners: readonly { readonly address: string }[] }
  const address = addressOf(listeners[0]?.address ?? '')
  const told = () => program.lines.filter((line) => line.includes('"descriptors-exhausted"')).length
  const before = told()
  traffic.allowed = NO_DESCRIPTOR
  let free = 0
  for (const pid of workers) free += leave(pid)
  const count = free * IDLERS_EACH + IDLERS_MORE
  const idlers = Array.from({ length: count }, () => connect(address).on('error', () => {}))
  await traffic.until(() => told() > before, 'exhausted descriptors are told')
  await sleep(options.holdMs)
  for (const { pid, soft } of limits) limit(pid, soft)
  for (const idler of idlers) idler.destroy()
  await traffic.hold()
  traffic.allowed = []
  traffic.start()
  await mustOpen(stand, 10, 2_000, 'after descriptors were free again')
  return 0
}

/** Leaves it few more than it has; returns how many are free. The limit is one of numbers, and there are holes. */
function leave(pid: number): number {
  const taken = descriptorsOf(pid).map(Number)
  const soft = Math.max(...taken) + SPARE_DESCRIPTORS
  limit(pid, soft)
  return soft - taken.length
}

function softLimit(pid: number): number {
  const text = execFileSync('prlimit', ['--pid', String(pid), '--nofile', '--output', 'SOFT', '--noheadings'])
  return Number(text.toString())
}

function limit(pid: number, soft: number): void {
  execFileSync('prlimit', ['--pid', String(pid), `--nofile=${soft}:`])
}
