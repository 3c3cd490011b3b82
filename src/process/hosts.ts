// What counts across workers lives in the primary: ledgers that workers take from and give back to, by asks. Whatever a
// worker holds is given back when it dies.

import { HeadraceError } from '../errors.ts'

/** One thing that is counted for all workers. Requests and answers are JSON. */
export interface Hosted {
  /** `holder` is one life of one worker: it is never used again after `release`. */
  ask(holder: string, request: unknown): unknown
  /** The holder has died: gives back all that it holds. */
  release(holder: string): void
}

export type HostedByName = Readonly<Record<string, Hosted>>

export interface Hosts {
  /** Throws what the hosted one throws, or internal. */
  ask(holder: string, name: string, request: unknown): Promise<unknown>
  release(holder: string): void
}

export function createHosts(hosted: HostedByName): Hosts {
  return {
    async ask(holder, name, request) {
      const one = Object.hasOwn(hosted, name) ? hosted[name] : undefined
      if (one === undefined) throw new HeadraceError('internal', `nothing named ${name} is hosted`)
      return await one.ask(holder, request)
    },
    release(holder) {
      for (const one of Object.values(hosted)) one.release(holder)
    },
  }
}
