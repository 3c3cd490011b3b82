// The gate alone: its rules as properties, its ledger, its rates in memory and in a real Redis. Whole connections through
// it are in way/gate.test.ts.

import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { BlockList, isIP } from 'node:net'
import { setTimeout as wait } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { HeadraceError } from '../src/errors.ts'
import type { Claims, Ledger, SeatClaim, Verdict } from '../src/gate/claims.ts'
import type { RuleOptions } from '../src/gate/conditions.ts'
import type { Gate, GateOptions } from '../src/gate/gate.ts'
import { createGate } from '../src/gate/gate.ts'
import { createLedger } from '../src/gate/ledger.ts'
import { MAX_KEYS, MAX_TOLD_KEYS, memoryRates } from '../src/gate/memory-rates.ts'
import { clientNetwork } from '../src/gate/network.ts'
import { originList } from '../src/gate/page-origins.ts'
import type { CountedRate } from '../src/gate/rates.ts'
import { redisRates } from '../src/gate/redis-rates.ts'
import type { Crossing } from '../src/gate/seats.ts'
import type { RequestHead } from '../src/head/head.ts'
import { fieldsOf } from '../src/head/head.ts'
import { createWebhook } from '../src/observe/webhook.ts'
import { valuePattern } from '../src/pattern.ts'
import type { Heir, HostedLedger } from '../src/process/shared-ledger.ts'
import { hostLedger } from '../src/process/shared-ledger.ts'
import { freePort, reasonToSkipRedis, startRedis, undisturbed } from './support/redis.ts'

function head(fields: Readonly<Record<string, string>> = {}, target = '/chat'): RequestHead {
  return { method: 'GET', target, version: '1.1', fields: fieldsOf(Object.entries(fields).flat()) }
}

function gateOf(options: Partial<GateOptions>): Gate {
  return createGate('chat', {
    rules: [],
    origins: undefined,
    requireOrigin: false,
    rates: [],
    maxConnections: undefined,
    maxConnectionsPerClient: undefined,
    expectedConnections: undefined,
    ...options,
  })
}

function rule(name: string, action: RuleOptions['action'], more: Partial<RuleOptions> = {}): RuleOptions {
  return { name, action, from: undefined, headers: {}, path: undefined, ...more }
}

/** The rule that decided and what it did, as the gate's caller sees it. */
function decided(gate: Gate, address: string, asked = head()): string {
  try {
    const { rule } = gate.check('1', address, asked, () => {})
    return rule === null ? 'passed' : `allow ${rule}`
  } catch (error) {
    if (!(error instanceof HeadraceError)) throw error
    return `${error.code} ${error.rule}`
  }
}

// --- rules

const address = fc.oneof(fc.ipV4(), fc.ipV6())
const block = fc
  .oneof(fc.tuple(fc.ipV4(), fc.nat(32)), fc.tuple(fc.ipV6(), fc.nat(128)))
  .map(([base, prefix]) => `${base}/${prefix}`)

function isIn(entry: string, one: string): boolean {
  const [base = '', prefix] = entry.split('/')
  const family = isIP(base) === 4 ? 'ipv4' : 'ipv6'
  const list = new BlockList()
  list.addSubnet(base, Number(prefix), family)
  return isIP(one) === isIP(base) && list.check(one, family)
}

t.test(
  'the first rule that allows or denies decides, whatever follows; those that log change nothing',
  (t) => {
    const rules = fc.array(
      fc.record({
        action: fc.constantFrom('allow', 'deny', 'log'),
        from: fc.option(fc.array(block, { minLength: 1, maxLength: 3 }), { nil: undefined }),
        value: fc.option(fc.constantFrom('a', 'b'), { nil: undefined }),
        path: fc.option(fc.constantFrom('/chat', '/news/*'), { nil: undefined }),
      }),
      { maxLength: 6 },
    )
    const request = fc.record({
      from: address,
      value: fc.constantFrom('a', 'b', 'c'),
      target: fc.constantFrom('/chat', '/news/1?x=/chat', '/news', '/'),
    })
    fc.assert(
      fc.property(rules, request, (list, { from, value, target }) => {
        const options = list.map((one, at) =>
          rule(`rule-${at}`, one.action, {
            from: one.from,
            path: one.path,
            headers: one.value === undefined ? {} : { 'X-Kind': one.value },
          }),
        )
        const [path = ''] = target.split('?')
        const matching = list.map(
          (one) =>
            (one.from === undefined || one.from.some((entry) => isIn(entry, from))) &&
            (one.value === undefined || one.value === value) &&
            (one.path === undefined ||
              one.path === path ||
              (one.path === '/news/*' && path.startsWith('/news/'))),
        )
        const at = list.findIndex(({ action }, index) => matching[index] && action !== 'log')
        const expected =
          at === -1 ? 'passed' : list[at]?.action === 'allow' ? `allow rule-${at}` : `rule-denied rule-${at}`
        const noted: string[] = []
        const gate = gateOf({ rules: options })
        const asked = head({ 'x-kind': value }, target)
        try {
          gate.check('1', from, asked, (name) => noted.push(name))
        } catch {}
        const before = list.slice(0, at === -1 ? list.length : at)
        const logged = before.flatMap(({ action }, index) =>
          action === 'log' && matching[index] ? [`rule-${index}`] : [],
        )
        return decided(gate, from, asked) === expected && JSON.stringify(noted) === JSON.stringify(logged)
      }),
      { numRuns: 1_000 },
    )
    t.end()
  },
)

