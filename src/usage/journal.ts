// Appends what was counted to the files of one writer, and makes it durable.
//
//   put ─▶ queue ── flush: one write ─▶ in the file ── sync: fdatasync ─▶ on the disk
//
// What is in the file survives the process, what is on the disk survives the machine. Each opening makes a new file, whose
// name is never used again: nobody appends to what a killed process has left, and a summary can say by name what it covers.
// Writes say where they go. So one that failed halfway, or whose fdatasync failed (after which the system may have dropped
// what it had), is repeated in the same place, and nothing is in the file twice.

import type { FileHandle } from 'node:fs/promises'
import { mkdir, open, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { Delta } from './amounts.ts'
import { codeOf, journalName, journalOf, namesIn, placeOf, syncFolder } from './folder.ts'
import { formatLine } from './line.ts'
import { readSummary } from './summary.ts'

/** After so many bytes a file is left for the next, and can be folded: some 10,000 lines. */
export const ROLL_SIZE = 1024 * 1024

export interface Batch {
  readonly month: string
  readonly deltas: readonly Delta[]
}

export interface Journal {
  /** From now on it is the journal's to write. At once if possible, or else when `flush` is called again. */
  put(batch: Batch): void
  /** What was put and is not in a file yet. */
  readonly unwritten: readonly Batch[]
  /** How many files were opened. */
  readonly opened: number
  /** Of the file that is open, or about to be; null if none is. */
  readonly path: string | null
  /** Rejects with the error of the system; whatever was not written stays in the queue. */
  flush(): Promise<void>
  /** Makes durable what is in the file. */
  sync(): Promise<void>
  /** In a file that was left, and perhaps not on the disk. */
  readonly uncertain: readonly Batch[]
  /** `sync`, and leaves the file, also if it rejects. */
  close(): Promise<void>
}

interface OpenFile {
  readonly month: string
  readonly path: string
  readonly place: string
  readonly handle: FileHandle
  /** The length that is on the disk. What follows is in `tail`, of which `written` bytes are in the file. */
  end: number
  tail: Buffer
  written: number
  /** The same as `tail`, should the file get lost. */
  unsynced: Delta[]
}

const EMPTY = Buffer.alloc(0)
const LINE_FEED = 10

export function createJournal(folder: string, writer: string, rollSize = ROLL_SIZE): Journal {
  let queue: Batch[] = []
  let file: OpenFile | null = null
  let path: string | null = null
  let opened = 0
  /** True from when the first batch of the queue is in the tail. */
  let isFormatted = false
  let uncertain: Batch[] = []

  async function flush(): Promise<void> {
    if (file !== null) await write(file)
    for (let [batch] = queue; batch !== undefined; [batch] = queue) {
      file = await fileFor(batch.month)
      if (!isFormatted) file.tail = Buffer.concat([file.tail, linesOf(batch, file.place)])
      isFormatted = true
      await write(file)
      file.unsynced.push(...batch.deltas)
      queue.shift()
      isFormatted = false
    }
  }

  async function fileFor(month: string): Promise<OpenFile> {
    const isFull = file !== null && file.end + file.tail.length >= rollSize
    if (file !== null && !isFormatted && (isFull || file.month !== month)) await leave()
    if (file !== null) return file
    const created = await create(folder, month, writer, (name) => {
      path = name
    })
    opened += 1
    return created
  }

  async function sync(): Promise<void> {
    if (file === null || file.written === 0) return
    try {
      await file.handle.datasync()
    } catch (error) {
      file.written = 0
      throw error
    }
    if ((await file.handle.stat()).nlink === 0) await lose(file)
    file.end += file.written
    file.tail = file.tail.subarray(file.written)
    file.written = 0
    file.unsynced = []
  }

  /** Somebody has removed the file. What was not on the disk before goes to a new one. */
  async function lose({ handle, month, unsynced, path: lost }: OpenFile): Promise<never> {
    queue = [{ month, deltas: unsynced }, ...queue]
    file = null
    isFormatted = false
    await handle.close()
    throw new Error(`${lost} was removed`)
  }

  async function leave(): Promise<void> {
    await sync()
    const left = file
    file = null
    path = null
    await left?.handle.close()
  }

  async function close(): Promise<void> {
    const left = file
    if (left === null) return
    try {
      if (isFormatted) await keepWhole(left)
      await leave()
    } finally {
      if (file === left) await abandon(left)
    }
  }

  /** Of a batch that was written in part, whole lines stay in the file; the rest is in the queue only. */
  async function keepWhole(left: OpenFile): Promise<void> {
    const kept = left.tail.subarray(0, left.tail.subarray(0, left.written).lastIndexOf(LINE_FEED) + 1)
    await left.handle.truncate(left.end + kept.length)
    const all = [...left.unsynced, ...(queue[0]?.deltas ?? [])]
    queue = [...unwritten()]
    isFormatted = false
    left.tail = kept
    left.written = kept.length
    left.unsynced = all.slice(0, linesIn(kept))
  }

  async function abandon({ handle, month, unsynced: deltas }: OpenFile): Promise<void> {
    uncertain = [{ month, deltas }]
    file = null
    path = null
    await handle.close().catch(() => {})
  }

  function unwritten(): readonly Batch[] {
    const [first, ...rest] = queue
    if (file === null || first === undefined || !isFormatted) return queue
    const count = linesIn(file.tail.subarray(0, file.written)) - file.unsynced.length
    return [{ ...first, deltas: first.deltas.slice(Math.max(0, count)) }, ...rest]
  }

  return {
    put: (batch) => void queue.push(batch),
    get unwritten() {
      return unwritten()
    },
    get uncertain() {
      return uncertain
    },
    get opened() {
      return opened
    },
    get path() {
      return path
    },
    flush,
    sync,
    close,
  }
}

async function write(file: OpenFile): Promise<void> {
  const { handle, tail, end } = file
  while (file.written < tail.length) {
    const { bytesWritten } = await handle.write(
      tail,
      file.written,
      tail.length - file.written,
      end + file.written,
    )
    file.written += bytesWritten
  }
}

function linesIn(bytes: Buffer): number {
  let count = 0
  for (let at = bytes.indexOf(LINE_FEED); at !== -1; at = bytes.indexOf(LINE_FEED, at + 1)) count += 1
  return count
}

function linesOf({ deltas }: Batch, place: string): Buffer {
  const at = Date.now()
  return Buffer.from(deltas.map((delta) => formatLine(place, at, delta)).join(''), 'latin1')
}

/** `announce` is told the path before there is a file. */
async function create(
  folder: string,
  month: string,
  writer: string,
  announce: (path: string) => void,
): Promise<OpenFile> {
  const inside = join(folder, month)
  if ((await mkdir(inside, { recursive: true })) !== undefined) await syncFolder(dirname(inside))
  for (let generation = await nextGeneration(folder, month, writer); ; generation += 1) {
    const name = journalName(writer, generation)
    const path = join(inside, name)
    announce(path)
    const handle = await openNew(path)
    if (handle === null) continue
    const place = placeOf(month, name)
    return { month, path, place, handle, end: 0, tail: EMPTY, written: 0, unsynced: [] }
  }
}

/** Null if there is such a file already. Its name is durable before anything is in it. */
async function openNew(path: string): Promise<FileHandle | null> {
  let handle: FileHandle
  try {
    handle = await open(path, 'wx')
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return null
    throw error
  }
  try {
    await syncFolder(dirname(path))
    return handle
  } catch (error) {
    await handle.close()
    await rm(path, { force: true })
    throw error
  }
}

/** Higher than any that there is, or that was folded and removed. */
async function nextGeneration(folder: string, month: string, writer: string): Promise<number> {
  const { covers } = (await readSummary(folder, month)).summary
  const names = [...(await namesIn(join(folder, month))), ...Object.keys(covers)]
  const own = names.map(journalOf).filter((journal) => journal?.writer === writer)
  return Math.max(0, ...own.map((journal) => journal?.generation ?? 0)) + 1
}
