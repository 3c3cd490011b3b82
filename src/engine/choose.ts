// Which engine moves the bytes: what was asked for, or the best that can run here.

import { HeadraceError } from '../errors.ts'
import type { Loop } from '../linux/loop.ts'
import { loop } from '../linux/loop.ts'
import type { Engine } from './engine.ts'
import { createEpollEngine, createSockmapEngine } from './linux/takeover.ts'
import { streamEngine } from './stream.ts'

export type EngineChoice = 'auto' | 'sockmap' | 'epoll' | 'stream'

export interface Chosen {
  readonly engine: Engine
  /** Where its descriptors are accepted and dialled; null if it works on node's sockets. */
  readonly loop: Loop | null
  /** Why it is this one, for the operator. */
  readonly reason: string
}

/** Throws engine-unavailable if the engine that was asked for can't run here. */
export function chooseEngine(choice: EngineChoice): Chosen {
  switch (choice) {
    case 'stream':
      return { engine: streamEngine, loop: null, reason: 'as configured' }
    case 'epoll':
      return { engine: created(choice, createEpollEngine), loop: loop(), reason: 'as configured' }
    case 'sockmap':
      return { engine: created(choice, createSockmapEngine), loop: loop(), reason: 'as configured' }
    case 'auto':
      return best()
  }
}

function best(): Chosen {
  try {
    return { engine: createEpollEngine(), loop: loop(), reason: 'the best that runs here without privileges' }
  } catch (error) {
    return { engine: streamEngine, loop: null, reason: `epoll can't run here: ${reasonOf(error)}` }
  }
}

function created(choice: EngineChoice, create: () => Engine): Engine {
  try {
    return create()
  } catch (error) {
    throw new HeadraceError('engine-unavailable', `${choice}: ${reasonOf(error)}`, error)
  }
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
