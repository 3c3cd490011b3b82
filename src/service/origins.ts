// From the name in a decision to backends: a backend's own, or those of a director in the order that is right for the request.

import type { Backend } from '../dial/backend.ts'
import type { Choice, Director, HashBy } from '../dial/director.ts'
import { choose, onlyChoice } from '../dial/director.ts'
import { HeadraceError } from '../errors.ts'
import type { RequestView } from '../handoff/request-view.ts'
import type { Service } from './service.ts'

/** Throws backend-unknown. */
export function choiceOf(service: Service, name: string, request: RequestView): Choice {
  const backend: Backend | undefined = service.backends.get(name)
  if (backend !== undefined) return onlyChoice(backend)
  const director: Director | undefined = service.directors.get(name)
  if (director !== undefined) return choose(director, keyOf(director, request))
  const known = [...service.backends.keys(), ...service.directors.keys()].join(', ')
  throw new HeadraceError(
    'backend-unknown',
    `${JSON.stringify(name)}; service ${service.options.id} has ${known}`,
  )
}

function keyOf({ options: { policy, hashBy } }: Director, request: RequestView): string | null {
  return policy === 'hash' ? partOf(hashBy, request) : null
}

/** Null for a request without it, and for a client on a Unix socket, which has no address. */
function partOf(by: HashBy, { client, headers, query }: RequestView): string | null {
  if (by.of === 'client') return client.address || null
  if (by.of === 'header') return headers.get(by.name)
  if (by.of === 'query') return query.get(by.name)
  return cookieOf(headers.getAll('cookie'), by.name)
}

/** RFC 6265 section 5.4: pairs with semicolons between them; names have a letter case. */
function cookieOf(fields: readonly string[], name: string): string | null {
  for (const pair of fields.flatMap((value) => value.split(';'))) {
    const mark = pair.indexOf('=')
    if (mark !== -1 && pair.slice(0, mark).trim() === name) return pair.slice(mark + 1).trim()
  }
  return null
}
