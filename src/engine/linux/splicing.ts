// A tunnel of a kernel engine, as the main thread has it: one object for each, in which it keeps what it has to know.

import { setTimeout } from 'node:timers'
import { errorName } from '../../linux/libc.ts'
import type { SpliceEnd, SpliceOwner, Splicing } from '../engine.ts'
import { howOf, STOP_TIMEOUT_MS } from '../engine.ts'
import type { Order, Rest } from './orders.ts'
import { errorOfEnd, wasReset, whoEnded } from './tables.ts'

/** What it asks of the kernel engines' main thread. */
export interface Orders {
  order(order: Order): void
  engineOf(slot: number): 'epoll' | 'sockmap'
  bytesFrom(side: number): number
}

/** A tunnel that no relay has: between two of them, in this process or another. */
export interface Carried extends Rest {
  /** Descriptors. */
  readonly client: number
  readonly origin: number
  /** See bits.ts. */
  readonly past: number
  /** Bytes taken from each side so far. */
  readonly clientToOrigin: number
  readonly originToClient: number
}

type Final = Pick<Splicing, 'clientToOrigin' | 'originToClient'> & { readonly engine: 'epoll' | 'sockmap' }

const WHO = ['client', 'origin', 'operator', 'edge'] as const

export class KernelSplicing implements Splicing {
  readonly kernel: Orders
  readonly owner: SpliceOwner
  readonly slot: number
  /** Another one each time that it begins. */
  generation: number
  /** Kept from the tables when it is over, since its slot goes to another. */
  final: Final | null = null
  /** Who takes an operator's order while no relay of this process has it; null: one has. */
  elsewhere: ((how: 'fin' | 'reset') => void) | null = null

  constructor(kernel: Orders, owner: SpliceOwner, slot: number, generation: number) {
    this.kernel = kernel
    this.owner = owner
    this.slot = slot
    this.generation = generation
  }

  get engine(): 'epoll' | 'sockmap' {
    return this.final?.engine ?? this.kernel.engineOf(this.slot)
  }

  get clientToOrigin(): number {
    return this.final?.clientToOrigin ?? this.kernel.bytesFrom(this.slot * 2)
  }

  get originToClient(): number {
    return this.final?.originToClient ?? this.kernel.bytesFrom(this.slot * 2 + 1)
  }

  stop(how: 'fin' | 'reset'): void {
    if (this.elsewhere !== null) return void this.elsewhere(how)
    if (this.final !== null) return
    const { slot, generation } = this
    if (how === 'reset') return void this.kernel.order({ kind: 'cut', slot, generation, isReset: true })
    this.kernel.order({ kind: 'finish', slot, generation })
    setTimeout(cut, STOP_TIMEOUT_MS, this).unref()
  }

  /** Its slot is to be another's. */
  conclude(): void {
    const { engine, clientToOrigin, originToClient } = this
    this.final = { engine, clientToOrigin, originToClient }
  }

  over(word: number): void {
    this.conclude()
    this.owner.spliceEnded(endOf(word))
  }
}

function cut({ kernel, slot, generation, final }: KernelSplicing): void {
  if (final === null) kernel.order({ kind: 'cut', slot, generation, isReset: false })
}

function endOf(word: number): SpliceEnd {
  const who = WHO[whoEnded(word)] ?? 'edge'
  const number = errorOfEnd(word)
  const error = number === 0 ? '' : errorName(number)
  if (who === 'operator') return { who, how: wasReset(word) ? 'reset' : 'fin', error }
  return { who, how: wasReset(word) ? howOf(error) : 'fin', error }
}
