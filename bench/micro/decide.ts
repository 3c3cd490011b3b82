// The decision: the view is made, routes or a handler decide, header rules are applied.

import { parseConfig } from '../../src/config/parse.ts'
import type { ConfigInput } from '../../src/config/schema.ts'
import { createLedger } from '../../src/gate/ledger.ts'
import { handoff } from '../../src/handoff/decision.ts'
import { rule } from '../../src/service/rule.ts'
import type { Service, ServiceOptions } from '../../src/service/service.ts'
import { createServices } from '../../src/service/service.ts'
import type { Micro } from './micro.ts'
import { client, request } from './request.ts'

const { signal } = new AbortController()
const ledger = createLedger({ redis: undefined, onCrossing() {}, onTrouble() {} })
const asked = { client, head: request, host: 'chat.example.com', isUpgrade: true }

export const decisions: readonly Micro[] = [
  decision('third of three routes, header rules', {
    headers: { set: { 'X-Proxied': '1' }, remove: ['X-Debug'] },
    routes: [
      { match: { upgrade: 'websocket', path: '/rooms/:id/ws' }, handoff: 'a' },
      { match: { method: 'POST' }, send: 'a' },
      { match: { upgrade: 'websocket', path: '/chat/*' }, handoff: 'b' },
    ],
  }),
  decision('handler', { handler: (view) => handoff(view, 'b') }),
]

function decision(name: string, service: Partial<ConfigInput['services'][number]>): Micro {
  const compiled = serviceOf(service)
  return {
    name: `decide, ${name}`,
    async run() {
      await rule(compiled, asked, { signal, log: {} })
    },
  }
}

function serviceOf(service: Partial<ConfigInput['services'][number]>): Service {
  const [compiled] = createServices([serviceOptions(service)], { ledger, newId: () => '' })
  if (compiled === undefined) throw new Error('no service')
  return compiled
}

/** A service with two backends, as the config makes it. */
export function serviceOptions(service: Partial<ConfigInput['services'][number]>): ServiceOptions {
  const backends = ['a', 'b'].map((name) => ({ name, address: '127.0.0.1:9' }))
  const { edge } = parseConfig({
    services: [{ id: 'bench', domains: ['*'], websockets: 'on', backends, ...service }],
  })
  const [options] = edge.services
  if (options === undefined) throw new Error('no service')
  return options
}
