// The page of the running program with two workers, in Chromium; what it is made of: the events, their rates and bounds.

import type { IncomingMessage } from 'node:http'
import { get } from 'node:http'
import { join } from 'node:path'
import fc from 'fast-check'
import type { Browser, Page } from 'playwright-core'
import type { Test } from 'tap'
import t from 'tap'
import type { Look, Pulse } from '../src/admin/pulse.ts'
import { pulseOf } from '../src/admin/pulse.ts'
import type { Role } from '../src/admin/roles.ts'
import { createToken, revokeToken } from '../src/admin/tokens.ts'
import type { Account, Activity } from '../src/observe/activity.ts'
import { topOf } from '../src/observe/top.ts'
import { startChromium, withoutChromium } from './support/chromium.ts'
import type { Fleet } from './support/control.ts'
import { ask, chatConfig, echoes, newFolder, startFleet } from './support/control.ts'
import { echo, startOrigin, upgradeRequest } from './support/origin.ts'
import { connectTo } from './support/peer.ts'

const OPEN = 'workers: 2\nadmin: { address: "127.0.0.1:0" }\n'
const GUARDED = 'workers: 2\nadmin: { address: "127.0.0.1:0", tokens: tokens.json }\n'

async function adminOf(fleet: Fleet): Promise<string> {
  const [{ address } = {}] = await fleet.says('admin API listens')
  return String(address)
}

interface Watched {
  readonly page: Page
  /** What the console said of errors, and what was thrown. */
  readonly errors: string[]
  /** Where anything was asked for. */
  readonly asked: string[]
}

async function openPage(browser: Browser, address: string, width = 1280): Promise<Watched> {
  const context = await browser.newContext({ viewport: { width, height: 900 } })
  const page = await context.newPage()
  const errors: string[] = []
  const asked: string[] = []
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') errors.push(message.text())
  })
  page.on('pageerror', ({ message }) => errors.push(message))
  page.on('dialog', (dialog) => errors.push(`a dialog: ${dialog.message()}`))
  page.on('request', (request) => asked.push(request.url()))
  await page.goto(`http://${address}/`)
  return { page, errors, asked }
}

/** Resolves when the first element of this selector has this text; a page that does not come there fails its test. */
async function reads(page: Page, selector: string, text: string | RegExp): Promise<void> {
  const found = page.locator(selector).filter({ hasText: text }).first()
  await found.waitFor({ state: 'visible', timeout: 15_000 })
}

const TOTAL_OPEN = '[data-total=open]'

