// The room usage/ by itself: minutes, the meter under a played clock, lines, journals, locks, reading and folding.

import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import type { Test } from 'tap'
import t from 'tap'
import type { Backend } from '../src/dial/backend.ts'
import type { Splicing } from '../src/engine/engine.ts'
import { Tunnel } from '../src/tunnel/tunnel.ts'
import type { Amounts, Delta } from '../src/usage/amounts.ts'
import { addTo, nothing } from '../src/usage/amounts.ts'
import { fold } from '../src/usage/fold.ts'
import type { Journal } from '../src/usage/journal.ts'
import { createJournal } from '../src/usage/journal.ts'
import { formatLine, LINE_LIMIT, parseLine } from '../src/usage/line.ts'
import { hold, isHeld, LEASE_MS } from '../src/usage/lock.ts'
import { Meter } from '../src/usage/meter.ts'
import { checkMonth, isMonth, MINUTE_MS, minutesOf, monthOf, startMinutes } from '../src/usage/minutes.ts'
import { readMonth } from '../src/usage/month.ts'
import { reportOf } from '../src/usage/report.ts'
import { readSummary } from '../src/usage/summary.ts'
import { failureOf } from './support/accepting.ts'

const MONTH = '2026-11'

function newFolder(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'headrace-usage-'))
  t.teardown(() => rm(folder, { recursive: true, force: true }))
  return folder
}

function delta(service: string, amounts: Partial<Amounts>): Delta {
  return { service, amounts: { ...nothing(), ...amounts } }
}

function same(one: unknown, other: unknown): boolean {
  return JSON.stringify(one) === JSON.stringify(other)
}

// Minutes.

t.test('a connection costs its time in minutes, rounded up, and at least one', (t) => {
  const cases = [0, 1, 59_999, 60_000, 60_001, 119_999.5, 120_000, 120_000.5, 86_400_000]
  t.strictSame(cases.map(minutesOf), [1, 1, 1, 1, 2, 2, 2, 3, 1_440])
  t.end()
})

t.test('however its time is cut, the same minutes start', (t) => {
  const gaps = fc.array(fc.oneof(fc.nat(500), fc.nat(200_000), fc.constant(MINUTE_MS)), { maxLength: 60 })
  fc.assert(
    fc.property(fc.nat(1e9), gaps, (startedAt, gaps) => {
      const piecewise: number[] = [startedAt]
      let now = startedAt
      let endsAt = startedAt + MINUTE_MS
      for (const gap of gaps) {
        now += gap
        endsAt = startMinutes(endsAt, now, (at) => piecewise.push(at))
        // Accrued while it is open, never only at its end.
        if (piecewise.length !== minutesOf(now - startedAt)) return false
      }
      const atOnce: number[] = [startedAt]
      startMinutes(startedAt + MINUTE_MS, now, (at) => atOnce.push(at))
      return same(piecewise, atOnce) && atOnce.every((at, index) => at === startedAt + index * MINUTE_MS)
    }),
  )
  t.end()
})

t.test('months are those of UTC', async (t) => {
  t.equal(monthOf(Date.UTC(2026, 10, 30, 23, 59, 59, 999)), '2026-11')
  t.equal(monthOf(Date.UTC(2026, 11, 1)), '2026-12')
  t.ok(isMonth('2026-12'))
  for (const wrong of ['2026-13', '2026-00', '2026-1', '2026-11 ', '../2026-11', '', '2026-11\n']) {
    t.notOk(isMonth(wrong), JSON.stringify(wrong))
    t.match(await failureOf(() => checkMonth(wrong)), { code: 'argument-invalid' })
  }
})

// The meter.

/** Counters that a test moves, where an engine has its own. */
interface Moving extends Splicing {
  clientToOrigin: number
  originToClient: number
}

function openTunnel(service: string): { tunnel: Tunnel; splicing: Moving } {
  const phases = { accept: 0, tls: 0, head: 0, gate: 0, decide: 0, dial: 0, answer: 0 }
  const gate = { rule: null, isCounted: false }
  const where = { listener: '', clientAddress: '', originAddress: '' }
  const facts = { id: '', service, ...where, startedAt: 0, phases, ...gate }
  const tunnel = new Tunnel(facts, {} as Backend, () => {})
  const splicing: Moving = { engine: 'stream', clientToOrigin: 0, originToClient: 0, stop() {} }
  tunnel.splicing = splicing
  return { tunnel, splicing }
}

