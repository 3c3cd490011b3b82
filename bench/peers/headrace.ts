// Headrace as users run it: the published build, through its library, one process.

import { PRODUCT } from '../places.ts'
import { HEADRACE_ENGINE } from './engine.ts'
import { serveNodePeer } from './node-peer.ts'

type Library = typeof import('../../src/index.ts')

serveNodePeer(async ({ origin, tls }) => {
  const { createTunnel } = (await import(PRODUCT.href)) as Library
  const tunnel = createTunnel({
    services: [
      { id: 'bench', domains: ['*'], websockets: 'on', backends: [{ name: 'origin', address: origin }] },
    ],
    engine: HEADRACE_ENGINE,
    log: { level: 'silent' },
  })
  const { addresses } = await tunnel.listen([{ address: '127.0.0.1:0', ...(tls === null ? {} : { tls }) }])
  return addresses[0] ?? ''
})
