// Keeps what a meter counts: takes it four times a second to the journal, makes it durable once a second, folds old journals.
// Only while it holds its writer's lock. All of it happens beside the connections; an error of the disk is told once, and
// whatever was not written stays where it is until it can be.

import { mkdir } from 'node:fs/promises'
import { setTimeout as pause } from 'node:timers/promises'
import { HeadraceError } from '../errors.ts'
import type { Amounts, Delta } from './amounts.ts'
import { addTo, textOf } from './amounts.ts'
import { fold } from './fold.ts'
import { isWriter, namesIn } from './folder.ts'
import type { Batch } from './journal.ts'
import { createJournal } from './journal.ts'
import type { Lock } from './lock.ts'
import { hold } from './lock.ts'
import type { Meter } from './meter.ts'
import { isMonth } from './minutes.ts'
import type { Month } from './month.ts'
import { readMonth } from './month.ts'

export interface Store {
  /** Throws state-locked, state-failed or argument-invalid. A second call is the first. */
  open(): Promise<void>
  /** The month of all writers, and what is not in a file yet of this one. */
  read(month: string): Promise<Month>
  /** See Usage. */
  close(withinMs: number): Promise<void>
}

/** A quarter of what a SIGKILL may cost: a timer may be late, and writing takes its time. */
const WRITE_MS = 250
const WRITES_PER_SYNC = 4
/** An hour. */
const WRITES_PER_FOLD = (60 * 60 * 1_000) / WRITE_MS
/** Who waits for longer does so for good. */
const DAY_MS = 24 * 60 * 60 * 1_000

export function createStore(
  folder: string,
  writer: string,
  meter: Meter,
  tell: (trouble: HeadraceError) => void,
): Store {
  const journal = createJournal(folder, writer)
  const owner = { writer, openPath: () => journal.path }
  let lock: Lock | null = null
  let opening: Promise<void> | undefined
  let closing: Promise<void> | undefined
  let timer: NodeJS.Timeout | undefined
  let beats = 0
  let isSyncDue = false
  let isWriting = false
  let writing = Promise.resolve()
  let folding = Promise.resolve()
  let opened = 0
  /** Until when the last of it is tried again. */
  let endsAt = Number.POSITIVE_INFINITY
  /** The disk's error that was told and is not over. */
  let told = ''
  const toldOnce = new Set<string>()

  async function start(): Promise<void> {
    if (!isWriter(writer)) throw new HeadraceError('argument-invalid', `"${writer}" is no name of a writer`)
    try {
      await mkdir(folder, { recursive: true })
      lock = await hold(folder, writer)
    } catch (error) {
      if (error instanceof HeadraceError) throw error
      throw new HeadraceError('state-failed', `${folder}: ${reasonOf(error)}`, error)
    }
    timer = setInterval(beat, WRITE_MS)
    timer.unref()
    folding = foldAll()
  }

  function beat(): void {
    beats += 1
    meter.tick()
    if (beats % WRITES_PER_SYNC === 0) {
      isSyncDue = true
      lock?.beat()
    }
    // One that takes longer than a beat, on a slow disk, takes along what has come meanwhile.
    if (!isWriting) void write()
    if (journal.opened === opened && beats % WRITES_PER_FOLD !== 0) return
    opened = journal.opened
    folding = folding.then(foldAll)
  }

  function write(): Promise<void> {
    writing = writing.then(writeOnce)
    return writing
  }

  async function writeOnce(): Promise<void> {
    if (lock === null) return
    isWriting = true
    try {
      await journal.flush()
      for (let batch = meter.take(); batch !== null; batch = meter.take()) {
        journal.put(batch)
        await journal.flush()
      }
      if (isSyncDue) await journal.sync()
      isSyncDue = false
      told = ''
    } catch (error) {
      complain(error)
    } finally {
      isWriting = false
    }
  }

  function complain(error: unknown): void {
    const reason = reasonOf(error)
    if (reason !== told) tell(new HeadraceError('usage-unwritten', `${folder}: ${reason}`, error))
    told = reason
  }

  async function foldAll(): Promise<void> {
    try {
      for (const month of (await namesIn(folder)).filter(isMonth)) {
        const obstacle = await fold(folder, month, owner)
        if (obstacle !== '') tellOnce(obstacle)
      }
    } catch (error) {
      tellOnce(`folding failed: ${reasonOf(error)}`)
    }
  }

  async function read(month: string): Promise<Month> {
    meter.tick()
    await write()
    const found = await readMonth(folder, month)
    // Whatever the disk refuses just now.
    for (const delta of unwritten(month)) addTo(found.services, delta)
    for (const trouble of found.troubles) tellOnce(`${month}: ${trouble}`)
    return found
  }

  function unwritten(month: string): Delta[] {
    return journal.unwritten.filter((batch) => batch.month === month).flatMap(({ deltas }) => deltas)
  }

  function tellOnce(detail: string): void {
    if (toldOnce.has(detail)) return
    toldOnce.add(detail)
    tell(new HeadraceError('usage-damaged', detail))
  }

  async function stop(): Promise<void> {
    await opening?.catch(() => {})
    await writeAll()
    if (told !== '') await outwait()
    clearInterval(timer)
    await folding
    await journal.close().catch(complain)
    takeAll()
    sayAll(journal.unwritten, 'is lost')
    sayAll(journal.uncertain, 'may be lost: it is in the journal, and perhaps not on the disk')
    const left = lock
    lock = null
    await left?.release().catch(complain)
  }

  async function writeAll(): Promise<void> {
    meter.tick()
    isSyncDue = true
    await write()
  }

  /** The disk's error may pass. The timer goes on meanwhile. */
  async function outwait(): Promise<void> {
    if (leftMs() <= 0) return
    const limit = leftMs() > DAY_MS ? '' : `, for ${Math.ceil(leftMs() / 1_000)} s at most`
    const what = `${folder}: ${told}: process ${process.pid} waits for the disk before it ends${limit}`
    tell(new HeadraceError('usage-unwritten', what))
    while (told !== '' && leftMs() > 0) {
      await pause(Math.min(WRITE_MS, leftMs()))
      await writeAll()
    }
  }

  function leftMs(): number {
    return endsAt - performance.now()
  }

  function takeAll(): void {
    for (let batch = meter.take(); batch !== null; batch = meter.take()) journal.put(batch)
  }

  /** For whoever keeps the accounts: by month and service. */
  function sayAll(batches: readonly Batch[], what: string): void {
    const sums = new Map<string, Amounts>()
    for (const { month, deltas } of batches) {
      for (const { service, amounts } of deltas) addTo(sums, { service: `${month} ${service}`, amounts })
    }
    for (const [whose, amounts] of sums) {
      tell(new HeadraceError('usage-lost', `${folder}: ${whose}: ${textOf(amounts)}: ${what}`))
    }
  }

  return {
    open() {
      opening ??= start()
      return opening
    },
    read,
    close(withinMs) {
      endsAt = Math.min(endsAt, performance.now() + withinMs)
      closing ??= stop()
      return closing
    },
  }
}

function reasonOf(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException
  return code ?? message
}