/** A clock that only goes when it is told to. */
function playedClock(start: number) {
  let elapsed = 0
  return {
    elapsed: () => elapsed,
    now: () => start + elapsed,
    go(ms: number) {
      elapsed += ms
    },
  }
}

/** What is taken, by month and service. */
function takeAll(meter: Meter, into: Map<string, Map<string, Amounts>>): void {
  for (let batch = meter.take(); batch !== null; batch = meter.take()) {
    const sums = into.get(batch.month) ?? new Map<string, Amounts>()
    into.set(batch.month, sums)
    for (const one of batch.deltas) addTo(sums, one)
  }
}

t.test('a started minute counts in the month in which it starts', (t) => {
  // 90 seconds before December.
  const clock = playedClock(Date.UTC(2026, 11, 1) - 90_000)
  const meter = new Meter(clock)
  const { tunnel, splicing } = openTunnel('chat')
  meter.begin(tunnel, 200, 100)
  splicing.clientToOrigin = 5
  clock.go(60_001)
  meter.tick()
  clock.go(60_000)
  splicing.originToClient = 7
  meter.settle(tunnel)
  meter.settle(tunnel)
  const november = { connections: 1, minutes: 2, clientToOrigin: 5, headToOrigin: 200, headToClient: 100 }
  t.strictSame(meter.take(), { month: '2026-11', deltas: [delta('chat', november)] })
  t.strictSame(meter.take(), { month: '2026-12', deltas: [delta('chat', { minutes: 1, originToClient: 7 })] })
  t.equal(meter.take(), null)
  t.strictSame(meter.totals(), {
    chat: { ...nothing(), ...november, minutes: 3, originToClient: 7 },
  })
  t.end()
})

t.test('a tick that comes late gives each minute to its month', (t) => {
  const clock = playedClock(Date.UTC(2026, 11, 1) - 90_000)
  const meter = new Meter(clock)
  const { tunnel } = openTunnel('chat')
  meter.begin(tunnel, 0, 0)
  clock.go(10 * MINUTE_MS)
  meter.tick()
  t.match(meter.take(), { month: '2026-11', deltas: [{ amounts: { minutes: 2 } }] })
  t.match(meter.take(), { month: '2026-12', deltas: [{ amounts: { minutes: 8 } }] })
  t.end()
})

t.test('whatever opens, moves, ends and is taken in any order: sums are exact', (t) => {
  const step = fc.record({
    what: fc.constantFrom('open', 'move', 'settle', 'tick', 'take', 'wait', 'wait'),
    which: fc.nat(1_000),
    size: fc.nat(100_000),
    service: fc.constantFrom('chat', 'web', 'games'),
  })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 300 }), fc.nat(3 * MINUTE_MS), (steps, beforeNewYear) => {
      const start = Date.UTC(2027, 0, 1) - beforeNewYear
      const clock = playedClock(start)
      const meter = new Meter(clock)
      const open: (ReturnType<typeof openTunnel> & { at: number })[] = []
      const taken = new Map<string, Map<string, Amounts>>()
      const expected = new Map<string, Amounts>()
      const minutes = new Map<string, number>()
      const settle = (index: number) => {
        const [one] = open.splice(index, 1)
        if (one === undefined) return
        meter.settle(one.tunnel)
        const { service } = one.tunnel.facts
        const { clientToOrigin, originToClient } = one.splicing
        addTo(expected, delta(service, { clientToOrigin, originToClient }))
        for (let k = 0; k < minutesOf(clock.elapsed() - one.at); k += 1) {
          const key = `${monthOf(start + one.at + k * MINUTE_MS)} ${service}`
          minutes.set(key, (minutes.get(key) ?? 0) + 1)
        }
      }
      for (const { what, which, size, service } of steps) {
        if (what === 'open') {
          const one = openTunnel(service)
          meter.begin(one.tunnel, size, 3)
          open.push({ ...one, at: clock.elapsed() })
          addTo(expected, delta(service, { connections: 1, headToOrigin: size, headToClient: 3 }))
        } else if (what === 'move' && open.length > 0) {
          const one = open[which % open.length]
          if (one !== undefined) {
            one.splicing.clientToOrigin += size
            one.splicing.originToClient += which
          }
        } else if (what === 'settle') settle(which % Math.max(1, open.length))
        else if (what === 'tick') meter.tick()
        else if (what === 'take') takeAll(meter, taken)
        else clock.go(size)
      }
      while (open.length > 0) settle(0)
      takeAll(meter, taken)
      const sums = new Map<string, Amounts>()
      const found = new Map<string, number>()
      for (const [month, services] of taken) {
        for (const [service, amounts] of services) {
          addTo(sums, { service, amounts: { ...amounts, minutes: 0 } })
          if (amounts.minutes > 0) found.set(`${month} ${service}`, amounts.minutes)
        }
      }
      return same(sorted(sums), sorted(expected)) && same(sorted(found), sorted(minutes))
    }),
  )
  t.end()
})

