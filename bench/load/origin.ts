// An origin as a process.

import { answerCalls } from '../process.ts'
import type { OriginState } from './answering.ts'
import { Answering } from './answering.ts'
import { listenDescriptor } from './descriptor.ts'
import { ownLoop } from './loop.ts'
import { listenSocket } from './socket.ts'
import type { Wire } from './wire.ts'

const HOST = '127.0.0.1'
const state: OriginState = { open: 0, failure: null }
const accepted = (wire: Wire) => new Answering(wire, state)

const calls = {
  /**
   * One port more, for one proxy alone; resolves with the address. Linux looks for a free port among every second one of
   * 28,000 first: above 14,000 connections to the same port a connect would take longer and longer.
   */
  async listen(): Promise<string> {
    const loop = ownLoop()
    const port = loop === null ? await listenSocket(HOST, accepted) : listenDescriptor(loop, HOST, accepted)
    return `${HOST}:${port}`
  },

  /** How many connections are open. Throws what has gone wrong on any of them so far. */
  open(): number {
    if (state.failure !== null) throw new Error(state.failure)
    return state.open
  },
}

export type OriginCalls = typeof calls
answerCalls(calls)