t.test('a block has the addresses that it has, in every way of writing them', (t) => {
  const gate = gateOf({
    rules: [
      rule('in', 'allow', { from: ['10.0.0.0/8', '2001:db8::/32', '192.0.2.1'] }),
      rule('rest', 'deny'),
    ],
  })
  const zoned = gateOf({ rules: [rule('link', 'deny', { from: ['fe80::/10'] })] })
  t.equal(decided(zoned, 'fe80::1%eth0'), 'rule-denied link')
  for (const inside of [
    '10.0.0.0',
    '10.255.255.255',
    '192.0.2.1',
    '2001:db8::',
    '2001:DB8:FFFF::1',
    '2001:0db8::1',
  ]) {
    t.equal(decided(gate, inside), 'allow in', inside)
  }
  for (const outside of ['11.0.0.0', '9.255.255.255', '192.0.2.2', '2001:db9::', '::', '::10.0.0.1', '']) {
    t.equal(decided(gate, outside), 'rule-denied rest', outside)
  }
  t.end()
})

t.test('field conditions: stars, letter case, any of several, there, not there', (t) => {
  const gate = gateOf({
    rules: [
      rule('bots', 'deny', { headers: { 'User-Agent': '*bot*' } }),
      rule('old', 'deny', { headers: { 'X-Version': '1.*' } }),
      rule('marked', 'deny', { headers: { 'X-Mark': true } }),
      rule('nameless', 'deny', { headers: { 'User-Agent': false } }),
    ],
  })
  for (const [fields, expected] of [
    [['User-Agent', 'GoogleBot/2.1'], 'rule-denied bots'],
    [['user-agent', 'robot'], 'rule-denied bots'],
    [['User-Agent', 'x', 'X-Version', '2.0', 'X-Version', '1.9'], 'rule-denied old'],
    [['User-Agent', 'x', 'X-Version', '11.9'], 'passed'],
    [['User-Agent', 'x', 'X-Mark', ''], 'rule-denied marked'],
    [['User-Agent', 'x'], 'passed'],
    [[], 'rule-denied nameless'],
  ] as const) {
    t.equal(decided(gate, '10.0.0.1', { ...head(), fields: fieldsOf(fields) }), expected, fields.join(' '))
  }
  t.strictSame(gate.counts, {
    origins: 0,
    maxConnections: 0,
    maxConnectionsPerClient: 0,
    bots: 2,
    old: 1,
    marked: 1,
    nameless: 1,
  })
  t.end()
})

t.test('a star stands for anything, as in a regular expression', (t) => {
  const piece = fc.string({ unit: fc.constantFrom('a', 'b', '*', '.', 'B'), maxLength: 8 })
  const value = fc.string({ unit: fc.constantFrom('a', 'b', '.', 'A', '\n'), maxLength: 12 })
  fc.assert(
    fc.property(piece, value, (pattern, text) => {
      const source = pattern
        .split('*')
        .map((part) => part.replace(/\./g, '\\.'))
        .join('.*')
      return valuePattern(pattern)(text) === new RegExp(`^${source}$`, 'is').test(text)
    }),
    { numRuns: 5_000 },
  )
  const startedAt = performance.now()
  t.notOk(valuePattern(`${'*a'.repeat(30)}*b`)('a'.repeat(16_384)))
  t.ok(performance.now() - startedAt < 200, 'a stranger cannot make it slow')
  t.end()
})

// --- origins