function sorted<Value>(map: Map<string, Value>): [string, Value][] {
  return [...map].sort(([one], [other]) => (one < other ? -1 : 1))
}

// Lines.

const PLACE = `${MONTH}/main.1.usage`
const number = fc.oneof(fc.nat(100), fc.nat({ max: 1e15 }))
const anyAmounts = fc.record({
  connections: number,
  minutes: number,
  clientToOrigin: number,
  originToClient: number,
  headToOrigin: number,
  headToClient: number,
})
const anyDelta = fc.record({ service: fc.stringMatching(/^[A-Za-z0-9_-]{1,128}$/), amounts: anyAmounts })

t.test('a line says what was counted; changed, cut or elsewhere it says nothing', (t) => {
  fc.assert(
    fc.property(anyDelta, fc.nat(), fc.nat(), fc.integer({ min: 1, max: 255 }), (one, at, where, change) => {
      const line = formatLine(PLACE, at, one)
      const text = line.slice(0, -1)
      const index = where % text.length
      const changed = Buffer.from(text, 'latin1')
      changed[index] = (changed[index] as number) ^ change
      return (
        line.endsWith('\n') &&
        line.length < LINE_LIMIT &&
        same(parseLine(PLACE, text), one) &&
        parseLine(`${MONTH}/main.2.usage`, text) === 'torn' &&
        typeof parseLine(PLACE, text.slice(0, index)) === 'string' &&
        typeof parseLine(PLACE, changed.toString('latin1')) === 'string'
      )
    }),
  )
  t.equal(parseLine(PLACE, '1764000'), 'torn')
  t.equal(parseLine(PLACE, '\0\0\0'), 'torn')
  t.equal(parseLine(PLACE, 'hello'), 'foreign')
  t.equal(parseLine(PLACE, '{"connections":1}'), 'foreign')
  t.end()
})

// Journals.

/** A journal of a process that is killed before it could say anything more. */
async function written(
  folder: string,
  writer: string,
  deltas: readonly Delta[],
  month = MONTH,
): Promise<Journal> {
  const journal = createJournal(folder, writer)
  for (const one of deltas) {
    journal.put({ month, deltas: [one] })
    await journal.flush()
  }
  return journal
}

async function sumsOf(folder: string, month = MONTH): Promise<Record<string, Amounts>> {
  return Object.fromEntries((await readMonth(folder, month)).services)
}

const chat = delta('chat', { connections: 1, minutes: 1, clientToOrigin: 10, headToOrigin: 5 })
const web = delta('web', { minutes: 1, originToClient: 20 })

