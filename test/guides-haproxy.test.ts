// "Coming from HAProxy": its config and ours, as they stand on the page. What the page calls the same is compared, and what it calls
// different is seen to differ.

import type { Test } from 'tap'
import t from 'tap'
import {
  checkIdle,
  checkStrictness,
  client,
  expectedVisits,
  halfClosed,
  open,
  startPlayed,
  startSites,
  told,
  visits,
} from './support/compared.ts'
import { ask } from './support/control.ts'
import { readPage } from './support/page.ts'
import type { Changes, Front } from './support/proxies.ts'
import { HOST, startHaproxy, startOurs } from './support/proxies.ts'
import type { Asked } from './support/site.ts'
import { refusal, valuesOf, visit } from './support/site.ts'
import { skipWithout } from './support/tools.ts'

const { 'haproxy.cfg': haproxy = '', 'headrace.yaml': config = '' } = readPage(
  'docs/coming-from-haproxy.md',
).files

/** Resolves when the metrics have such a line. */
async function measured({ metrics }: Front, line: RegExp): Promise<void> {
  while (!line.test((await ask(metrics, '/metrics')).text))
    await new Promise((resolve) => setTimeout(resolve, 20))
}

/** A client that keeps the cookie of its first answer: where it was, and whether its WebSockets come there, too. */
async function newcomer(t: Test, { address }: Front) {
  const first = await ask(address, '/chat/hello', { headers: { Host: HOST } })
  const [cookie = '', ...more] = (first.headers['set-cookie'] ?? []).map((one) => one.replace(/;.*/, ''))
  const headers = { host: HOST, cookie: `mine=1; ${cookie}` }
  const again = async () => (await visit(t, address, '/chat/1', { ...client(address), headers })).asked
  const { site: home } = JSON.parse(first.text) as Asked
  const later = [await again(), await again()]
  return {
    home,
    again,
    seen: {
      cookie: [cookie, ...more].map((one) => one.replace(/=.*/, '')),
      isAtHome: later.every(({ site }) => site === home),
      told: later.map((asked) => valuesOf(asked, 'Cookie')),
    },
  }
}

t.test('coming from HAProxy', { skip: skipWithout('haproxy') }, async (t) => {
  /** All that clients of the page's site see, until the checks of an origin fail. */
  async function seenAt<One extends Front>(
    start: (changes: Changes) => Promise<One>,
    down: (front: One, backend: string) => Promise<unknown>,
  ): Promise<Record<string, unknown>> {
    const origins = await startSites(t)
    const front = await start(origins.ports)
    const { address, behind } = front
    const seen = await visits(t, front, '/chat/1?x=1')
    const header = client(behind, { first: 'PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n' })
    const { asked } = await visit(t, behind, '/chat/1?x=1', header)
    const { home, again, ...one } = await newcomer(t, front)
    const others = [await newcomer(t, front), await newcomer(t, front), await newcomer(t, front)]
    const often = client(address, { localAddress: '127.0.0.9' })
    const answers: string[] = []
    for (let count = 0; count < 21; count++) answers.push(await refusal(t, address, '/chat/1?x=1', often))
    ;(home === 'a' ? origins.a : origins.b).health = 503
    await down(front, home)
    const isMoved = (await again()).site !== home
    const clients = [one, ...others].map(({ seen }) => seen)
    return { seen, behind: told(asked), clients, answers, isMoved }
  }

  await t.test('what is the same', async (t) => {
    const ours = await seenAt(
      (changes) => startOurs(t, config, { ...changes, 'interval: 2s': 'interval: 50ms' }),
      async (front, backend) => {
        await front.fleet.says('backend unhealthy', 2)
        await measured(front, new RegExp(`^headrace_backend_healthy{.*backend="${backend}".*} 0$`, 'm'))
      },
    )
    const theirs = await seenAt(
      (changes) => startHaproxy(t, haproxy, { ...changes, 'inter 2s': 'inter 50ms' }),
      (front, backend) =>
        measured(
          front,
          new RegExp(`^haproxy_server_status{proxy="chat",server="${backend}",state="DOWN"} 1$`, 'm'),
        ),
    )
    t.match(ours, {
      seen: expectedVisits('/chat/1?x=1'),
      behind: { fields: { 'X-Forwarded-For': ['192.0.2.7'] } },
      clients: Array.from({ length: 4 }, () => ({
        cookie: ['server'],
        isAtHome: true,
        told: [['mine=1'], ['mine=1']],
      })),
      answers: [...Array.from({ length: 20 }, () => ''), 'Unexpected server response: 429'],
      isMoved: true,
    })
    t.strictSame(ours, theirs)
  })

  await t.test('what is different, and FIN, which is not', async (t) => {
    const origin = await startPlayed(t)
    const ours = await startOurs(t, config, origin.ports)
    const theirs = await startHaproxy(t, haproxy, origin.ports)
    await checkStrictness(t, ours, theirs, origin)
    await checkIdle(
      t,
      ours,
      await startHaproxy(t, haproxy, { ...origin.ports, 'tunnel 1h': 'tunnel 1s' }),
      origin,
    )
    for (const front of [ours, theirs]) t.equal(await halfClosed(t, front, origin), 'late')

    const fields = { 'X-Forwarded-For': '192.0.2.1' }
    const { head } = await open(t, ours, origin, fields)
    t.match(head, /^Sec-WebSocket-Key: /m)
    t.strictSame(head.match(/^x-forwarded-for: .*/gim), ['X-Forwarded-For: 127.0.0.1'])
    const { head: changed } = await open(t, theirs, origin, fields)
    t.match(changed, /^sec-websocket-key: /m)
    t.strictSame(changed.match(/^x-forwarded-for: .*/gim), [
      'x-forwarded-for: 192.0.2.1',
      'x-forwarded-for: 127.0.0.1',
    ])
  })

  await t.test('if nobody accepts it is a 502, and not a 503', async (t) => {
    for (const [start, status] of [
      [(changes: Changes) => startOurs(t, config, changes), 502],
      [(changes: Changes) => startHaproxy(t, haproxy, changes), 503],
    ] as const) {
      const { ports, a, b } = await startSites(t)
      const { address } = await start(ports)
      await Promise.all([a.stop(), b.stop()])
      t.match(await refusal(t, address, '/chat/1?x=1', client(address)), `response: ${status}`)
    }
  })
})
