// Stalled readers: the tunnel stops reading, and its memory stays bounded.

import { fork } from 'node:child_process'
import { once } from 'node:events'
import t from 'tap'
import { startOrigin, switching, upgradeRequest } from '../support/origin.ts'
import { connectTo } from '../support/peer.ts'

const STALLED = 50
const BOUND_KIB = 512
/** A sender from whom nothing was taken for so long is stalled. */
const STALL_MS = 1_500

t.test(`${STALLED} stalled readers under pushing senders cost at most ${BOUND_KIB} KiB each`, async (t) => {
  const block = Buffer.alloc(1024 * 1024)
  const blocked: Promise<void>[] = []
  const origin = await startOrigin(t, {
    async answer(peer) {
      peer.write(switching(await peer.until('\r\n\r\n')))
      blocked.push(push(peer.socket, block))
    },
  })
  const child = fork(new URL('../support/tunnel-process.js', import.meta.url), [origin.address], {
    execArgv: ['--expose-gc'],
  })
  t.teardown(() => child.kill())
  const [address] = (await once(child, 'message')) as [string]
  const rss = async () => {
    child.send('rss')
    const [bytes] = (await once(child, 'message')) as [number]
    return bytes / 1024
  }
  // As many tunnels first whose readers do read: what a process grows by once, its buffers that wait for the garbage
  // collector for example, is not what a stalled tunnel costs.
  const warm = await Promise.all(Array.from({ length: STALLED }, () => connectTo(t, address)))
  await Promise.all(
    warm.map(async (client) => {
      client.write(upgradeRequest())
      await client.until(2 * block.length)
      client.socket.destroy()
    }),
  )
  const before = await rss()
  blocked.length = 0
  for (let count = 0; count < STALLED; count += 1) {
    const client = await connectTo(t, address)
    client.write(upgradeRequest())
    await client.until('\r\n\r\n')
    client.socket.pause()
  }
  await Promise.all(blocked)
  const grown = ((await rss()) - before) / STALLED
  t.ok(grown < BOUND_KIB, `${grown.toFixed(0)} KiB for each`)
})

/** Writes as long as anything is taken; resolves when nothing was for a while. */
async function push(socket: import('node:net').Socket, block: Buffer): Promise<void> {
  for (;;) {
    if (socket.destroyed) return
    if (socket.write(block)) continue
    const isTaken = await Promise.race([
      once(socket, 'drain').then(
        () => true,
        () => false,
      ),
      new Promise<boolean>((resolve) => setTimeout(resolve, STALL_MS, false)),
    ])
    if (!isTaken) return
  }
}