t.test('allowed origins: exact, below a domain, with ports, without a scheme, null', (t) => {
  const list = originList([
    'https://chat.example.com',
    'https://*.Example.org',
    'http://localhost:3000',
    'http://[::1]:3000',
    'bare.example',
    '*.bare.example',
    'http://*.ports.example:8080',
    'chrome-extension://abcdefgh',
  ])
  for (const [origin, isAllowed] of [
    ['https://chat.example.com', true],
    ['https://CHAT.example.com', true],
    ['https://chat.example.com:443', true],
    ['https://chat.example.com:8443', false],
    ['http://chat.example.com', false],
    ['https://chat.example.com.evil.test', false],
    ['https://evil-chat.example.com', false],
    ['https://a.example.org', true],
    ['https://a.b.example.org', true],
    ['https://example.org', false],
    ['https://.example.org', false],
    ['https://aexample.org', false],
    ['https://a.example.org.', false],
    ['https://a.example.org:444', false],
    ['http://localhost:3000', true],
    ['http://localhost', false],
    ['http://[::1]:3000', true],
    ['http://bare.example', true],
    ['https://bare.example', true],
    ['ws://bare.example', false],
    ['https://x.bare.example', true],
    ['https://bare.example:8443', false],
    ['http://a.ports.example:8080', true],
    ['http://a.ports.example', false],
    ['chrome-extension://abcdefgh', true],
    ['chrome-extension://abcdefghi', false],
    ['https://chat.example.com/', false],
    ['https://chat.example.com/path', false],
    ['https://user@chat.example.com', false],
    ['https://evil.test\\.example.org', false],
    ['https://evil.test#.example.org', false],
    ['https://chat.example.com https://evil.test', false],
    ['null', false],
    ['', false],
    ['*', false],
  ] as const) {
    t.equal(list.has(origin), isAllowed, origin)
  }
  t.ok(originList(['null']).has('null'))
  t.notOk(originList(['null']).has('https://null'))
  t.end()
})

t.test('no origin of another site passes, whatever a page is called', (t) => {
  const list = originList(['https://*.example.com', 'https://example.com'])
  const label = fc.stringMatching(/^[a-z0-9-]{1,8}$/)
  const host = fc.oneof(
    fc.array(label, { minLength: 1, maxLength: 4 }).map((labels) => labels.join('.')),
    fc
      .tuple(label, fc.constantFrom('example.com', '.example.com', 'example.com.', 'xexample.com'))
      .map((all) => all.join('')),
  )
  fc.assert(
    fc.property(host, fc.constantFrom('', ':443', ':8443'), (name, port) => {
      const site = URL.parse(`https://${name}${port}/`)
      if (site === null) return true
      const isOurs =
        site.port === '' && (site.hostname === 'example.com' || site.hostname.endsWith('.example.com'))
      // Stricter than URL is allowed, laxer is not.
      return !list.has(`https://${name}${port}`) || isOurs
    }),
    { numRuns: 2_000 },
  )
  t.end()
})

t.test('a missing Origin passes unless it is required; two are none', (t) => {
  const origins = ['https://chat.example.com']
  const twice = { ...head(), fields: fieldsOf(['Origin', origins[0] ?? '', 'Origin', origins[0] ?? '']) }
  const lax = gateOf({ origins })
  t.equal(decided(lax, ''), 'passed')
  t.equal(decided(lax, '', head({ Origin: 'https://evil.test' })), 'cross-origin origins')
  t.equal(decided(lax, '', head({ Origin: origins[0] ?? '' })), 'passed')
  t.equal(decided(lax, '', twice), 'cross-origin origins')
  const strict = gateOf({ origins, requireOrigin: true, rules: [rule('all', 'allow')] })
  t.equal(decided(strict, ''), 'cross-origin origins', 'a rule that allows is no way around it')
  t.equal(decided(gateOf({ requireOrigin: true }), ''), 'cross-origin origins')
  t.equal(decided(gateOf({ requireOrigin: true }), '', head({ Origin: 'null' })), 'passed')
  t.end()
})

// --- what counts as one client

t.test('IPv6 clients are one if they share a /64, IPv4 clients if they are the same', (t) => {
  fc.assert(
    fc.property(fc.ipV6(), fc.ipV6(), fc.nat(64), (one, other, keep) => {
      const list = new BlockList()
      list.addSubnet(one, 64, 'ipv6')
      const near = new BlockList()
      near.addSubnet(one, keep, 'ipv6')
      return (clientNetwork(one) === clientNetwork(other)) === list.check(other, 'ipv6')
    }),
    { numRuns: 2_000 },
  )
  const same = [
    '2001:db8:0:1::1',
    '2001:0DB8:0000:0001:ffff::2',
    '2001:db8::1:0:0:0:3',
    '2001:db8:0:1:a:b:c:d%eth0',
  ]
  for (const one of same) t.equal(clientNetwork(one), '2001:db8:0:1::/64', one)
  t.equal(clientNetwork('::1'), '0:0:0:0::/64')
  t.equal(clientNetwork('1::2:3:4:5:6:7'), '1:0:2:3::/64')
  t.equal(clientNetwork('::2:3:4:5:192.0.2.1'), '0:0:2:3::/64')
  t.equal(clientNetwork('203.0.113.7'), '203.0.113.7')
  t.equal(clientNetwork(''), '')
  t.end()
})