t.test(
  'the page moves with the tunnels, shows what strangers send as text, and asks nobody else',
  { skip: withoutChromium },
  async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const checked = 'health: { check: tcp, interval: 1s } }]'
    const fleet = await startFleet(
      t,
      chatConfig(origin.address, OPEN).replace('" }]\nworkers', `", ${checked}\nworkers`),
    )
    const address = await adminOf(fleet)
    const browser = await startChromium(t)
    const wide = await openPage(browser, address)
    const narrow = await openPage(browser, address, 390)
    const { page } = wide
    await reads(page, '#state-text', 'live')
    await reads(page, TOTAL_OPEN, /^0$/)

    const rising = reads(page, '[data-total=opened]', /^[1-9]/)
    const clients = await Promise.all(Array.from({ length: 24 }, () => fleet.open()))
    await reads(page, TOTAL_OPEN, /^24$/)
    await rising
    await reads(page, '#services tr.backend', 'healthy')
    const perWorker = await page.locator('#workers tr td:last-child').allTextContents()
    t.equal(perWorker.length, 2)
    t.equal(
      perWorker.map(Number).reduce((sum, one) => sum + one, 0),
      24,
    )
    t.ok(
      perWorker.every((one) => Number(one) > 0),
      'both workers have some',
    )
    t.match(await page.locator('#services tr').allTextContents(), [
      /^chat\*24/,
      /^origin *healthy *127\.0\.0\.1:\d+24/,
    ])
    t.equal(await page.locator('#tunnels tr').count(), 10)

    const moved = reads(page, '[data-total=originToClient]', /[1-9].*kB/)
    for (const client of clients) t.ok(await echoes(client, 'x'.repeat(20_000)))
    await moved
    await page.getByText('Biggest', { exact: true }).click()
    await reads(page, '#tunnels td:last-child', '20.0 kB')

    for (const client of clients.slice(0, 10)) client.end()
    await reads(page, TOTAL_OPEN, /^14$/)

    const markup = '<img/src=x/onerror=alert(document.domain)>'
    for (const [target, fields] of [
      [`/${markup}`, { Origin: `https://${markup}.example`, 'Sec-WebSocket-Version': '12' }],
      ['/chat', { Host: '<b>bold</b>' }],
    ] as const) {
      const stranger = await connectTo(t, fleet.address)
      stranger.write(upgradeRequest(fields, target))
      await stranger.all()
    }
    await reads(page, '#refusals tr', `/${markup}`)
    await reads(page, '#refusals tr', '<b>bold</b>')
    t.match(await page.locator('#refusals tr', { hasText: markup }).textContent(), /426websocket-version/)
    t.equal(await page.locator('#refusals img, #refusals b').count(), 0, 'nothing of it has become markup')

    await reads(narrow.page, TOTAL_OPEN, /^14$/)
    await reads(narrow.page, '#refusals tr', `/${markup}`)
    // What was counted is asked for when a page begins to look, and then once a minute.
    await page.reload()
    await reads(page, '#usage tr', /^chat24/)
    await reads(page, '#usage-title', /^Usage in [A-Z][a-z]+ 20[0-9]{2} \(UTC\)$/)
    for (const { page: one, errors, asked } of [wide, narrow]) {
      const overflow = await one.evaluate(() => document.documentElement.scrollWidth - window.innerWidth)
      t.ok(overflow <= 0, `nothing is wider than the window: ${overflow}`)
      t.strictSame(errors, [])
      t.strictSame(
        asked.filter((url) => !url.startsWith(`http://${address}/`) && !url.startsWith('data:')),
        [],
      )
    }
    const { headers } = await ask(address, '/')
    t.match(headers['content-security-policy'], /^default-src 'none'; script-src 'self'; style-src 'self'; /)

    await page.getByRole('button', { name: 'switch WebSockets of chat off' }).click()
    await page.locator('#switch-go').click()
    await reads(page, '#switch-error', 'no tokens are configured, so that nobody may change anything here')
    await page.keyboard.press('Escape')
    t.match((await fleet.control('/services/chat')).json, { websockets: 'on' })
  },
)

