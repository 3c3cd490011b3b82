// What the main thread tells the relay, but for new tunnels, which it registers itself: rare things, as messages that the
// relay takes when its eventfd wakes it.

import type { SockmapHandle } from './maps.ts'
import type { Ahead } from './redirect.ts'

export type Order =
  /** From now on tunnels may be given to the kernel. */
  | { readonly kind: 'sockmap'; readonly handle: SockmapHandle }
  /** Of a tunnel that is about to begin. */
  | ({ readonly kind: 'keep'; readonly slot: number; readonly generation: number } & Rest)
  /** FIN to both sides, after what is kept for them. */
  | { readonly kind: 'finish'; readonly slot: number; readonly generation: number }
  /** Closed now. */
  | { readonly kind: 'cut'; readonly slot: number; readonly generation: number; readonly isReset: boolean }
  /** Back to main, as they are. The answer is Frozen, also to an order of none: then all before it has been done. */
  | { readonly kind: 'freeze'; readonly slots: readonly number[]; readonly generations: readonly number[] }

/** The relay's answer, over the same channel. */
export interface Frozen {
  /** When the first of them stopped, see monotonic.ts. */
  readonly at: number
  /** Those of the order that are main's now, by slot. */
  readonly tunnels: ReadonlyMap<number, Rest>
  /** Those whose turn has not come, since of the others there is enough to carry, or bytes are in the kernel: they go on. */
  readonly later: readonly number[]
}

/** What the tables don't have of a tunnel that no relay has. */
export interface Rest {
  /** Bytes that were taken and not sent yet, by the side that they are for. */
  readonly toClient: Uint8Array<ArrayBuffer> | null
  readonly toOrigin: Uint8Array<ArrayBuffer> | null
  /** See redirect.ts. */
  readonly clientAhead: Ahead
  readonly originAhead: Ahead
}
