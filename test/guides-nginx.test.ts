// "Coming from nginx": its config and ours, as they stand on the page. What the page calls the same is compared, and what it calls
// different is seen to differ.

import type { Test } from 'tap'
import t from 'tap'
import {
  ask101,
  checkIdle,
  checkStrictness,
  client,
  expectedVisits,
  halfClosed,
  open,
  startPlayed,
  startSites,
  visits,
} from './support/compared.ts'
import { readPage } from './support/page.ts'
import type { Changes, Front } from './support/proxies.ts'
import { HOST, startNginx, startOurs } from './support/proxies.ts'
import { refusal, visit } from './support/site.ts'
import { skipWithout } from './support/tools.ts'

const { 'sites.conf': sites = '', 'headrace.yaml': config = '' } = readPage('docs/coming-from-nginx.md').files

t.test('coming from nginx', { skip: skipWithout('nginx') }, async (t) => {
  /** All that clients of the page's site see, while its origins leave one after the other. */
  async function seenAt(start: (changes: Changes) => Promise<Front>): Promise<Record<string, unknown>> {
    const origins = await startSites(t)
    const front = await start(origins.ports)
    const { address } = front
    const path = '/chat/1?x=%7e'
    const seen = await visits(t, front, path)
    const elsewhere = await refusal(t, address, '/elsewhere', client(address))
    const siteOf = async () => (await visit(t, address, path, client(address))).asked.site
    const chosen = new Set(await Promise.all(Array.from({ length: 16 }, siteOf)))
    const [only] = chosen
    await (only === 'a' ? origins.a : origins.b).stop()
    const isOther = (await siteOf()) !== only
    await Promise.all([origins.a.stop(), origins.b.stop()])
    const last = await refusal(t, address, path, client(address))
    return { seen, elsewhere, chosen: chosen.size, isOther, last }
  }

  await t.test('what is the same', async (t) => {
    const ours = await seenAt((changes) => startOurs(t, config, changes))
    const theirs = await seenAt((changes) => startNginx(t, sites, changes))
    const refused = (status: number) => `Unexpected server response: ${status}`
    t.match(ours, {
      seen: expectedVisits('/chat/1?x=%7e'),
      elsewhere: refused(200),
      chosen: 1,
      isOther: true,
      last: refused(502),
    })
    t.strictSame(ours, theirs)
  })

  await t.test('what is different', async (t: Test) => {
    const origin = await startPlayed(t)
    const ours = await startOurs(t, config, origin.ports)
    const theirs = await startNginx(t, sites, origin.ports)
    await checkStrictness(t, ours, theirs, origin)
    await checkIdle(
      t,
      ours,
      await startNginx(t, sites, { ...origin.ports, '_timeout 1h': '_timeout 1s' }),
      origin,
    )
    t.equal(await halfClosed(t, ours, origin), 'late')
    t.equal(await halfClosed(t, theirs, origin), '')

    const fields = { Host: `${HOST}:8080`, X_Room: 'red', 'X-Forwarded-For': '192.0.2.1' }
    const { head } = await open(t, ours, origin, fields)
    t.match(head, /^Host: chat\.example\.com:8080\r$/m)
    t.match(head, /^X_Room: red\r$/m)
    t.match(head, /^X-Forwarded-For: 127\.0\.0\.1\r$/m)
    t.match(head, /^X-Forwarded-Host: /m)
    const { head: changed } = await open(t, theirs, origin, fields)
    t.match(changed, /^Host: chat\.example\.com\r$/m)
    t.notMatch(changed, /X_Room/)
    t.match(changed, /^X-Forwarded-For: 192\.0\.2\.1, 127\.0\.0\.1\r$/m)

    const other = { Host: 'other.example.com' }
    t.match(await (await ask101(t, ours, other)).all(), /^HTTP\/1\.1 421 /)
    t.match(
      (await open(t, theirs, origin, other)).answer,
      /^HTTP\/1\.1 101 /,
      'its first block takes any name',
    )
  })
})
