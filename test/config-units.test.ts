// Durations, sizes and suggestions of the config.

import fc from 'fast-check'
import t from 'tap'
import { parseDuration } from '../src/config/parse.ts'
import { suggestion } from '../src/config/problems.ts'
import { bytes, LONGEST_MS, milliseconds } from '../src/config/units.ts'

t.test('durations', (t) => {
  const known: readonly (readonly [string | number, number | undefined])[] = [
    ['250ms', 250],
    ['10s', 10_000],
    ['1.5m', 90_000],
    ['2h', 7_200_000],
    ['1d', 86_400_000],
    ['0s', 0],
    [1500, 1_500],
    ['10', undefined],
    ['10 s', undefined],
    ['1.s', undefined],
    ['-1s', undefined],
    ['1e3ms', undefined],
    ['1S', undefined],
    ['', undefined],
    [-1, undefined],
    [Number.NaN, undefined],
    [Number.POSITIVE_INFINITY, undefined],
    ['25d', undefined],
    [LONGEST_MS + 1, undefined],
  ]
  for (const [written, ms] of known) t.equal(milliseconds(written), ms, JSON.stringify(written))
  const units = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const
  const unit = fc.constantFrom<keyof typeof units>('ms', 's', 'm', 'h', 'd')
  fc.assert(
    fc.property(unit, fc.nat(1_000_000), (name, count) => {
      const ms = count * units[name]
      return milliseconds(`${count}${name}`) === (ms <= LONGEST_MS ? ms : undefined)
    }),
  )
  t.equal(parseDuration('10s'), 10_000)
  t.throws(() => parseDuration('soon'), { code: 'argument-invalid' })
  t.end()
})

t.test('sizes', (t) => {
  const known: readonly (readonly [string | number, number | undefined])[] = [
    ['512B', 512],
    ['16KiB', 16_384],
    ['1.5KiB', 1_536],
    ['64kB', 64_000],
    [4096, 4_096],
    ['16', undefined],
    ['16KB', undefined],
    ['16kib', undefined],
    ['-1B', undefined],
    [-1, undefined],
    ['99999999999999GiB', undefined],
  ]
  for (const [written, count] of known) t.equal(bytes(written), count, JSON.stringify(written))
  const units = { B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, kB: 1e3, MB: 1e6, GB: 1e9 } as const
  const unit = fc.constantFrom<keyof typeof units>('B', 'KiB', 'MiB', 'GiB', 'kB', 'MB', 'GB')
  fc.assert(
    fc.property(
      unit,
      fc.nat(100_000),
      (name, count) => bytes(`${count}${name}`) === Math.round(count * units[name]),
    ),
  )
  t.end()
})

t.test('suggestions name what is near, and nothing that is not', (t) => {
  t.equal(suggestion('rnu', ['run', 'check']), ' (did you mean run?)')
  t.equal(suggestion('connect_timeout', ['connectTimeout', 'keepalive']), ' (did you mean connectTimeout?)')
  t.equal(suggestion('b', ['a']), '')
  t.equal(suggestion('web', ['ws_backend']), '')
  t.equal(suggestion('x', []), '')
  t.end()
})
