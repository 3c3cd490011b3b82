// Sixty tunnels of a release, and the next one, which takes them batch by batch as a test has it.

import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import { chatConfig } from './control.ts'
import type { Releases } from './releases.ts'
import { copyOfRelease, startPlayer, startReleases, talkers } from './releases.ts'
import type { Speaker } from './stream.ts'

/** Of one worker in batches of these; those that are opened first are in the first. */
export const TUNNELS = 60
export const [ONE, TWO] = [16, 32]
const FIRST = 10

export interface Stand {
  readonly fleet: Releases
  readonly all: readonly Speaker[]
  /** Of those that go first. */
  readonly ids: readonly string[]
  /** What the next release does, in JavaScript, when it gets the batch `count`, and when it has said that it is its own. */
  breaks(came: string, mine?: string): void
  mend(): void
  /** The next release takes a batch when it may. */
  gate(): Gate
}

export interface Gate {
  /** Resolves with the process that has got it. */
  came(count: number): Promise<number>
  may(count: number): void
}

export async function startStand(t: Test, more = 'workers: 1\n'): Promise<Stand> {
  const origin = await startPlayer(t)
  const { folder, script } = copyOfRelease(t)
  const fleet = await startReleases(t, chatConfig(origin.address, more), { script })
  const first = await talkers(t, fleet, FIRST)
  const ids = (await listed(fleet)).map(({ id }) => id)
  const all = [...first, ...(await talkers(t, fleet, TUNNELS - FIRST))]
  const path = join(folder, 'dist/process/handover-taker.js')
  const whole = readFileSync(path, 'utf8')

  function breaks(came: string, mine = ''): void {
    const counting = 'const count = (globalThis.batches ?? 0) + 1; globalThis.batches = count'
    const changed = [
      ["case 'batch':", counting, came],
      ["say({ kind: 'mine' });", 'const count = globalThis.batches', mine],
    ].reduce((text, [place = '', first, more]) => {
      const [before, after, ...others] = text.split(place)
      if (after === undefined || others.length > 0) throw new Error(`the taker is another one: ${place}`)
      return `${before}${place} { ${first}; ${more} }${after}`
    }, whole)
    writeFileSync(path, changed)
  }

  function gate(): Gate {
    const file = (count: number | string) => join(folder, `may-${count}`)
    breaks(`
      console.log(JSON.stringify({ msg: 'batch ' + count + ' has come', pid: process.pid }))
      const { existsSync } = process.getBuiltinModule('node:fs')
      const word = new Int32Array(new SharedArrayBuffer(4))
      while (!existsSync(${JSON.stringify(file(''))} + count)) Atomics.wait(word, 0, 0, 5)`)
    return {
      came: async (count) => Number((await fleet.says(`batch ${count} has come`)).at(-1)?.pid),
      may: (count) => writeFileSync(file(count), ''),
    }
  }

  return { fleet, all, ids, breaks, mend: () => writeFileSync(path, whole), gate }
}

export async function listed(fleet: Releases): Promise<readonly { readonly id: string }[]> {
  const { json } = await fleet.control('/tunnels?limit=1000')
  return (json as { readonly tunnels: { readonly id: string }[] }).tunnels
}

/** Why it was given up. */
export async function failing(fleet: Releases): Promise<string> {
  return await fleet.upgrade().then(
    () => 'it did not fail',
    (error: Error) => error.message,
  )
}
