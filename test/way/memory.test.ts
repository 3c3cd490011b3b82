// Stalled readers: the tunnel stops reading, and its memory stays bounded.

import { fork } from 'node:child_process'
import { once } from 'node:events'
import t from 'tap'
import { startOrigin, switching, upgradeRequest } from '../support/origin.ts'
import { connectTo } from '../support/peer.ts'

const STALLED = 50
const BOUND_KIB = 512

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
  // A few tunnels first: what the process grows by once is not what a tunnel costs.
  for (let count = 0; count < 5; count += 1) {
    const warm = await connectTo(t, address)
    warm.write(upgradeRequest())
    await warm.until(8 * block.length)
    warm.socket.destroy()
  }
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
      new Promise<boolean>((resolve) => setTimeout(resolve, 500, false)),
    ])
    if (!isTaken) return
  }
}
