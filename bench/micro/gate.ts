// The gate of a typical service: allow and deny by address, a field condition, allowed origins, a rate, caps.

import { parseConfig } from '../../src/config/parse.ts'
import type { Claims } from '../../src/gate/claims.ts'
import { createGate } from '../../src/gate/gate.ts'
import { createLedger } from '../../src/gate/ledger.ts'
import type { Micro } from './micro.ts'
import { client, request } from './request.ts'

const { edge } = parseConfig({
  services: [
    {
      id: 'bench',
      domains: ['*'],
      backends: [{ name: 'a', address: '127.0.0.1:9' }],
      gate: {
        rules: [
          { name: 'blocked', from: ['198.51.100.0/24', '203.0.113.0/24'], action: 'deny' },
          { name: 'office', from: ['10.0.0.0/8', '2001:db8::/32'], action: 'allow' },
          { name: 'no-bots', headers: { 'User-Agent': '*bot*' }, path: '/chat/*', action: 'deny' },
        ],
        origins: ['https://chat.example.com', 'https://*.example.com'],
        rates: [{ name: 'per-client', per: 'client', limit: 1e9, window: '10s' }],
        maxConnections: 20_000,
        maxConnectionsPerClient: 50,
        expectedConnections: 5_000,
      },
    },
  ],
})
const [options] = edge.services
if (options?.gate === undefined) throw new Error('no gate')
const gate = createGate('bench', options.gate)
const ledger = createLedger({ redis: undefined, onCrossing: () => {}, onTrouble: () => {} })

function check(): Claims {
  const { claims } = gate.check('1', client.address, request, () => {})
  if (claims === null) throw new Error('nothing is claimed')
  return claims
}

const claims = check()

export const gates: readonly Micro[] = [
  { name: 'gate, check', run: () => void check() },
  {
    name: 'gate, take and give seats',
    run() {
      ledger.take({ ...claims, rates: [] })
      ledger.give(claims.id)
    },
  },
  {
    name: 'gate, take and give with a rate',
    async run() {
      await ledger.take(claims)
      ledger.give(claims.id)
    },
  },
]