// --- the ledger

function seat(limit: number | null, expected: number | null = null, key = 'chat'): SeatClaim {
  return { rule: 'maxConnections', key, limit, expected, code: 'service-full' }
}

function claims(id: string, seats: readonly SeatClaim[], rates: Claims['rates'] = []): Claims {
  return { id, service: 'chat', seats, rates }
}

function ledgerOf(t: Test, onCrossing: (crossing: Crossing) => void = () => {}) {
  const ledger = createLedger({ redis: undefined, onCrossing, onTrouble: (what) => t.fail(what.message) })
  t.teardown(() => ledger.close())
  return ledger
}

t.test('claims and verdicts go through JSON', async (t) => {
  const { claims: made } = gateOf({
    rates: [
      { name: 'per-client', per: 'client', limit: 1, windowMs: 1_000, except: [] },
      { name: 'per-key', per: { header: 'X-Api-Key' }, limit: 1, windowMs: 1_000, except: [] },
    ],
    maxConnections: 2,
    maxConnectionsPerClient: 1,
    expectedConnections: 1,
  }).check('1', '10.0.0.1', head({ 'X-Api-Key': 'secret' }), () => {})
  t.strictSame(JSON.parse(JSON.stringify(made)), made)
  t.notMatch(JSON.stringify(made), /secret/)
  const ledger = ledgerOf(t)
  await ledger.take(made as Claims)
  const verdict = await ledger.take({ ...(made as Claims), id: '2' })
  t.strictSame(JSON.parse(JSON.stringify(verdict)), verdict)
  t.match(verdict, { isGranted: false, code: 'rate-limited', rule: 'per-client' })
})

t.test('only what can be counted costs a claim, and only rates a promise', (t) => {
  t.equal(gateOf({ rules: [rule('all', 'allow')] }).check('1', '', head(), () => {}).claims, null)
  const { claims: made } = gateOf({ maxConnections: 1 }).check('1', '', head(), () => {})
  t.notOk(ledgerOf(t).take(made as Claims) instanceof Promise)
  t.end()
})

t.test('however it is given back, no seat is lost and none is given twice', async (t) => {
  const step = fc.record({
    id: fc.constantFrom('a', 'b', 'c', 'd', 'e'),
    act: fc.constantFrom('take', 'give'),
    isRated: fc.boolean(),
  })
  const rates = [{ rule: 'rate', key: '', limit: 1_000_000, windowMs: 1_000 }]
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      const ledger = createLedger({ redis: undefined, onCrossing() {}, onTrouble() {} })
      const pending: (Verdict | Promise<Verdict>)[] = []
      for (const { id, act, isRated } of steps) {
        if (act === 'take') pending.push(ledger.take(claims(id, [seat(3)], isRated ? rates : [])))
        else ledger.give(id)
      }
      await Promise.all(pending)
      for (const id of ['a', 'b', 'c', 'd', 'e']) ledger.give(id)
      const isEmpty = ledger.size === 0
      const verdicts = ['1', '2', '3', '4'].map((id) => ledger.take(claims(id, [seat(3)])) as Verdict)
      ledger.close()
      return isEmpty && verdicts.map(({ isGranted }) => isGranted).join() === 'true,true,true,false'
    }),
    { numRuns: 300 },
  )
  t.end()
})

t.test('a refused request keeps no seat of those that had one left', (t) => {
  const ledger = ledgerOf(t)
  const both = [seat(10), seat(1, null, 'chat 10.0.0.1')]
  t.match(ledger.take(claims('1', both)), { isGranted: true })
  for (let at = 0; at < 20; at += 1) {
    t.match(ledger.take(claims(`x${at}`, both)), { isGranted: false, retryAfterMs: Number })
  }
  for (let at = 0; at < 9; at += 1) t.match(ledger.take(claims(`y${at}`, [seat(10)])), { isGranted: true })
  t.match(ledger.take(claims('z', [seat(10)])), { isGranted: false, code: 'service-full' })
  t.end()
})

t.test('a spike is told once, and again only after it fell below 90 %; nobody is refused', (t) => {
  const told: string[] = []
  const ledger = ledgerOf(t, ({ connections, isAbove }) => told.push(`${isAbove} ${connections}`))
  let count = 0
  const grow = (to: number) => {
    for (; count < to; count += 1)
      t.match(ledger.take(claims(`${count}`, [seat(null, 20)])), { isGranted: true })
  }
  const shrink = (to: number) => {
    for (; count > to; count -= 1) ledger.give(`${count - 1}`)
  }
  grow(20)
  t.strictSame(told, [])
  grow(30)
  shrink(18)
  grow(25)
  t.strictSame(told, ['true 21'])
  t.strictSame(ledger.spikes('chat'), {
    service: 'chat',
    connections: 25,
    expected: 20,
    isAbove: true,
    spikes: 1,
  })
  shrink(17)
  grow(21)
  t.strictSame(told, ['true 21', 'false 17', 'true 21'])
  t.equal(ledger.spikes('chat')?.spikes, 2)
  t.end()
})