t.test(
  'a refusal shows the rule that refused it, a spike is seen while it lasts, and so is a late event loop',
  { skip: withoutChromium },
  async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const busy = `export default (request) => {
  if (request.path === '/busy') for (const end = Date.now() + 400; Date.now() < end; );
  return { kind: 'handoff', backend: 'origin' }
}
`
    const folder = newFolder(t, { 'edge.mjs': busy })
    const gate = `    handler: ./edge.mjs
    gate:
      expectedConnections: 3
      maxConnections: 5
      rules: [{ name: no-scrapers, headers: { User-Agent: "*scraper*" }, action: deny }]
      rates: [{ name: few-an-hour, per: client, limit: 6, window: 1h }]
`
    const fleet = await startFleet(t, chatConfig(origin.address, gate + OPEN), { folder })
    const { page, errors } = await openPage(await startChromium(t), await adminOf(fleet))
    await reads(page, '#state-text', 'live')
    const refused = async (fields: Readonly<Record<string, string>>) => {
      const stranger = await connectTo(t, fleet.address)
      stranger.write(upgradeRequest(fields))
      return await stranger.all()
    }
    t.match(await refused({ 'User-Agent': 'a scraper' }), /^HTTP\/1\.1 403 /)
    const clients = await Promise.all(Array.from({ length: 5 }, () => fleet.open()))
    t.match(await refused({}), /^HTTP\/1\.1 503 /)
    t.match(await refused({}), /^HTTP\/1\.1 429 /)
    clients[4]?.end()
    await reads(page, '#services .spike', /^ · spike: 4 connections, 3 expected$/)
    for (const [rule, code] of [
      ['no-scrapers', '403rule-denied'],
      ['maxConnections', '503service-full'],
      ['few-an-hour', '429rate-limited'],
    ]) {
      const row = page.locator('#refusals tr', { hasText: code ?? '' })
      await row.waitFor({ state: 'visible' })
      t.equal(await row.locator('td[data-label=Rule]').textContent(), rule)
    }
    for (const client of clients) client.end()
    await reads(page, '#services tr.service', ' · 3 expected, exceeded once')

    const blocking = await connectTo(t, fleet.address)
    // The handler decides about it, too; there is no route for it then.
    blocking.write('GET /busy HTTP/1.1\r\nHost: chat.test\r\nConnection: close\r\n\r\n')
    t.match(await blocking.all(), /^HTTP\/1\.1 426 /)
    await reads(page, '#workers .error', /^[2-9][0-9]{2} ms$/)
    t.match(await page.locator('#workers td[data-label="Late, mean"]').first().textContent(), /^[0-9.]+ ms$/)
    t.strictSame(errors, [])
  },
)

async function tokensOf({ folder }: Fleet): Promise<Record<Role, string>> {
  const file = join(folder, 'tokens.json')
  const user = await createToken(file, 'reader', 'user')
  const engineer = await createToken(file, 'switcher', 'engineer')
  return { user, engineer, superuser: await createToken(file, 'root', 'superuser') }
}

t.test(
  'with tokens: who looks needs one, who switches needs a better one, and one that is revoked sees no more',
  { skip: withoutChromium },
  async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const fleet = await startFleet(t, chatConfig(origin.address, GUARDED))
    const tokens = await tokensOf(fleet)
    const { page, errors } = await openPage(await startChromium(t), await adminOf(fleet))
    await reads(page, '#notice-text', 'Who looks here needs a token.')
    await page.locator('#notice input').fill('headrace_nonsense')
    await page.keyboard.press('Enter')
    await reads(page, '#notice-text', 'a valid token is needed')
    await page.locator('#notice input').fill(tokens.user)
    await page.keyboard.press('Enter')
    await reads(page, '#state-text', 'live')
    t.equal(await page.locator('#notice').isVisible(), false)
    t.equal(await page.evaluate(() => sessionStorage.getItem('headrace-token')), tokens.user)
    t.equal(await page.evaluate(() => localStorage.length + document.cookie.length), 0)
    await page.reload()
    await reads(page, '#state-text', 'live')

    const clients = await Promise.all(Array.from({ length: 6 }, () => fleet.open()))
    await reads(page, TOTAL_OPEN, /^6$/)
    const ask = async (token: string, isClosing: boolean) => {
      await page.locator('#switch-dialog [name=token]').fill(token)
      if (isClosing) await page.locator('#switch-dialog [name=closeTunnels]').check()
      await page.locator('#switch-go').click()
    }
    await page.getByRole('button', { name: 'switch WebSockets of chat off' }).click()
    await ask('', false)
    await reads(page, '#switch-error', 'reader has the role user, and this needs engineer')
    await ask('headrace_wrong', false)
    await reads(page, '#switch-error', 'a valid token is needed')
    t.match((await fleet.control('/services/chat')).json, { websockets: 'on' })

    await ask(tokens.engineer, true)
    await reads(page, '#switch-title', 'End 6 open tunnels of chat?')
    t.match((await fleet.control('/services/chat')).json, { websockets: 'on', tunnels: 6 }, 'only asked')
    await page.locator('#switch-go').click()
    await reads(page, '#done', 'WebSockets are off for chat; 6 tunnels are being ended')
    for (const client of clients) {
      await client.ended
      client.end()
    }
    await reads(page, TOTAL_OPEN, /^0$/)
    await reads(page, '#services .pill', 'off')
    t.match((await fleet.control('/services/chat')).json, { websockets: 'off' })
    await page.getByRole('button', { name: 'switch WebSockets of chat on' }).click()
    await ask('', false)
    await reads(page, '#done', 'WebSockets are on for chat')
    t.equal((await fleet.says('changed by an operator', 2)).length, 2)

    await revokeToken(join(fleet.folder, 'tokens.json'), 'switcher')
    await reads(page, '#notice-text', 'The token was not taken')
    t.ok(
      errors.every((one) => /status of 40[13]|INCOMPLETE_CHUNKED/.test(one)),
      errors.join('; '),
    )
  },
)

