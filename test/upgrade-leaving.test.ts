// A release that leaves: what it had accepted goes after its tunnels.

import t from 'tap'
import { chatConfig } from './support/control.ts'
import { upgradeRequest } from './support/origin.ts'
import { connectTo } from './support/peer.ts'
import { live, startPlayer, startReleases, talkers } from './support/releases.ts'

t.test(
  'who has connected, and says what it wants when the new release is in charge, moves as well',
  async (t) => {
    const origin = await startPlayer(t)
    const fleet = await startReleases(t, chatConfig(origin.address, 'workers: 1\ndrainTimeout: 15s\n'))
    const [silent, half] = [await connectTo(t, fleet.address), await connectTo(t, fleet.address)]
    const head = upgradeRequest()
    half.write(head.slice(0, 40))
    // Whoever comes behind them shows that they are in.
    const all = await talkers(t, fleet, 1)
    const upgrading = fleet.upgrade()
    await fleet.says('upgrade: in charge')
    silent.write(head)
    half.write(head.slice(40))
    for (const one of [silent, half]) t.match(await one.until('\r\n\r\n'), /^HTTP\/1\.1 101/)
    t.match(await fleet.says('upgrade: nothing is left here'), [{ moved: 3, stayed: 0 }])
    t.match(await upgrading, { moved: 1 })
    t.equal(await fleet.firstEnded, 0)
    for (const one of [silent, half]) {
      one.write('still here')
      await one.until('still here')
    }
    await live(t, all)
  },
)