// --- rates

const perClient = {
  name: 'per-client',
  per: 'client',
  limit: 3,
  windowMs: 1_000,
  except: ['10.9.0.0/16'],
} as const

async function knock(gate: Gate, ledger: Ledger, id: string, from: string, asked = head()): Promise<Verdict> {
  const { claims: made } = gate.check(id, from, asked, () => {})
  return made === null ? { isGranted: true } : await ledger.take(made)
}

t.test('each client has its own count, and its window ends', async (t) => {
  const gate = gateOf({ rates: [perClient] })
  const ledger = ledgerOf(t)
  for (let at = 0; at < 3; at += 1)
    t.match(await knock(gate, ledger, `${at}`, '10.0.0.1'), { isGranted: true })
  // The first one has begun its window, when what counts rates had been loaded.
  const startedAt = performance.now()
  const denied = (await knock(gate, ledger, '3', '10.0.0.1')) as Exclude<Verdict, { isGranted: true }>
  t.match(denied, { code: 'rate-limited', rule: 'per-client', detail: '3 in 1 s' })
  t.ok(denied.retryAfterMs > 0 && denied.retryAfterMs <= 1_000, `${denied.retryAfterMs}`)
  t.match(await knock(gate, ledger, '4', '10.0.0.2'), { isGranted: true })
  for (let at = 0; at < 9; at += 1)
    t.match(await knock(gate, ledger, `e${at}`, '10.9.0.1'), { isGranted: true })
  while (performance.now() - startedAt < 1_100) await wait(50)
  t.match(await knock(gate, ledger, '5', '10.0.0.1'), { isGranted: true })
  t.throws(() => gate.heed(denied), { code: 'rate-limited', rule: 'per-client', retryAfterMs: Number })
  t.equal(gate.counts['per-client'], 1)
})

t.test(
  'values of a field have their own counts, a service has one; without the field all are one',
  async (t) => {
    const rates = [{ name: 'per-key', per: { header: 'x-API-key' }, limit: 1, windowMs: 60_000, except: [] }]
    const gate = gateOf({ rates })
    const ledger = ledgerOf(t)
    const granted: boolean[] = []
    for (const fields of [
      { 'X-Api-Key': 'a' },
      { 'x-api-key': 'b' },
      { 'X-API-KEY': 'a' },
      {},
      {},
    ] as const) {
      granted.push((await knock(gate, ledger, `${granted.length}`, '', head(fields))).isGranted)
    }
    t.strictSame(granted, [true, true, false, true, false])
    const whole = gateOf({ rates: [{ name: 'all', per: 'service', limit: 1, windowMs: 60_000, except: [] }] })
    t.match(await knock(whole, ledger, 'a', '10.0.0.1'), { isGranted: true })
    t.match(await knock(whole, ledger, 'b', '10.0.0.2'), { isGranted: false, rule: 'all' })
  },
)

t.test(
  'strangers with any number of addresses get a bounded number of keys; who goes on is not forgotten',
  async (t) => {
    const store = memoryRates()
    t.teardown(() => store.close())
    const claim = { rule: 'per-client', limit: 3, windowMs: 600_000 }
    const persistent = { ...claim, key: '203.0.113.7' }
    let refusals = 0
    const heap: number[] = []
    for (let at = 0; at < 150_000; at += 1) {
      const from = `2001:db8:${(at >> 16).toString(16)}:${(at & 0xffff).toString(16)}::1`
      await store.consume('chat', { ...claim, key: clientNetwork(from) })
      if (at % 1_000 === 0 && (await store.consume('chat', persistent)) > 0) refusals += 1
      if (at === 75_000) heap.push(heapInUse())
    }
    heap.push(heapInUse())
    t.equal(store.size, MAX_KEYS)
    t.equal(refusals, 150 - 3)
    const [full = 0, later = 0] = heap
    // Twice the keys would be half as much again.
    t.ok(
      later < full * 1.2,
      `${full.toFixed(0)} MiB when it is full, ${later.toFixed(0)} after as many again`,
    )
  },
)