t.test('what was flushed is read, of all writers, and never a second time', async (t) => {
  const folder = newFolder(t)
  t.strictSame(await sumsOf(folder), {}, 'nothing there yet')
  const first = await written(folder, 'worker-1', [chat, chat])
  const second = await written(folder, 'worker-2', [chat, web])
  const expected = {
    chat: { ...nothing(), connections: 3, minutes: 3, clientToOrigin: 30, headToOrigin: 15 },
    web: web.amounts,
  }
  t.strictSame(await sumsOf(folder), expected, 'before it is synced')
  for (const journal of [first, second]) {
    await journal.flush()
    await journal.sync()
    await journal.sync()
    await journal.close()
  }
  t.strictSame(await sumsOf(folder), expected)
  await (await written(folder, 'worker-1', [web], '2026-12')).close()
  t.strictSame(await sumsOf(folder), expected, 'another month is another')
  t.strictSame(await sumsOf(folder, '2026-12'), { web: web.amounts })
  t.strictSame(readdirSync(join(folder, MONTH)), ['worker-1.1.usage', 'worker-2.1.usage'])
})

t.test(
  'a process appends to no file of another run, so that what that one has torn harms nothing',
  async (t) => {
    const folder = newFolder(t)
    await (await written(folder, 'main', [chat, chat])).close()
    const path = join(folder, MONTH, 'main.1.usage')
    truncateSync(path, readFileSync(path).length - 5)
    await (await written(folder, 'main', [chat])).close()
    const { services, skipped, troubles } = await readMonth(folder, MONTH)
    t.equal(services.get('chat')?.connections, 2)
    t.strictSame(skipped, { torn: 1, foreign: 0 })
    t.strictSame(troubles, ['main.1.usage has 1 torn line, not counted'])
  },
)

t.test('a last line that only lacks its line break counts', async (t) => {
  const folder = newFolder(t)
  await (await written(folder, 'main', [chat])).close()
  const path = join(folder, MONTH, 'main.1.usage')
  truncateSync(path, readFileSync(path).length - 1)
  t.match(await readMonth(folder, MONTH), { skipped: { torn: 0 }, troubles: [] })
  t.strictSame(await sumsOf(folder), { chat: chat.amounts })
})

t.test('garbage is counted and said, and throws nothing', async (t) => {
  const folder = newFolder(t)
  await (await written(folder, 'main', [chat])).close()
  const path = (name: string) => join(folder, MONTH, name)
  appendFileSync(path('main.1.usage'), `\n\nhello\n${'x'.repeat(200_000)}\n17 chat 1 1 1\n\0\0\0\0\n`)
  cpSync(path('main.1.usage'), path('backup.1.usage'))
  writeFileSync(path('notes.txt'), 'x')
  writeFileSync(
    path('noise.1.usage'),
    Buffer.from(Array.from({ length: 300_000 }, (_, at) => (at * 7) % 256)),
  )
  mkdirSync(path('folder.1.usage'))
  const { services, skipped, troubles } = await readMonth(folder, MONTH)
  t.strictSame(Object.fromEntries(services), { chat: chat.amounts }, 'a copy is not counted again')
  t.ok(skipped.torn >= 5 && skipped.foreign >= 4, JSON.stringify(skipped))
  t.strictSame(
    troubles.filter((one) => !one.startsWith('noise')),
    [
      'backup.1.usage has 3 torn and 2 foreign lines, not counted',
      "folder.1.usage can't be read: EISDIR",
      'main.1.usage has 2 torn and 2 foreign lines, not counted',
      'notes.txt is no file of headrace',
    ],
  )
  const report = reportOf(MONTH, { services, skipped, troubles })
  t.strictSame(report.services, [
    {
      service: 'chat',
      connections: 1,
      minutes: 1,
      minutesInMillions: 0.000001,
      bytes: { clientToOrigin: 10, originToClient: 0, headToOrigin: 5, headToClient: 0 },
    },
  ])
  t.strictSame(report.skipped, skipped)
})

t.test(
  'a journal that is removed while it is open is said, and what was not on the disk goes on in another',
  async (t) => {
    const folder = newFolder(t)
    const journal = await written(folder, 'main', [chat])
    await journal.sync()
    journal.put({ month: MONTH, deltas: [web] })
    await journal.flush()
    rmSync(folder, { recursive: true })
    await t.rejects(journal.sync(), { message: /main\.1\.usage was removed$/ })
    await journal.flush()
    await journal.close()
    t.strictSame(await sumsOf(folder), { web: web.amounts })
  },
)

