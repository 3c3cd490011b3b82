// Headrace as users run it: the published build, through its library, one process.

import { PRODUCT } from '../places.ts'
import { serveNodePeer } from './node-peer.ts'

type Library = typeof import('../../src/index.ts')
type Engine = Parameters<Library['createTunnel']>[0]['engine']

serveNodePeer(async ({ origin, tls, engine }) => {
  const { createTunnel } = (await import(PRODUCT.href)) as Library
  const tunnel = createTunnel({
    services: [
      { id: 'bench', domains: ['*'], websockets: 'on', backends: [{ name: 'origin', address: origin }] },
    ],
    engine: (engine ?? 'auto') as Engine,
    log: { level: 'silent' },
  })
  const { addresses } = await tunnel.listen([{ address: '127.0.0.1:0', ...(tls === null ? {} : { tls }) }])
  return addresses[0] ?? ''
})