t.test(
  'another process goes on with what was counted: of too many keys those nearest to their limit',
  async (t) => {
    const [before, after] = [memoryRates(), memoryRates()]
    t.teardown(() => {
      before.close()
      after.close()
    })
    const claim = { rule: 'per-client', limit: 3, windowMs: 600_000 }
    const other = { rule: 'all', key: '', limit: 2, windowMs: 600_000 }
    const spent = { ...claim, key: 'spent' }
    for (let at = 0; at < 3; at += 1) await before.consume('chat', spent)
    for (let at = 0; at < MAX_KEYS - 1; at += 1) await before.consume('chat', { ...claim, key: `${at}` })
    await before.consume('chat', other)
    await before.consume('news', { ...claim, key: 'once' })
    const told = JSON.parse(JSON.stringify(before.counted())) as CountedRate[]
    t.equal(
      told.reduce((sum, { keys }) => sum + keys.length, 0),
      MAX_TOLD_KEYS,
    )
    after.adopt(told)
    t.equal(after.size, MAX_TOLD_KEYS)
    t.ok((await after.consume('chat', spent)) > 500_000, 'its window has not begun anew')
    t.equal(await after.consume('chat', other), 0)
    t.ok((await after.consume('chat', other)) > 0)
    t.equal(await after.consume('news', spent), 0, 'each service has its own')
  },
)

/** In MiB, without garbage. */
function heapInUse(): number {
  setFlagsFromString('--expose-gc')
  runInNewContext('gc')()
  return process.memoryUsage().heapUsed / 2 ** 20
}

// --- Redis

const skip = await reasonToSkipRedis()

t.test('rates in a real Redis', { skip }, async (t) => {
  const { child: redis, port } = await startRedis(t)
  const troubles: HeadraceError[] = []
  const storeOf = () => {
    const store = redisRates(`redis://127.0.0.1:${port}`, (what) => troubles.push(what))
    t.teardown(() => store.close())
    return store
  }
  const claim = { rule: 'per-client', limit: 3, windowMs: 600_000, key: '10.0.0.1' }

  await t.test('two edges count together', async (t) => {
    const [one, other] = [storeOf(), storeOf()]
    await Promise.all([one.ready(), other.ready()])
    const knocks = async (key: string) => {
      const waits: number[] = []
      for (const store of [one, other, one, other, one])
        waits.push(await store.consume('chat', { ...claim, key }))
      return waits
    }
    const granted = (waits: readonly number[]) => waits.map((ms) => ms === 0).join()
    const waits = await undisturbed(knocks, (all) => granted(all) === 'true,true,true,false,false')
    t.equal(granted(waits), 'true,true,true,false,false')
    for (const ms of waits.slice(3)) t.ok(ms > 500_000 && ms <= 600_000, `${ms} ms`)
    t.equal(await one.consume('news', claim), 0, 'another service has its own count')
  })

  await t.test(
    'a Redis that hangs: counted alone after a bounded wait, told once, shared again later',
    async (t) => {
      const store = storeOf()
      await store.ready()
      const spent = { ...claim, key: '10.0.0.2' }
      for (let at = 0; at < 4; at += 1) await store.consume('chat', spent)
      t.ok((await store.consume('chat', spent)) > 0)
      troubles.length = 0
      redis.kill('SIGSTOP')
      t.teardown(() => redis.kill('SIGCONT'))
      const startedAt = performance.now()
      t.equal(await store.consume('chat', spent), 0, 'this process has counted nothing yet')
      const waited = performance.now() - startedAt
      t.ok(waited > 150 && waited < 2_000, `${waited.toFixed(0)} ms`)
      const again = performance.now()
      const waits: number[] = []
      for (let at = 0; at < 5; at += 1) waits.push(await store.consume('chat', spent))
      t.ok(performance.now() - again < 150, 'the next ones do not wait')
      t.strictSame(
        waits.map((ms) => ms > 0),
        [false, false, true, true, true],
      )
      t.match(troubles, [
        { code: 'rate-store-failed', detail: new RegExp(`^Redis at 127.0.0.1:${port}: .*timed out`) },
      ])
      redis.kill('SIGCONT')
      let ms = 0
      for (let at = 0; at < 100 && ms === 0; at += 1) {
        await wait(50)
        ms = await store.consume('chat', { ...spent, key: '10.0.0.3' })
      }
      t.ok(ms > 0)
      t.equal(troubles.length, 1, 'once')
    },
  )

  await t.test('a Redis that dies and comes back', async (t) => {
    troubles.length = 0
    const store = storeOf()
    await store.ready()
    redis.kill('SIGKILL')
    await once(redis, 'exit')
    for (let at = 0; at < 3; at += 1) t.equal(await store.consume('chat', claim), 0)
    t.ok((await store.consume('chat', claim)) > 0)
    t.match(
      troubles.map(({ code }) => code),
      ['rate-store-failed'],
    )
    await startRedis(t, port)
    const other = storeOf()
    await other.ready()
    // Shared again: what one takes the other lacks.
    const shared = { ...claim, key: '10.0.0.4', limit: 1 }
    let isShared = false
    for (let at = 0; at < 100 && !isShared; at += 1) {
      await wait(100)
      const fresh = { ...shared, key: `10.0.1.${at}` }
      await store.consume('chat', fresh)
      isShared = (await other.consume('chat', fresh)) > 0
    }
    t.ok(isShared)
  })
})

