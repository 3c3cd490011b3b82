// `headrace demo`: an embedded origin, and the tunnel in front of it with the product switched on.

import { parseConfig } from '../config/parse.ts'
import { HeadraceError } from '../errors.ts'
import { start } from '../process/main.ts'
import { startDemoOrigin } from './demo-origin.ts'

const DEFAULT_PORT = 8080
/** How many ports after the default one are tried. */
const PORTS_TRIED = 20
/** An example key; every client must send one (RFC 6455 section 1.3). */
const KEY = 'dGhlIHNhbXBsZSBub25jZQ=='

export async function demo(port: number | undefined): Promise<number> {
  const origin = await startDemoOrigin()
  const { addresses, stopped } = await startAtFreePort(origin.address, port)
  const [address = ''] = addresses
  process.stdout.write(greeting(address, origin.address))
  await stopped
  await origin.close()
  return 0
}

async function startAtFreePort(origin: string, wanted: number | undefined) {
  const first = wanted ?? DEFAULT_PORT
  const last = wanted ?? DEFAULT_PORT + PORTS_TRIED
  for (let port = first; ; port += 1) {
    try {
      return await start(demoConfig(origin, port))
    } catch (error) {
      const isTaken = error instanceof HeadraceError && error.code === 'listen-failed'
      if (!isTaken || port >= last) throw error
    }
  }
}

function demoConfig(origin: string, port: number) {
  return parseConfig({
    listeners: [{ address: `127.0.0.1:${port}` }],
    services: [
      {
        id: 'demo',
        domains: ['*'],
        websockets: 'on',
        backends: [{ name: 'demo_origin', address: origin }],
        routes: [{ match: { upgrade: 'websocket' }, handoff: 'demo_origin' }, { send: 'demo_origin' }],
      },
    ],
    drainTimeout: 0,
    log: { level: 'warn' },
  })
}

function greeting(address: string, origin: string): string {
  return `headrace listens on ${address}, the demo origin on ${origin}

  open     http://${address}/          in two tabs, they chat through the tunnel
  or try   npx wscat -c ws://${address}/echo
  or see   curl -iN -m 2 -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' \\
             -H 'Sec-WebSocket-Key: ${KEY}' http://${address}/echo

Ctrl-C ends it
`
}
