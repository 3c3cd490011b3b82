// The corpora in test/heads, on real sockets through a real tunnel: what the client sees, and what the origin received.

import { readFileSync } from 'node:fs'
import t from 'tap'
import { startOrigin, switching, upgradeRequest } from './support/origin.ts'
import type { Peer } from './support/peer.ts'
import { connectTo } from './support/peer.ts'
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

function casesOf(file: string): Case[] {
  const text = readFileSync(new URL(`../../test/heads/${file}`, import.meta.url), 'utf8')
  const form = /^### (.+)\n```\n([\s\S]*?)```\n→ (\S+)(?: ([a-z]+(?:-[a-z0-9]+)+))?(.*)$/gm
  return [...text.matchAll(form)].map(([, name = '', block = '', verdict = '', code, rest = '']) => ({
    name,
    bytes: bytesOf(block),
    verdict,
    code,
    has: [...rest.matchAll(/has `([^`]+)`/g)].map(([, part = '']) => unescaped(part)),
    lacks: [...rest.matchAll(/lacks `([^`]+)`/g)].map(([, part = '']) => unescaped(part)),
    isClosed: / fin$/.test(rest),
  }))
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

t.test('requests', async (t) => {
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
  const { address, refused } = await startTunnel(t, origin.address, {
    service: {
      domains: ['chat.test'],
      routes: [{ match: { upgrade: 'websocket' }, handoff: 'origin' }, { send: 'origin' }],
    },
  })
  const cases = casesOf('requests.md')
  t.ok(cases.length > 60, `${cases.length} cases`)
  for (const { name, bytes, verdict, code, has, lacks } of cases) {
    await t.test(name, async (t) => {
      const before = heads.length
      const client = await connectTo(t, address)
      client.write(bytes)
      if (verdict === 'handoff' || verdict === 'plain') {
        const answer = await client.until('\r\n\r\n')
        t.match(answer, verdict === 'handoff' ? /^HTTP\/1\.1 101 / : /^HTTP\/1\.1 200 /)
        t.equal(heads.length, before + 1, 'the origin has one request')
        const head = heads.at(-1) ?? ''
        for (const part of has) t.ok(head.includes(part), `the origin has ${JSON.stringify(part)}`)
        for (const part of lacks) t.notOk(head.includes(part), `the origin lacks ${JSON.stringify(part)}`)
        return
      }
      client.end()
      const answer = await client.all()
      t.ok(answer.startsWith(`HTTP/1.1 ${verdict} `), JSON.stringify(answer.slice(0, 80)))
      t.match(answer, /\r\nConnection: close\r\n/)
      t.match(answer, /\r\nX-Request-Id: \S+\r\n/)
      t.equal(answer.match(/HTTP\/1\.1 /g)?.length, 1, 'one answer')
      if (verdict === '426') t.match(answer, /\r\nSec-WebSocket-Version: 13\r\n/)
      const event = await refused()
      if (code !== undefined) t.equal(event.code, code)
      t.equal(event.status, Number(verdict))
      t.equal(heads.length, before, 'the origin has received nothing')
    })
  }
})

t.test('answers', async (t) => {
  let current: Case | null = null
  const origins: Peer[] = []
  const origin = await startOrigin(t, {
    async answer(peer) {
      origins.push(peer)
      await peer.until('\r\n\r\n').catch(() => null)
      if (current === null) return
      peer.write(current.bytes)
      if (current.isClosed) peer.end()
    },
  })
  const { address, refused } = await startTunnel(t, origin.address)
  const cases = casesOf('answers.md')
  t.ok(cases.length > 25, `${cases.length} cases`)
  for (const one of cases) {
    await t.test(one.name, async (t) => {
      current = one
      const client = await connectTo(t, address)
      client.write(upgradeRequest({ 'Sec-WebSocket-Protocol': 'chat, superchat' }))
      const isTunnel = one.verdict === '101' || one.verdict === '103'
      const answer = isTunnel ? await client.until(one.has.at(-1) ?? '\r\n\r\n') : await client.all()
      t.ok(answer.startsWith(`HTTP/1.1 ${one.verdict} `), JSON.stringify(answer.slice(0, 80)))
      for (const part of one.has) t.ok(answer.includes(part), `the client has ${JSON.stringify(part)}`)
      for (const part of one.lacks) t.notOk(answer.includes(part), `the client lacks ${JSON.stringify(part)}`)
      if (isTunnel) return
      t.match(answer, /\r\nConnection: close\r\n/)
      client.write('GET /second HTTP/1.1\r\nHost: chat.test\r\n\r\n')
      client.end()
      await client.closed
      const event = await refused()
      t.equal(event.code, one.code ?? 'answer-refused')
      const peer = origins.at(-1)
      if (peer !== undefined && !one.isClosed) await Promise.race([peer.closed, peer.ended])
      t.notOk(peer?.text.includes('/second'), 'the origin never sees what the client sends next')
    })
  }
})
