// An upgrade that comes with instructions: whoever hands it over has decided about it already, with an origin of their own that
// no config names, and wants to hear what becomes of it.

import type { Backend } from '../dial/backend.ts'
import type { Engine } from '../engine/engine.ts'
import { failureOf } from '../handoff/handler.ts'
import type { RequestView } from '../handoff/request-view.ts'
import { upgradeFields } from '../head/handshake.ts'
import type { RequestHead } from '../head/head.ts'
import type { Referrer } from '../tunnel/set-up.ts'

export interface Referral extends Referrer {
  /**
   * The backend that gets the request, which may be changed meanwhile. The view begins with what the client sent, but for
   * the fields of this hop: nothing is added to it, and X-Forwarded-* are left alone. What it throws is a handler's failure.
   */
  decide(view: RequestView): Backend
  /** What moves the bytes: this engine, or what fits in its place. */
  splicing(engine: Engine): Engine['splice']
}

/** Where an upgrade goes, if that is decided already: the name of a backend or director, or by referral. */
export type Named = string | Referral

/** Throws what `decide` does: as it is if that has an answer of its own, as handler-failed if not. */
export function backendOf(referral: Referral, view: RequestView): Backend {
  try {
    return referral.decide(view)
  } catch (error) {
    throw failureOf(error)
  } finally {
    view.isDecided = true
  }
}

/** The head of a checked upgrade as it would go to an origin if nobody had a word to add. */
export function referredHead(head: RequestHead): RequestHead {
  return { ...head, version: '1.1', fields: upgradeFields(head.fields) }
}
