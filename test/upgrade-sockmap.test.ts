// Live upgrade of tunnels whose bytes the kernel moves: it gives them back first.

import t from 'tap'
import { probeSockmap } from '../src/engine/linux/probe.ts'
import { upgradeInTurn } from './support/crowd.ts'

const reason = process.platform === 'linux' ? probeSockmap() : 'it needs Linux'
const skip = reason === null ? false : `the engine sockmap can't run here: ${reason}`

t.test(
  'three upgrades and three reloads in turn, with the engine sockmap: none is dropped, no byte is wrong',
  { timeout: 300_000, skip },
  (t) => upgradeInTurn(t, 'sockmap', 200),
)