t.test(
  'a page whose edge goes away says so, and is live again when it is back',
  { skip: withoutChromium },
  async (t) => {
    const origin = await startOrigin(t, { answer: echo })
    const fleet = await startFleet(t, chatConfig(origin.address, OPEN))
    const address = await adminOf(fleet)
    const { page } = await openPage(await startChromium(t), address)
    await reads(page, '#state-text', 'live')
    fleet.program.child.kill('SIGTERM')
    await reads(page, '#state-text', 'reconnecting…')
    await fleet.program.ended
    await startFleet(t, chatConfig(origin.address, OPEN.replace('127.0.0.1:0', address)))
    await reads(page, '#state-text', 'live')
  },
)

/** Reads the events until it is told enough; resolves with all of that name. */
async function events(
  t: Test,
  address: string,
  name: string,
  isEnough: (seen: readonly Pulse[]) => boolean,
): Promise<Pulse[]> {
  const response = await look(address)
  t.teardown(() => response.destroy())
  t.match(response.headers, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' })
  const seen: Pulse[] = []
  let text = ''
  for await (const chunk of response.setEncoding('utf8')) {
    const parts = (text + chunk).split('\n\n')
    text = parts.pop() ?? ''
    for (const part of parts) {
      const [, which, data = ''] = /^event: (\w+)\ndata: (.*)$/.exec(part) ?? []
      if (which === name) seen.push(JSON.parse(data))
    }
    if (isEnough(seen)) break
  }
  return seen
}

async function look(address: string): Promise<IncomingMessage> {
  return await new Promise((resolve, reject) => {
    get(`http://${address}/events`, { agent: false }, resolve).on('error', reject)
  })
}

t.test('a worker that is replaced takes no rate below zero, and its counters begin anew', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  const fleet = await startFleet(t, chatConfig(origin.address, OPEN))
  const address = await adminOf(fleet)
  const clients = await Promise.all(Array.from({ length: 20 }, () => fleet.open()))
  for (const client of clients) t.ok(await echoes(client, 'x'.repeat(5_000)))
  const seeing = events(t, address, 'pulse', (seen) => {
    const { workers, total } = seen.at(-1) ?? { workers: [], total: { open: 0 } }
    if (seen.length === 2) process.kill(workers[0]?.pid ?? 0, 'SIGKILL')
    return workers[0]?.restarts === 1 && workers[0].state === 'running' && total.open === workers[1]?.open
  })
  const seen = await seeing
  t.equal(seen[0]?.total.open, 20)
  for (const { total, services, backends } of seen) {
    for (const flow of [total, ...services.map((one) => one.flow), ...backends.map((one) => one.flow)]) {
      for (const [key, value] of Object.entries(flow)) t.ok(value >= 0, `${key}: ${value}`)
    }
  }
  t.match(seen[0]?.notable, { slowest: { length: 10 }, oldest: { length: 10 }, biggest: { length: 10 } })
})

