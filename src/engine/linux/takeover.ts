// The engines `epoll` and `sockmap`: the takeover of two established connections by the relay thread.
//
// Up to `detach` a connection is node's or the loop's, from then on the relay's, never both. In order come: what had been
// read and handed to us (early bytes), what had been read and told to nobody (unread), what the descriptor still has.
// Nothing that was written waits in the process when `detach` is asked for, so that the relay's first send comes after it.

import { loop } from '../../linux/loop.ts'
import { descriptorTransport } from '../../transport/descriptor.ts'
import type { Engine } from '../engine.ts'
import { streamEngine } from '../stream.ts'
import type { Kernel } from './kernel.ts'
import { kernel } from './kernel.ts'
import { probeSockmap } from './probe.ts'

/** Throws an Error that says in words why it can't run here. */
export function createEpollEngine(): Engine {
  return engineOf(kernel(), 'epoll')
}

/** The same, but that the kernel moves the bytes where it can. */
export function createSockmapEngine(): Engine {
  const trouble = probeSockmap()
  if (trouble !== null) throw new Error(trouble)
  const relay = kernel()
  relay.openSockmap()
  return engineOf(relay, 'sockmap')
}

function engineOf(relay: Kernel, name: 'epoll' | 'sockmap'): Engine {
  return {
    name,
    ready: relay.started,
    splice(client, origin, early, owner) {
      const carriesOn = client.isDetachable && origin.isDetachable && relay.hasRoom
      const ofClient = carriesOn ? client.detach() : null
      if (ofClient === null) return streamEngine.splice(client, origin, early, owner)
      const ofOrigin = origin.detach()
      if (ofOrigin !== null) return relay.begin(ofClient, ofOrigin, early, owner, name)
      // The last descriptor went to the other side: it carries on where it was.
      const back = descriptorTransport(loop(), ofClient.descriptor)
      const fromClient = [...early.fromClient, ...ofClient.unread]
      return streamEngine.splice(back, origin, { ...early, fromClient }, owner)
    },
  }
}
