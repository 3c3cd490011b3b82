// A tunnel in a process of its own: node tunnel-process.js ORIGIN. Says its address, and its memory when asked.

import { createTunnel } from '../../src/index.ts'

const [, , origin = ''] = process.argv
const tunnel = createTunnel({
  services: [
    { id: 'chat', domains: ['*'], websockets: 'on', backends: [{ name: 'origin', address: origin }] },
  ],
})
process.on('message', () => {
  ;(globalThis as { gc?: () => void }).gc?.()
  process.send?.(process.memoryUsage.rss())
})
process.on('disconnect', () => process.exit())
const { addresses } = await tunnel.listen([{ address: '127.0.0.1:0' }])
process.send?.(addresses[0])