t.test('a viewer that does not read is dropped, others go on; there are only so many', async (t) => {
  const origin = await startOrigin(t, { answer: echo })
  // Each of the events has about a megabyte.
  const more = Array.from(
    { length: 1_500 },
    (_, at) =>
      `  - { id: site-${at}, domains: [${at}.example], backends: [{ name: ${'b'.repeat(100)}, address: "127.0.0.1:1" }] }\n`,
  )
  const config = chatConfig(origin.address, '').replace(/\n*$/, `\n${more.join('')}${OPEN}`)
  const fleet = await startFleet(t, config)
  const address = await adminOf(fleet)
  const idle = await connectTo(t, address)
  idle.socket.pause()
  idle.write(`GET /events HTTP/1.1\r\nHost: ${address}\r\n\r\n`)
  let isOver = false
  void idle.all().then(() => {
    isOver = true
  })
  const seen = await events(t, address, 'pulse', ({ length }) => {
    // Only one that reads hears of the end: it reads when the edge must have given up.
    if (length === 10) idle.socket.resume()
    return isOver
  })
  t.ok(seen.length >= 10, `the other one has had ${seen.length}`)
  t.notOk(idle.text.endsWith('0\r\n\r\n'), 'it was cut off')

  const many = await Promise.all(Array.from({ length: 40 }, () => look(address)))
  t.teardown(() => many.map((one) => one.destroy()))
  const statuses = many.map(({ statusCode }) => statusCode)
  t.equal(statuses.filter((one) => one === 200).length, 32)
  t.equal(statuses.filter((one) => one === 503).length, 8)
})

t.test('of many the few with the highest rank, the highest first, the earlier of equals first', (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 0, max: 20 })),
      fc.integer({ min: 1, max: 12 }),
      (ranks, count) => {
        const items = ranks.map((rank, at) => ({ rank, at }))
        const top = topOf<(typeof items)[number]>(count, ({ rank }) => rank)
        for (const item of items) top.offer(item)
        const expected = items.toSorted((one, other) => other.rank - one.rank).slice(0, count)
        t.strictSame(top.items(), expected)
      },
    ),
  )
  t.end()
})

function account(backend: string, opened: number, more: Partial<Account> = {}): Account {
  const none = { ended: 0, refused: 0, clientToOrigin: 0, originToClient: 0 }
  return { service: 'chat', backend, opened, ...none, ...more }
}

function activity(process: string, life: string, at: number, accounts: readonly Account[]): Activity {
  const notable = { slowest: [], oldest: [], biggest: [] }
  return { process, life, at, accounts, eventLoop: { mean: 0, max: 0 }, refusals: [], notable }
}

t.test('rates are those of each worker since its own last look, and sums of backends and services', (t) => {
  const common = {
    status: { isDraining: false, workers: [], before: null },
    services: [
      { id: 'chat', domains: [], backends: ['a', 'b'], tunnels: 0, websockets: 'on', changedAt: null },
    ],
    backends: [],
    gates: [],
  } as const
  const before: Look = {
    ...common,
    activity: [
      activity('worker-0', 'x', 1_000, [account('a', 10, { clientToOrigin: 500 })]),
      activity('worker-1', 'y', 7_000, [account('a', 4)]),
    ],
  }
  const now: Look = {
    ...common,
    activity: [
      activity('worker-0', 'x', 3_000, [
        account('a', 16, { ended: 2, clientToOrigin: 2_500 }),
        account('b', 4, { refused: 1 }),
      ]),
      activity('worker-1', 'z', 100, [account('a', 3)]),
    ],
  }
  const { total, services } = pulseOf(1, now, before)
  const expected = { open: 21, opened: 5, ended: 1, refused: 0.5, clientToOrigin: 1_000, originToClient: 0 }
  t.strictSame(total, expected)
  t.strictSame(services[0]?.flow, expected)
  t.strictSame(pulseOf(1, now, null).total, {
    ...expected,
    opened: 0,
    ended: 0,
    refused: 0,
    clientToOrigin: 0,
  })
  t.end()
})
