// Keeps what a meter counts: takes it four times a second to the journal, makes it durable once a second, folds old journals.
// Only while it holds its writer's lock. All of it happens beside the connections; an error of the disk is told once, and
// whatever was not written stays where it is until it can be.

import { mkdir } from 'node:fs/promises'
import { HeadraceError } from '../errors.ts'
import type { Delta } from './amounts.ts'
import { addTo, nothing } from './amounts.ts'
import { fold } from './fold.ts'
import { isWriter, namesIn } from './folder.ts'
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
  /** Writes the last of it, and says what is lost if that can't be. A second call is the first. */
  close(): Promise<void>
}

/** A quarter of what a SIGKILL may cost: a timer may be late, and writing takes its time. */
const WRITE_MS = 250
const WRITES_PER_SYNC = 4
/** An hour. */
const WRITES_PER_FOLD = (60 * 60 * 1_000) / WRITE_MS

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

  function unwritten(month?: string): Delta[] {
    const batches = journal.queue.filter((batch) => month === undefined || batch.month === month)
    return batches.flatMap(({ deltas }) => deltas)
  }

  function tellOnce(detail: string): void {
    if (toldOnce.has(detail)) return
    toldOnce.add(detail)
    tell(new HeadraceError('usage-damaged', detail))
  }

  async function stop(): Promise<void> {
    await opening?.catch(() => {})
    clearInterval(timer)
    await folding
    meter.tick()
    isSyncDue = true
    await write()
    await journal.close().catch(complain)
    sayWhatIsLost()
    const left = lock
    lock = null
    await left?.release().catch(complain)
  }

  function sayWhatIsLost(): void {
    const lost = new Map([['', nothing()]])
    for (const { amounts } of unwritten()) addTo(lost, { service: '', amounts })
    const { connections, minutes, clientToOrigin, originToClient } = lost.get('') ?? nothing()
    if (connections + minutes + clientToOrigin + originToClient === 0) return
    const bytes = clientToOrigin + originToClient
    tell(
      new HeadraceError(
        'usage-unwritten',
        `${minutes} minutes and ${bytes} bytes are lost with this process`,
      ),
    )
  }

  return {
    open() {
      opening ??= start()
      return opening
    },
    read,
    close() {
      closing ??= stop()
      return closing
    },
  }
}

function reasonOf(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException
  return code ?? message
}