t.test('no Redis at the start: told once, and counted alone', async (t) => {
  const port = await freePort()
  const troubles: HeadraceError[] = []
  const store = redisRates(`redis://user:hush@127.0.0.1:${port}`, (what) => troubles.push(what))
  t.teardown(() => store.close())
  await store.ready()
  const claim = { rule: 'per-client', limit: 1, windowMs: 60_000, key: '10.0.0.1' }
  t.equal(await store.consume('chat', claim), 0)
  t.ok((await store.consume('chat', claim)) > 0)
  t.equal(troubles.length, 1)
  t.match(troubles[0]?.detail, /counts alone/)
  t.notMatch(troubles[0]?.message, /hush/)
})

t.test('a store that was ready stays so, however often it is asked', { skip }, async (t) => {
  const { port } = await startRedis(t)
  const store = redisRates(`redis://127.0.0.1:${port}`, (what) => t.fail(what.message))
  t.teardown(() => store.close())
  await Promise.all([store.ready(), store.ready()])
  await store.ready()
  t.equal(await store.consume('chat', { rule: 'a', limit: 1, windowMs: 60_000, key: '' }), 0)
})

// --- the webhook

t.test('a webhook that hangs holds a bounded number of messages, and none when it is closed', async (t) => {
  let calls = 0
  const server = createServer(() => {
    calls += 1
    server.emit('called')
  }).listen(0, '127.0.0.1')
  t.teardown(() => server.closeAllConnections())
  t.teardown(() => server.close())
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const troubles: string[] = []
  const webhook = createWebhook({ url: `http://127.0.0.1:${port}/`, headers: {} }, ({ code, detail }) =>
    troubles.push(`${code} ${detail}`),
  )
  for (let at = 0; at < 103; at += 1) webhook.tell({ at })
  t.strictSame(troubles, [
    'webhook-failed {"at":101}: 100 messages wait already',
    'webhook-failed {"at":102}: 100 messages wait already',
  ])
  await once(server, 'called')
  webhook.close()
  webhook.tell({ at: 'late' })
  await wait(700)
  t.equal(calls, 1, 'the first was on its way, and nothing came behind it')
  t.equal(troubles.length, 2)
})

function hosted(
  t: Test,
  onCrossing: (crossing: Crossing) => void = () => {},
  isInCharge?: () => boolean,
): HostedLedger {
  return hostLedger(onCrossing, (what) => t.fail(what.message), isInCharge)
}

/** As the release before asks it. */
function heirIn(after: HostedLedger): Heir {
  return {
    take: async (claims) => (await after.ask('before', { kind: 'take', claims })) as Verdict,
    give: (id) => void after.ask('before', { kind: 'give', id }),
  }
}

t.test('while two releases accept, both ledgers have to grant: of rates and of seats', async (t) => {
  const [before, after] = [hosted(t), hosted(t)]
  const rate = (limit: number) => ({ rule: 'all', key: '', limit, windowMs: 600_000 })
  const seat = { rule: 'maxConnections', key: 'chat', limit: 2, expected: 9, code: 'service-full' } as const
  let count = 0
  const take = async (ledger: HostedLedger, what: Partial<Claims>) => {
    count += 1
    const claims = { id: `${count}`, service: 'chat', rates: [], seats: [], ...what }
    return ((await ledger.ask('one', { kind: 'take', claims })) as Verdict).isGranted
  }
  const rates = { rates: [rate(4)] }
  const seats = { seats: [seat] }
  t.same([await take(before, rates), await take(before, seats)], [true, true])
  after.adoptRates(before.rates())
  before.heir = heirIn(after)
  after.seat('before', before.seats())
  t.same([await take(before, rates), await take(after, rates)], [true, true])
  t.same(
    [await take(before, rates), await take(before, rates), await take(after, rates)],
    [true, false, false],
  )

  t.equal(await take(after, seats), true)
  t.equal(await take(before, seats), false, 'full there')
  t.equal(before.seats().length, 1, 'and nothing is kept here')
  before.forget(['2'])
  t.equal(await take(before, seats), false, 'it has moved, and is counted there')
  after.forget(['2'])
  t.equal(await take(before, seats), true)
  t.equal(await take(after, seats), false)
  before.release('one')
  t.equal(after.seats().length, 1, 'what is free here is free there')

  before.heir = { take: () => Promise.reject(new Error('it has gone')), give: () => {} }
  t.same(
    [await take(before, seats), await take(before, seats), await take(before, seats)],
    [true, true, false],
  )
})