t.test('a full journal is left for the next one', async (t) => {
  const folder = newFolder(t)
  const journal = createJournal(folder, 'main', 200)
  for (let count = 0; count < 12; count += 1) {
    journal.put({ month: MONTH, deltas: [chat] })
    await journal.flush()
  }
  await journal.close()
  t.equal(journal.opened, 3)
  t.equal(readdirSync(join(folder, MONTH)).length, 3)
  t.equal((await sumsOf(folder)).chat?.connections, 12)
})

// Locks.

t.test('a writer has one process; what a dead one has left is taken over', async (t) => {
  const folder = newFolder(t)
  const lock = await hold(folder, 'main')
  t.ok(await isHeld(folder, 'main'))
  const refusal = await failureOf(hold(folder, 'main'))
  t.equal(refusal.code, 'state-locked')
  t.match(refusal.detail, /: the writer main is this process itself$/)
  const other = await hold(folder, 'worker-1')
  await lock.release()
  t.notOk(await isHeld(folder, 'main'))
  await other.release()
  t.strictSame(readdirSync(folder), [])

  const [own = ''] = [await hold(folder, 'x')].map(() => readdirSync(folder)[0])
  const place = /-([0-9a-f]+)\.lock$/.exec(own)?.[1]
  // The number of a living process, which started at another time: it has got the number of a dead one.
  for (const dead of [
    `main.${process.pid}-1-${place}.lock`,
    `main.999999999-5-${place}.lock`,
    'main.rubbish.lock',
  ]) {
    writeFileSync(join(folder, dead), '')
    const long = new Date(Date.now() - 2 * LEASE_MS)
    utimesSync(join(folder, dead), long, long)
    await (await hold(folder, 'main')).release()
    t.strictSame(readdirSync(folder), [own], dead)
  }
})

t.test('of a process elsewhere the age of its lock decides', async (t) => {
  const folder = newFolder(t)
  const elsewhere = join(folder, 'main.1-77-0badcafe.lock')
  writeFileSync(elsewhere, '')
  const refusal = await failureOf(hold(folder, 'main'))
  t.match(refusal.detail, /the writer main is process 1$/)
  t.strictSame(readdirSync(folder), ['main.1-77-0badcafe.lock'], 'nothing is left of the one that gave up')
  const old = new Date(Date.now() - LEASE_MS - 1_000)
  utimesSync(elsewhere, old, old)
  const lock = await hold(folder, 'main')
  t.notOk(existsSync(elsewhere))
  utimesSync(join(folder, readdirSync(folder)[0] ?? ''), old, old)
  lock.beat()
  await lock.release()
})

// Folding.

/** Journals of dead writers: two of `a`, one of `b`, with a torn line. */
async function unfolded(t: Test): Promise<{ folder: string; expected: Record<string, Amounts> }> {
  const folder = newFolder(t)
  for (const writer of ['a', 'a', 'b']) await (await written(folder, writer, [chat, web, chat])).close()
  appendFileSync(join(folder, MONTH, 'a.1.usage'), '17640')
  return { folder, expected: await sumsOf(folder) }
}

function filesOf(folder: string): string[] {
  return readdirSync(join(folder, MONTH))
}

t.test('folding changes no sum, leaves a summary, and can go on', async (t) => {
  const { folder, expected } = await unfolded(t)
  t.equal(await fold(folder, MONTH, null), '')
  t.strictSame(filesOf(folder), ['summary.usage'])
  t.strictSame(await sumsOf(folder), expected)
  t.match(await readMonth(folder, MONTH), {
    skipped: { torn: 1, foreign: 0 },
    troubles: ['summary.usage has 1 torn line, not counted'],
  })
  t.strictSame(readdirSync(folder), [MONTH], 'no lock is left')

  const journal = await written(folder, 'a', [web])
  t.strictSame(filesOf(folder), ['a.3.usage', 'summary.usage'], 'no name is used again')
  await journal.close()
  const more = await sumsOf(folder)
  t.equal(more.web?.minutes, (expected.web?.minutes ?? 0) + 1)
  t.equal(await fold(folder, MONTH, null), '')
  t.strictSame(filesOf(folder), ['summary.usage'])
  t.strictSame(await sumsOf(folder), more)
  t.strictSame(Object.keys((await readSummary(folder, MONTH)).summary.covers).sort(), [
    'a.3.usage',
    'b.1.usage',
  ])
})

