// Which engine moves the bytes: what was asked for, or the best that can run here.

import { HeadraceError } from '../errors.ts'
import type { Engine } from './engine.ts'
import { createEpollEngine } from './linux/epoll.ts'
import { streamEngine } from './stream.ts'

export type EngineChoice = 'auto' | 'sockmap' | 'epoll' | 'stream'

export interface Chosen {
  readonly engine: Engine
  /** Why it is this one, for the operator. */
  readonly reason: string
}

/** Throws engine-unavailable if the engine that was asked for can't run here. */
export function chooseEngine(choice: EngineChoice): Chosen {
  switch (choice) {
    case 'stream':
      return { engine: streamEngine, reason: 'as configured' }
    case 'epoll':
      return { engine: created(choice, createEpollEngine), reason: 'as configured' }
    case 'sockmap':
      throw new HeadraceError('engine-unavailable', 'sockmap')
    case 'auto':
      return best()
  }
}

function best(): Chosen {
  try {
    return { engine: createEpollEngine(), reason: 'the best that runs here without privileges' }
  } catch (error) {
    return { engine: streamEngine, reason: `epoll can't run here: ${reasonOf(error)}` }
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
