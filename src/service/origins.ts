// From the name in a decision to backends: a backend's own, or those of a director in the order that is right for the request.

import type { Backend } from '../dial/backend.ts'
import type { Choice, Director, HashBy } from '../dial/director.ts'
import { choose, onlyChoice } from '../dial/director.ts'
import { HeadraceError } from '../errors.ts'
import type { RequestView } from '../handoff/request-view.ts'
import { cookieValues } from '../head/cookies.ts'
import type { Service } from './service.ts'
import type { Sent } from './sticky.ts'
import { keptBackend, stickyTo } from './sticky.ts'

/** `request`: what routes or code have made of what was `sent`. Throws backend-unknown. */
export function choiceOf(service: Service, name: string, request: RequestView, sent: Sent): Choice {
  const backend: Backend | undefined = service.backends.get(name)
  if (backend !== undefined) return onlyChoice(backend)
  const director: Director | undefined = service.directors.get(name)
  if (director !== undefined) return chosen(director, request, sent)
  const known = [...service.backends.keys(), ...service.directors.keys()].join(', ')
  throw new HeadraceError(
    'backend-unknown',
    `${JSON.stringify(name)}; service ${service.options.id} has ${known}`,
  )
}

function chosen(director: Director, request: RequestView, sent: Sent): Choice {
  const { sticky } = director.options
  const key = keyOf(director, request)
  if (sticky === undefined) return choose(director, key)
  const kept = keptBackend(director, sticky, sent)
  return { ...choose(director, key, kept), sticky: stickyTo(sticky, kept, sent) }
}

function keyOf({ options: { policy, hashBy } }: Director, request: RequestView): string | null {
  return policy === 'hash' ? partOf(hashBy, request) : null
}

/** Null for a request without it, and for a client on a Unix socket, which has no address. */
function partOf(by: HashBy, { client, headers, query }: RequestView): string | null {
  if (by.of === 'client') return client.address || null
  if (by.of === 'header') return headers.get(by.name)
  if (by.of === 'query') return query.get(by.name)
  return cookieValues(headers.fields, by.name)[0] ?? null
}