t.test('a seat that has gone over stays taken, whatever becomes of who had it', async (t) => {
  const [before, after] = [hosted(t), hosted(t)]
  for (const id of ['moved', 'ended', 'stays']) {
    const claims = { id, service: 'chat', rates: [], seats: [seat(3)] }
    t.match(await before.ask('old', { kind: 'take', claims }), { isGranted: true })
  }
  const open = () => after.seats().map(({ id }) => id)
  before.heir = heirIn(after)
  after.seat('before', before.seats())
  after.ask('new', { kind: 'keep', ids: ['moved', 'ended'] })
  after.ask('new', { kind: 'give', id: 'ended' })
  before.release('old')
  t.strictSame(open(), ['moved'], 'what the dead one still had is free')
  after.seat('before', [{ id: 'moved', service: 'chat', seats: [seat(3)] }])
  after.release('before')
  t.strictSame(open(), ['moved'], 'also if it is told once more')
  after.release('new')
  t.strictSame(open(), [])
})

t.test('of two releases the one in charge tells of a spike: once, whatever goes over', async (t) => {
  const told: string[] = []
  const teller = (who: string) => (crossing: Crossing) => {
    told.push(`${who} ${crossing.isAbove} ${crossing.connections}`)
  }
  let isInCharge = false
  const [before, after] = [hosted(t, teller('before')), hosted(t, teller('after'), () => isInCharge)]
  let count = 0
  const grow = async (ledger: HostedLedger, by: number, expected = 10) => {
    for (; by > 0; by -= 1) {
      count += 1
      const seats = [seat(null, expected)]
      await ledger.ask('one', { kind: 'take', claims: claims(`${count}`, seats) })
    }
  }
  const shrink = (ledger: HostedLedger, by: number) => {
    for (; by > 0; by -= 1) {
      ledger.ask('one', { kind: 'give', id: `${count}` })
      count -= 1
    }
  }
  const handOver = () => {
    before.heir = heirIn(after)
    after.adoptSpikes(before.spikeStates())
    after.seat('before', before.seats())
  }

  await grow(before, 11)
  shrink(before, 3)
  await grow(before, 2)
  t.strictSame(told.splice(0), ['before true 11', 'before false 8'])
  before.heir = heirIn(hosted(t))
  await grow(before, 5)
  t.strictSame(told, [], 'while it changes nobody tells')
  before.heir = null
  before.expect(new Map([['chat', 10]]))
  t.strictSame(told.splice(0), ['before true 15'], 'it was given up')

  handOver()
  after.ask('one', { kind: 'keep', ids: before.seats().map(({ id }) => id) })
  isInCharge = true
  after.expect(new Map([['chat', 12]]))
  before.forget(before.seats().map(({ id }) => id))
  t.strictSame(told, [], 'it goes on, whoever has it')
  t.match(after.spikes('chat'), { isAbove: true, spikes: 2 })
  shrink(after, 5)
  t.strictSame(told.splice(0), ['after false 10'], 'as many are expected as the new config says')
  shrink(after, 1)
  await grow(after, 4, 12)
  t.strictSame(told.splice(0), ['after true 13'])
  after.expect(new Map())
  shrink(after, 1)
  t.strictSame(told, [], 'no number is expected any more')
})

t.test(
  'the ledger of all workers: what a worker that died held, or was about to get, is free again',
  async (t) => {
    const ledger = hosted(t)
    const seat: SeatClaim = {
      rule: 'maxConnections',
      key: 'chat',
      limit: 2,
      expected: 1,
      code: 'service-full',
    }
    const rate = { rule: 'all', key: '', limit: 100, windowMs: 60_000 }
    const take = async (worker: string, id: string, rates: Claims['rates'] = []) =>
      (
        (await ledger.ask(worker, {
          kind: 'take',
          claims: { id, service: 'chat', rates, seats: [seat] },
        })) as Verdict
      ).isGranted
    const open = () => ledger.spikes('chat')?.connections

    t.same([await take('one', 'a'), await take('two', 'b'), await take('two', 'c')], [true, true, false])
    ledger.release('one')
    t.equal(open(), 1)
    t.equal(await take('two', 'c'), true, 'the seat of the dead one')
    ledger.ask('two', { kind: 'give', id: 'b' })
    ledger.ask('two', { kind: 'give', id: 'b' })
    t.equal(open(), 1, 'given back once')
    const asking = take('three', 'd', [rate])
    ledger.release('three')
    await asking
    t.equal(open(), 1, 'it died while its rates were asked')
    ledger.release('two')
    t.equal(open(), 0)
  },
)