t.test('a fold that was killed anywhere changes no sum, and the next one ends it', async (t) => {
  const { folder, expected } = await unfolded(t)
  const before = newFolder(t)
  cpSync(folder, before, { recursive: true })
  await fold(folder, MONTH, null)
  const summary = readFileSync(join(folder, MONTH, 'summary.usage'))
  const steps: Readonly<Record<string, (folder: string) => void>> = {
    'while the new summary is written': (at) =>
      writeFileSync(join(at, MONTH, 'summary.usage.new'), summary.subarray(0, 40)),
    'before it is renamed': (at) => writeFileSync(join(at, MONTH, 'summary.usage.new'), summary),
    'before a journal is removed': (at) => writeFileSync(join(at, MONTH, 'summary.usage'), summary),
    'between two of them': (at) => {
      writeFileSync(join(at, MONTH, 'summary.usage'), summary)
      unlinkSync(join(at, MONTH, 'a.1.usage'))
    },
  }
  for (const [step, play] of Object.entries(steps)) {
    const at = newFolder(t)
    cpSync(before, at, { recursive: true })
    play(at)
    t.strictSame(await sumsOf(at), expected, step)
    // A process that starts now, and is killed as well.
    await (await written(at, 'a', [web])).close()
    const more = await sumsOf(at)
    t.equal(more.web?.minutes, (expected.web?.minutes ?? 0) + 1, `${step}, then a new run`)
    t.equal(await fold(at, MONTH, null), '')
    t.strictSame(await sumsOf(at), more, `${step}, then folded`)
    t.strictSame(filesOf(at), ['summary.usage'], step)
  }
})

t.test('what somebody may still append to is not folded', async (t) => {
  const { folder } = await unfolded(t)
  const lock = await hold(folder, 'a')
  t.equal(await fold(folder, MONTH, null), '')
  t.strictSame(filesOf(folder), ['a.2.usage', 'summary.usage'], 'the last of a living writer')
  // Its own process knows more.
  const open = await written(folder, 'a', [web])
  await fold(folder, MONTH, { writer: 'a', openPath: () => open.path })
  t.strictSame(filesOf(folder), ['a.3.usage', 'summary.usage'])
  await open.close()
  const all = await sumsOf(folder)
  await fold(folder, MONTH, { writer: 'a', openPath: () => open.path })
  t.strictSame(filesOf(folder), ['summary.usage'])
  t.strictSame(await sumsOf(folder), all)
  await lock.release()
})

t.test('while another folds, nothing is folded', async (t) => {
  const { folder } = await unfolded(t)
  const lock = await hold(folder, '+fold')
  t.equal(await fold(folder, MONTH, null), '')
  t.strictSame(filesOf(folder), ['a.1.usage', 'a.2.usage', 'b.1.usage'])
  await lock.release()
})

t.test('a damaged summary is said, and not written over', async (t) => {
  const { folder } = await unfolded(t)
  await fold(folder, MONTH, null)
  const path = join(folder, MONTH, 'summary.usage')
  const damaged = readFileSync(path, 'utf8').replace('"connections":6', '"connections":9')
  writeFileSync(path, damaged)
  await (await written(folder, 'c', [chat])).close()
  const fault = 'summary.usage is damaged: its checksum is wrong'
  t.match(await readMonth(folder, MONTH), { troubles: [fault] })
  t.strictSame(await sumsOf(folder), { chat: chat.amounts })
  t.equal(await fold(folder, MONTH, null), `${MONTH}: nothing can be folded: ${fault}`)
  t.equal(readFileSync(path, 'utf8'), damaged)
})

t.test('a journal that cannot be read is not folded away', async (t) => {
  const { folder } = await unfolded(t)
  mkdirSync(join(folder, MONTH, 'd.1.usage'))
  t.equal(await fold(folder, MONTH, null), `${MONTH}: d.1.usage can't be folded: EISDIR`)
  t.strictSame(filesOf(folder), ['d.1.usage', 'summary.usage'], 'the others are')
  t.strictSame(readdirSync(folder), [MONTH], 'and the lock is given back')
})
