// The kernel engines below their contract: what comes only after years, or in the wrong moment.

import t from 'tap'
import { chooseEngine } from '../../src/engine/choose.ts'
import { kernel } from '../../src/engine/linux/kernel.ts'
import { libcOrNull } from '../../src/linux/libc.ts'
import { spliced, take } from '../support/splices.ts'

const noLibc =
  libcOrNull() === null && process.env.CI === undefined ? "bare descriptors can't be had here" : false

t.test(
  'a slot whose tunnels were counted around carries the next one as well',
  { skip: noLibc, timeout: 20_000 },
  async (t) => {
    const { engine } = chooseEngine('epoll')
    kernel().tables.generations.fill(-1)
    const { client, origin, ended } = await spliced(t, { engine, near: 'node' })
    client.write('up')
    t.equal((await take(origin, 2)).toString(), 'up')
    origin.end()
    client.end()
    t.match(await ended, { how: 'fin' })
  },
)
