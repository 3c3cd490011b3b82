// The line that says that a tunnel was accepted, as pino writes it; standard output goes nowhere here.

import { createBackend } from '../../src/dial/backend.ts'
import { createLines } from '../../src/observe/lines.ts'
import { Tunnel } from '../../src/tunnel/tunnel.ts'
import { serviceOptions } from './decide.ts'
import type { Micro } from './micro.ts'
import { request } from './request.ts'

const [backend] = serviceOptions({ routes: [{ handoff: 'a' }] }).backends.map((one) => createBackend(one))
if (backend === undefined) throw new Error('no backend')

const tunnel = new Tunnel(
  {
    id: '01J0000000000000000000000',
    service: 'bench',
    listener: '127.0.0.1:8080',
    clientAddress: '192.0.2.7',
    originAddress: '198.51.100.1:9200',
    rule: null,
    isCounted: true,
    startedAt: Date.now(),
    phases: { accept: 1, tls: 0, head: 60, gate: 5, decide: 8, dial: 120, answer: 300 },
  },
  backend,
  () => {},
)

export const acceptLine: readonly Micro[] = [
  micro('as it is', []),
  micro('two request fields', ['user-agent', 'cookie']),
]

function micro(name: string, headers: readonly string[]): Micro {
  const lines = createLines({ level: 'info', headers, redact: [] })
  return {
    name: `accept line, ${name}`,
    run() {
      lines.accepted(tunnel, request, {})
    },
  }
}
