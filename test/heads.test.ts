// The corpora in test/heads, on real sockets through a real tunnel: what the client sees, and what the origin received.
// test/heads/README.md tells how a case is written.

import { readFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import { startOrigin, switching, upgradeRequest } from './support/origin.ts'
import type { Peer } from './support/peer.ts'
import { connectTo } from './support/peer.ts'
import type { Wanted } from './support/tunnel.ts'
import { startTunnel } from './support/tunnel.ts'

interface Case {
  readonly name: string
  readonly bytes: string
  /** What is expected: the first word after the arrow, and the code of a refusal if there is one. */
  readonly verdict: string
  readonly code: string | undefined
  readonly has: readonly string[]
  readonly lacks: readonly string[]
  readonly isClosed: boolean
}

const MACROS: Readonly<Record<string, string>> = {
  upgrade: upgradeRequest().replace(/\r\n\r\n$/, ''),
  '101': switching(upgradeRequest()).replace(/\r\n\r\n$/, ''),
}

const WHOLE_SITE: Wanted = {
  service: {
    domains: ['chat.test'],
    routes: [{ match: { upgrade: 'websocket' }, handoff: 'origin' }, { send: 'origin' }],
  },
}

function casesOf(file: string): Case[] {
  const text = readFileSync(new URL(`../../test/heads/${file}`, import.meta.url), 'utf8')
  const form = /^### (.+)\n```\n([\s\S]*?)```\n→ (\S+)(?: ([a-z]+(?:-[a-z0-9]+)+))?(.*)$/gm
  const cases = [...text.matchAll(form)].map(([, name = '', block = '', verdict = '', code, rest = '']) => ({
    name,
    bytes: bytesOf(block),
    verdict,
    code,
    has: [...rest.matchAll(/has `([^`]+)`/g)].map(([, part = '']) => unescaped(part)),
    lacks: [...rest.matchAll(/lacks `([^`]+)`/g)].map(([, part = '']) => unescaped(part)),
    isClosed: / fin$/.test(rest),
  }))
  if (cases.length !== text.match(/^### /gm)?.length) throw new Error(`${file} has a case that is none`)
  return cases
}

function bytesOf(block: string): string {
  const lines = block.split('\n').slice(0, -1)
  const joined = lines.map((line) => (line.endsWith('\\') ? line.slice(0, -1) : `${line}\r\n`)).join('')
  const expanded = joined.replace(
    /<(upgrade|101)(?: without (\S+))?>/g,
    (_, macro: string, without?: string) => {
      const whole = MACROS[macro] ?? ''
      return without === undefined ? whole : whole.replace(new RegExp(`\r\n${without}: [^\r]*`), '')
    },
  )
  return unescaped(expanded)
}

function unescaped(text: string): string {
  const known: Readonly<Record<string, string>> = { '0': '\0', t: '\t', r: '\r', n: '\n' }
  return text.replace(/\\(?:x([0-9a-f]{2})|([0trn]))/g, (_, hex?: string, letter = '') =>
    hex === undefined ? (known[letter] ?? '') : String.fromCharCode(Number.parseInt(hex, 16)),
  )
}

interface Stand {
  readonly address: string
  /** Every head that the origin has received. */
  readonly heads: readonly string[]
  refused(): Promise<{ readonly code: string; readonly status: number | null }>
}

/** A tunnel before an origin that takes every request. */
async function startStand(t: Test): Promise<Stand> {
  const heads: string[] = []
  const origin = await startOrigin(t, {
    async answer(peer) {
      const head = await peer.until('\r\n\r\n').catch(() => null)
      if (head === null) return
      heads.push(head)
      if (/^Upgrade:/im.test(head)) peer.write(switching(head))
      else peer.end('HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n')
    },
  })
  return { ...(await startTunnel(t, origin.address, WHOLE_SITE)), heads }
}

async function isPassed(t: Test, { address, heads }: Stand, one: Case): Promise<void> {
  const before = heads.length
  const client = await connectTo(t, address)
  client.write(one.bytes)
  const answer = await client.until('\r\n\r\n')
  t.match(answer, one.verdict === 'handoff' ? /^HTTP\/1\.1 101 / : /^HTTP\/1\.1 200 /)
  t.equal(heads.length, before + 1, 'the origin has one request')
  const head = heads.at(-1) ?? ''
  for (const part of one.has) t.ok(head.includes(part), `the origin has ${JSON.stringify(part)}`)
  for (const part of one.lacks) t.notOk(head.includes(part), `the origin lacks ${JSON.stringify(part)}`)
}

type Refusal = Pick<Case, 'bytes' | 'verdict' | 'code'>

async function isRefused(t: Test, { address, heads, refused }: Stand, one: Refusal): Promise<void> {
  const before = heads.length
  const client = await connectTo(t, address)
  client.end(one.bytes)
  const answer = await client.all()
  t.ok(answer.startsWith(`HTTP/1.1 ${one.verdict} `), JSON.stringify(answer.slice(0, 80)))
  t.equal(heads.length, before, 'the origin has received nothing')
  if (!answer.startsWith(`HTTP/1.1 ${one.verdict} `)) return
  t.match(answer, /\r\nConnection: close\r\n/)
  t.match(answer, /\r\nX-Request-Id: \S+\r\n/)
  t.match(answer, /\r\nContent-Type: text\/plain/)
  t.equal(answer.match(/HTTP\/1\.1 /g)?.length, 1, 'one answer')
  if (one.verdict === '426') t.match(answer, /\r\nSec-WebSocket-Version: 13\r\n/)
  const event = await refused()
  if (one.code !== undefined) t.equal(event.code, one.code)
  t.equal(event.status, Number(one.verdict))
}

const REQUESTS = [
  'upgrades.md',
  'framing.md',
  'fields.md',
  'start-lines.md',
  'handshakes.md',
  'plain.md',
] as const

for (const file of REQUESTS) {
  t.test(file, async (t) => {
    const stand = await startStand(t)
    for (const one of casesOf(file)) {
      const isTaken = one.verdict === 'handoff' || one.verdict === 'plain'
      await t.test(one.name, (t) => (isTaken ? isPassed : isRefused)(t, stand, one))
    }
  })
}

/** RFC 9110 section 5.5, RFC 9112 section 3: what may stand nowhere in a head, but for CRLF at the end of a line. */
const CONTROLS = [...Array.from({ length: 32 }, (_, code) => code), 127]

t.test('each control character in a name, a value and the target is 400', async (t) => {
  const stand = await startStand(t)
  for (const code of CONTROLS) {
    const control = String.fromCharCode(code)
    const hex = `0x${code.toString(16).padStart(2, '0')}`
    const places = {
      name: upgradeRequest({ [`X-Na${control}me`]: '1' }),
      value: upgradeRequest({ 'X-Name': `a${control}b` }),
      target: upgradeRequest({}, `/ch${control}at`),
    }
    for (const [place, bytes] of Object.entries(places)) {
      // RFC 9110 section 5.5 lets the tab stand in values; upgrades.md has it.
      if (place === 'value' && control === '\t') continue
      await t.test(`${hex} in the ${place}`, (t) =>
        isRefused(t, stand, { bytes, verdict: '400', code: 'head-malformed' }),
      )
    }
  }
})

interface Play {
  readonly file: string
  readonly request: string
  readonly wanted: Wanted
  /** The code of the refusal where the case names none: on an upgrade everything but a right 101 is one. */
  readonly usual?: string
}

const UPGRADE = upgradeRequest({ 'Sec-WebSocket-Protocol': 'chat, superchat' })
const PLAYS: readonly Play[] = [
  { file: 'answers.md', request: UPGRADE, wanted: {}, usual: 'answer-wrong' },
  { file: 'relayed-answers.md', request: UPGRADE, wanted: {}, usual: 'answer-refused' },
  {
    file: 'plain-answers.md',
    request: 'GET /page HTTP/1.1\r\nHost: chat.test\r\nConnection: close\r\n\r\n',
    wanted: WHOLE_SITE,
  },
]

for (const { file, request, wanted, usual } of PLAYS) {
  t.test(file, async (whole) => {
    const unseen: Promise<void>[] = []
    for (const one of casesOf(file)) {
      await whole.test(one.name, async (t) => {
        // Its own, since a connection that the edge keeps for the next request would answer that one, too.
        const origins: Peer[] = []
        const origin = await startOrigin(whole, {
          async answer(peer) {
            origins.push(peer)
            await peer.until('\r\n\r\n').catch(() => null)
            peer.write(one.bytes)
            if (one.isClosed) peer.end()
          },
        })
        const { address, refused } = await startTunnel(whole, origin.address, wanted)
        const client = await connectTo(t, address)
        client.write(request)
        const isTunnel = one.has.some((part) => part.includes('101')) || one.verdict === '101'
        const answer = isTunnel ? await client.until(one.has.at(-1) ?? '\r\n\r\n') : await client.all()
        const isExpected = one.verdict === '*' || answer.startsWith(`HTTP/1.1 ${one.verdict} `)
        t.ok(isExpected, JSON.stringify(answer.slice(0, 80)))
        for (const part of one.has) t.ok(answer.includes(part), `the client has ${JSON.stringify(part)}`)
        for (const part of one.lacks) t.notOk(answer.includes(part), `it lacks ${JSON.stringify(part)}`)
        // Both its ends are over then.
        if (isTunnel) return void origins.at(-1)?.end()
        t.match(answer, /\r\nConnection: close\r\n/)
        client.end('GET /second HTTP/1.1\r\nHost: chat.test\r\n\r\n')
        await client.closed
        const code = one.code ?? usual
        if (code !== undefined && isExpected) t.equal((await refused()).code, code)
        unseen.push(seesNothingMore(whole, one, origins.at(-1)))
      })
    }
    // The edge keeps some of the connections for seconds: they are waited for together.
    await Promise.all(unseen)
  })
}

async function seesNothingMore(t: Test, { name, isClosed }: Case, origin: Peer | undefined): Promise<void> {
  if (origin !== undefined && !isClosed) await Promise.race([origin.closed, origin.ended])
  t.notOk(origin?.text.includes('/second'), `${name}: the origin never sees what the client sends next`)
}
