// The kernel engines below their contract: what comes only after years, or in the wrong moment.

import t, { type Test } from 'tap'
import { chooseEngine } from '../../src/engine/choose.ts'
import { createBpf } from '../../src/engine/linux/bpf.ts'
import { kernel } from '../../src/engine/linux/kernel.ts'
import { closeSockmap, openSockmap } from '../../src/engine/linux/maps.ts'
import { probeSockmap } from '../../src/engine/linux/probe.ts'
import { createRelay } from '../../src/engine/linux/relay.ts'
import type { Remains } from '../../src/engine/linux/relay-contract.ts'
import { useSockmap } from '../../src/engine/linux/sockmap.ts'
import { createTables, errorOfEnd, MODE_EPOLL, MODE_SOCKMAP } from '../../src/engine/linux/tables.ts'
import { CEILING, FIELDS } from '../../src/engine/linux/verdict.ts'
import { streamEngine } from '../../src/engine/stream.ts'
import {
  ENOBUFS,
  EPOLL_CLOEXEC,
  EPOLL_CTL_DEL,
  EPOLLIN,
  type Libc,
  libc,
  libcOrNull,
} from '../../src/linux/libc.ts'
import { loop } from '../../src/linux/loop.ts'
import { errorOf, sides, spliced, take } from '../support/splices.ts'

const noLibc =
  libcOrNull() === null && process.env.CI === undefined ? "bare descriptors can't be had here" : false
const noSockmap = process.platform === 'linux' ? (probeSockmap() ?? false) : 'it needs Linux'

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

function readable(fd: number): Promise<void> {
  return new Promise((resolve) => {
    const ready = () => {
      loop().unwatch(fd)
      resolve()
    }
    loop().watch(fd, { ready }, EPOLLIN)
  })
}

function aRelay(t: Test, calls: Libc) {
  const epoll = calls.epoll_create1(EPOLL_CLOEXEC)
  const tables = createTables(1)
  const ended: number[] = []
  const relay = createRelay(calls, epoll, tables, { woken() {}, ended: (slot) => void ended.push(slot) })
  const handle = openSockmap(1)
  const map = useSockmap(handle)
  relay.useSockmap(map)
  t.teardown(() => {
    map.close()
    closeSockmap(handle)
    calls.close(epoll)
  })
  return { epoll, tables, ended, relay, handle }
}

t.test(
  'bytes are lost while a tunnel stands still: it is reset when it goes on, and not touched before',
  { skip: noSockmap },
  async (t) => {
    const calls = libc()
    const { epoll, tables, ended, relay, handle } = aRelay(t, calls)
    const both = await sides(t, { engine: streamEngine, near: 'node' })
    const near = [both.client.near, both.origin.near].map((each) => each.detach()?.descriptor ?? -1)
    tables.descriptors.set(near)
    tables.generations[0] = 1
    tables.modes[0] = MODE_SOCKMAP
    relay.begin(0)
    t.equal(tables.modes[0], MODE_SOCKMAP)
    const { clientAhead, originAhead } = relay.freeze(0, 1) as Remains

    const bpf = createBpf(calls)
    const side = new Uint32Array(1)
    const line = new BigInt64Array(FIELDS)
    bpf.lookup(handle.states, side, line)
    line[CEILING] = 0n
    bpf.update(handle.states, side, line)
    both.client.far.write('lost')
    await readable(handle.ring)
    relay.turn()
    t.same([...tables.descriptors], near)
    t.same(ended, [])

    for (const fd of near) calls.epoll_ctl(epoll, EPOLL_CTL_DEL, fd, null)
    tables.generations[0] = 2
    tables.modes[0] = MODE_EPOLL
    relay.keep(0, null, clientAhead)
    relay.keep(1, null, originAhead)
    relay.begin(0)
    relay.turn()
    t.same(ended, [0])
    t.equal(errorOfEnd(tables.ends[0] as number), ENOBUFS)
    t.same(await Promise.all([errorOf(both.client.far), errorOf(both.origin.far)]), [
      'ECONNRESET',
      'ECONNRESET',
    ])
  },
)
